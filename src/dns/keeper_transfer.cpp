// The keeper's dealings with other servers: refresh of secondaries, NOTIFY both ways, catalogs.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <map>

#include "base/clock.hpp"
#include "base/digest.hpp"
#include "base/id.hpp"
#include "base/log.hpp"
#include "dns/keeper.hpp"

namespace wherry::dns {

namespace {

constexpr int notify_attempts = 6;
constexpr std::int64_t least_refresh_ms = 2'000;
constexpr std::int64_t most_refresh_ms = 14LL * 86400 * 1000;
constexpr std::int64_t first_retry_ms = 2'000;

struct SoaTimes {
    std::int64_t refresh_ms = 0;
    std::int64_t retry_ms = 0;
    std::int64_t expire_ms = 0;
};

SoaTimes times_of(const Zone& zone) {
    auto soa = zone.records(zone.apex(), Type::SOA);
    if (!soa) return {3'600'000, 600'000, 86'400'000};
    std::span<const std::uint8_t> rdata = *soa->begin();
    const std::uint8_t* times = rdata.data() + rdata.size() - 16;
    auto limited = [](std::uint32_t seconds) {
        return std::clamp<std::int64_t>(std::int64_t{seconds} * 1000, least_refresh_ms, most_refresh_ms);
    };
    return {limited(load_u32(times)), limited(load_u32(times + 4)), std::int64_t{load_u32(times + 8)} * 1000};
}

Result<Bytes> make_notify(const Name& origin, std::uint32_t serial, const std::shared_ptr<const Zone>& zone,
                          const std::shared_ptr<const TsigKey>& key, Bytes& mac) {
    (void)serial;
    std::array<std::byte, 2> random{};
    fill_random(random);
    Bytes message(2048);
    MessageWriter writer(message);
    Header header{.id = static_cast<std::uint16_t>(std::to_integer<unsigned>(random[0]) << 8U |
                                                   std::to_integer<unsigned>(random[1])),
                  .opcode = Opcode::notify,
                  .authoritative = true,
                  .questions = 1};
    bool fits = writer.write_header(header) && writer.write_question({origin, Type::SOA, Class::IN});
    if (auto soa = zone ? zone->records(zone->apex(), Type::SOA) : std::nullopt) {
        fits = fits && writer.write_record(origin, Type::SOA, Class::IN, soa->ttl(), *soa->begin());
        header.answers = 1;
    }
    if (!fits) return fail(Code::internal, "a notification that does not fit");
    writer.patch_header(header);
    std::size_t size = writer.size();
    if (key) size = tsig_sign({.key = *key, .now = static_cast<std::uint64_t>(::time(nullptr))}, message, size, &mac);
    message.resize(size);
    return message;
}

}  // namespace

void Keeper::notify(const Managed& zone) {
    for (const Remote& remote : zone.config.notify) notify_one(zone.config.origin, remote, zone.zone->serial(), 0);
}

void Keeper::notify_one(const Name& origin, const Remote& remote, std::uint32_t serial, int attempt) {
    Managed* zone = find(origin);
    // A newer version has its own notification.
    if (zone == nullptr || !zone->zone || zone->zone->serial() != serial || !jobs_) return;
    Bytes mac;
    auto message = make_notify(origin, serial, zone->zone, key_for(remote), mac);
    if (!message) return;
    counters_.notifies_out.fetch_add(1);
    jobs_->submit([this, origin, remote, serial, attempt, message = std::move(*message)] {
        auto answered = exchange_udp(remote.address, message, 2'000);
        const bool good = answered.has_value();
        loop_->post([this, origin, remote, serial, attempt, good] {
            if (good) {
                log_debug("notify.answered", {{"zone", origin.to_text()}, {"by", remote.address.to_text()}});
                return;
            }
            if (attempt + 1 >= notify_attempts) {
                log_warn("notify.unanswered", {{"zone", origin.to_text()}, {"by", remote.address.to_text()}});
                return;
            }
            loop_->after(std::int64_t{1000} << attempt,
                         [this, origin, remote, serial, attempt] { notify_one(origin, remote, serial, attempt + 1); });
        });
    });
}

void Keeper::handle_notify(const ControlRequest& request) {
    counters_.notifies_in.fetch_add(1);
    auto reader = MessageReader::open(request.packet);
    auto question = reader ? reader->read_question() : Result<Question>(fail(Code::invalid_argument, ""));
    if (!question) return answer(request, Rcode::FORMERR);
    Managed* zone = find(question->name);
    if (zone == nullptr || !zone->config.is_secondary()) return answer(request, Rcode::NOTAUTH);
    // From a primary (with its key, where it has one), or from whom the configuration names.
    auto client = socket_address_bytes(request.reply.peer);
    const Name* key = request.key ? &request.key->name : nullptr;
    bool allowed = zone->config.access.notify.allows(client, key);
    for (const Remote& primary : zone->config.primaries) {
        const bool same = std::ranges::equal(socket_address_bytes(primary.address.storage), client);
        allowed = allowed || (same && (!primary.key || (key != nullptr && *key == *primary.key)));
    }
    if (!allowed) {
        log_info("notify.refused", {{"zone", question->name.to_text()}});
        return answer(request, Rcode::REFUSED);
    }
    answer(request, Rcode::NOERROR);
    const Header header = reader->header();
    if (header.answers > 0 && zone->zone) {
        auto record = reader->read_record();
        if (record && record->type == Type::SOA)
            if (auto soa = rdata_from_message(*reader, *record);
                soa && !serial_newer(soa_serial(*soa), zone->zone->serial()))
                return;
    }
    refresh(*zone);
}

void Keeper::schedule_refresh(Managed& zone, std::int64_t milliseconds) {
    const std::uint64_t timer = ++zone.timer;
    // A tenth of jitter, so that many zones do not ask at once.
    std::array<std::byte, 1> random{};
    fill_random(random);
    milliseconds -= milliseconds / 10 * std::to_integer<std::int64_t>(random[0]) / 255;
    loop_->after(milliseconds, [this, origin = zone.config.origin, generation = zone.generation, timer] {
        Managed* due = find(origin);
        if (due != nullptr && due->generation == generation && due->timer == timer) refresh(*due);
    });
}

void Keeper::refresh(Managed& zone) {
    if (zone.fetching) {
        zone.fetch_again = true;
        return;
    }
    if (zone.config.primaries.empty() || !jobs_) return;
    if (zone.zone && zone.expires_ns != 0 && monotonic_ns() > zone.expires_ns) {
        log_warn("zone.expired", {{"zone", zone.config.origin.to_text()}});
        zone.zone = nullptr;
        zone.history = nullptr;
        publish();
    }
    zone.fetching = true;
    const Remote& primary = zone.config.primaries[zone.next_primary % zone.config.primaries.size()];
    FetchOptions options{.origin = zone.config.origin,
                         .primary = primary.address,
                         .key = key_for(primary),
                         .current = zone.zone,
                         .cancel_fd = jobs_->cancel_fd()};
    jobs_->submit([this, options, generation = zone.generation] {
        auto result = std::make_shared<Result<TransferResult>>(fetch_zone(options));
        loop_->post(
            [this, origin = options.origin, generation, result] { fetched(origin, generation, std::move(*result)); });
    });
}

void Keeper::set_expiry(Managed& zone) {
    zone.expires_ns = monotonic_ns() + times_of(*zone.zone).expire_ms * 1'000'000;
}

void Keeper::fetched(const Name& origin, std::uint64_t generation, Result<TransferResult> result) {
    Managed* zone = find(origin);
    if (zone == nullptr || zone->generation != generation) return;
    zone->fetching = false;
    Result<> done;
    if (!result) {
        done = std::unexpected(std::move(result).error());
    } else if (!result->up_to_date) {
        const bool incremental = !result->diffs.empty();
        done = install(*zone, std::move(result->zone), std::move(result->diffs));
        if (done) {
            counters_.transfers_in.fetch_add(1);
            log_info("zone.transfer", {{"zone", origin.to_text()},
                                       {"serial", zone->zone->serial()},
                                       {"records", zone->zone->record_count()},
                                       {"kind", incremental ? "IXFR" : "AXFR"}});
            if (zone->config.catalog == CatalogRole::consumer) follow_catalog(*zone);
            publish();
        }
    }
    if (!done) {
        counters_.transfers_failed.fetch_add(1);
        log_warn("zone.transfer_failed", {{"zone", origin.to_text()}, {"error", done.error()}});
        ++zone->next_primary;
        const bool tried_all = zone->next_primary % zone->config.primaries.size() == 0;
        schedule_refresh(*zone, !tried_all ? 0 : zone->zone ? times_of(*zone->zone).retry_ms : first_retry_ms);
    } else {
        set_expiry(*zone);
        if (zone->journal) (void)::utimensat(AT_FDCWD, state_path(*zone, ".zone").c_str(), nullptr, 0);
        schedule_refresh(*zone, times_of(*zone->zone).refresh_ms);
    }
    if (std::exchange(zone->fetch_again, false)) refresh(*zone);
}

void Keeper::forget_state(Managed& zone) {
    if (config_.state.empty()) return;
    zone.journal.reset();
    (void)::unlink(state_path(zone, ".zone").c_str());
    (void)::unlink(state_path(zone, ".journal").c_str());
}

// RFC 9432: version 2, members as PTR records at <id>.zones.
void Keeper::follow_catalog(Managed& catalog) {
    const Zone& zone = *catalog.zone;
    const Name origin = catalog.config.origin;
    auto under = [&](std::string_view prefix) { return Name::parse(prefix, &origin); };
    auto version = under("version");
    auto members_at = under("zones");
    if (!version || !members_at) return;
    bool known = false;
    if (NodeIndex node = zone.find(*version); node != no_node)
        if (auto set = zone.records(node, Type::TXT); set && set->size() == 1)
            known = std::ranges::equal(*set->begin(), std::array<std::uint8_t, 2>{1, '2'});
    if (!known) {
        log_error("catalog.unknown_version", {{"zone", origin.to_text()}});
        return;
    }
    std::map<std::string, std::pair<Name, std::string>> wanted;  // by name: it and its id
    for (NodeIndex i = 0; i < zone.node_count(); ++i) {
        if (zone.set_count(i) == 0) continue;
        Name owner = zone.name_of(i);
        if (owner.is_root() || !(owner.parent() == *members_at)) continue;
        auto set = zone.records(i, Type::PTR);
        // Section 4.1: several PTR records at one id are a broken entry.
        if (!set || set->size() != 1) continue;
        Name member = rdata_name(*set->begin());
        if (!wanted.emplace(key_of(member), std::pair(member, owner.lower().to_text())).second)
            log_warn("catalog.duplicate_member", {{"zone", origin.to_text()}, {"member", member.to_text()}});
    }
    for (auto it = zones_.begin(); it != zones_.end();) {
        Managed& zone_there = *it->second;
        if (zone_there.catalog && *zone_there.catalog == origin) {
            auto still = wanted.find(it->first);
            // A changed id resets the member (section 5.4).
            if (still == wanted.end() || still->second.second != zone_there.catalog_id) {
                log_info("catalog.member_removed", {{"zone", origin.to_text()}, {"member", it->first}});
                forget_state(zone_there);
                it = zones_.erase(it);
                continue;
            }
            zone_there.config = *catalog.config.members;
            zone_there.config.origin = still->second.first;
        }
        ++it;
    }
    for (auto& [name, entry] : wanted) {
        if (zones_.contains(name)) {
            Managed& there = *zones_.at(name);
            if (!there.catalog || !(*there.catalog == origin))
                log_warn("catalog.member_exists", {{"zone", origin.to_text()}, {"member", name}});
            continue;
        }
        auto member = std::make_unique<Managed>();
        member->config = *catalog.config.members;
        member->config.origin = entry.first;
        member->access = std::make_shared<const ZoneAccess>(member->config.access);
        member->catalog = origin;
        member->catalog_id = entry.second;
        member->generation = next_generation_++;
        if (auto loaded = load_state(*member); !loaded)
            log_warn("zone.state_unreadable", {{"zone", name}, {"error", loaded.error()}});
        log_info("catalog.member_added", {{"zone", origin.to_text()}, {"member", name}});
        schedule_refresh(*member, 0);
        zones_[name] = std::move(member);
    }
    publish_pending_ = true;
}

// A catalog of our own zones, for others to follow.
Result<> Keeper::make_catalog(Managed& catalog) {
    const Name origin = catalog.config.origin;
    auto build = [&](std::uint32_t serial) -> Result<std::shared_ptr<const Zone>> {
        ZoneBuilder builder(origin);
        std::string text = "@ SOA invalid. invalid. " + std::to_string(serial) +
                           " 60 30 2147483646 0\n@ NS invalid.\nversion TXT \"2\"\n";
        for (const ZoneConfig& member : config_.zones)
            if (member.member_of && *member.member_of == origin)
                text +=
                    sha256_hex(key_of(member.origin)).substr(0, 32) + ".zones PTR " + member.origin.to_text() + "\n";
        TRY(parse_master_text(text, "catalog", {.origin = origin, .default_ttl = 0},
                              [&](const ParsedRecord& r) { return builder.add(r.owner, r.type, r.ttl, r.rdata); }));
        return std::move(builder).finish();
    };
    const auto now = static_cast<std::uint32_t>(::time(nullptr));
    auto next = TRY(build(catalog.zone ? catalog.zone->serial() : now));
    if (catalog.zone) {
        if (!diff_zones(*catalog.zone, *next).changes_records()) return {};
        next = TRY(build(std::max(catalog.zone->serial() + 1, now)));
    }
    return install(catalog, std::move(next), {});
}

}  // namespace wherry::dns
