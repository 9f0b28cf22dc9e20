#include "dns/keeper.hpp"

#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <set>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "dns/tls.hpp"
#include "dns/update.hpp"

namespace wherry::dns {

namespace {

constexpr std::size_t history_bytes = 64U << 20U;
constexpr std::size_t most_waiting = 10'000;

// What tells one content of a file from another without reading it.
std::string identity_of(const std::string& path) {
    struct stat info{};
    if (::stat(path.c_str(), &info) < 0) return {};
    return std::to_string(info.st_ino) + ":" + std::to_string(info.st_size) + ":" +
           std::to_string(info.st_mtim.tv_sec) + "." + std::to_string(info.st_mtim.tv_nsec);
}

}  // namespace

Keeper::Keeper(Config config, std::string config_path)
    : config_(std::move(config)), config_path_(std::move(config_path)) {}

Keeper::~Keeper() {
    jobs_.reset();
}

Result<std::unique_ptr<Keeper>> Keeper::create(Config config, std::string config_path) {
    std::unique_ptr<Keeper> keeper(new Keeper(std::move(config), std::move(config_path)));
    keeper->loop_ = TRY(ControlLoop::create());
    return keeper;
}

Keeper::Managed* Keeper::find(const Name& origin) {
    auto found = zones_.find(key_of(origin));
    return found == zones_.end() ? nullptr : found->second.get();
}

std::string Keeper::path(const std::string& configured) const {
    if (!chrooted_ || !configured.starts_with(config_.chroot)) return configured;
    std::string inside = configured.substr(config_.chroot.size());
    return inside.starts_with('/') ? inside : "/" + inside;
}

std::string Keeper::state_path(const Managed& zone, std::string_view suffix) const {
    // Names may hold any byte: what is not a plain one is written as %XX.
    std::string file;
    for (char c : key_of(zone.config.origin)) {
        const bool plain =
            (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || (c == '.' && !file.empty());
        if (plain) {
            file += c;
        } else {
            constexpr std::string_view digits = "0123456789ABCDEF";
            file += '%';
            file += digits[static_cast<unsigned char>(c) >> 4U];
            file += digits[static_cast<unsigned char>(c) & 15U];
        }
    }
    // A name is up to 1004 characters as text, a file's name 255: the rest of a long one is its hash.
    if (file.size() > 200) file = file.substr(0, 180) + "~" + std::to_string(zone.config.origin.hash());
    return path(config_.state) + "/" + file + std::string(suffix);
}

std::shared_ptr<const TsigKey> Keeper::key_for(const Remote& remote) const {
    return remote.key ? config_.keys->find(*remote.key) : nullptr;
}

Result<> Keeper::load() {
    jobs_ = std::make_unique<JobPool>(4);
    Config config = std::move(config_);
    TRY(apply_config(std::move(config), true));
    loop_->after(600'000, [this] { tend_keys(); });
    return {};
}

Result<> Keeper::apply_config(Config config, bool first) {
    Zones kept;
    std::vector<std::string> failures;
    config_ = std::move(config);
    for (const ZoneConfig& wanted : config_.zones) {
        const std::string name = key_of(wanted.origin);
        std::unique_ptr<Managed> zone;
        if (auto old = zones_.find(name); old != zones_.end() && !old->second->catalog &&
                                          old->second->config.is_secondary() == wanted.is_secondary() &&
                                          old->second->config.catalog == wanted.catalog)
            zone = std::move(old->second);
        const bool fresh = zone == nullptr;
        if (fresh) {
            zone = std::make_unique<Managed>();
            zone->generation = next_generation_++;
        }
        zone->config = wanted;
        zone->access = std::make_shared<const ZoneAccess>(wanted.access);
        Managed* added = zone.get();
        kept[name] = std::move(zone);
        Result<> loaded;
        if (fresh) loaded = load_state(*added);
        if (loaded && !wanted.is_secondary() && wanted.catalog != CatalogRole::producer)
            loaded = load_zone_file(*added);
        if (loaded) {
            auto signer = make_signer(*added);
            if (signer)
                added->signer = std::move(*signer);
            else
                loaded = std::unexpected(std::move(signer).error());
        }
        if (!loaded) {
            if (first) return std::unexpected(std::move(loaded).error().context("zone " + wanted.origin.to_text()));
            log_error("zone.load_failed", {{"zone", wanted.origin.to_text()}, {"error", loaded.error()}});
            counters_.reload_failures.fetch_add(1);
        }
    }
    // Members of catalogs stay as long as their catalog does.
    for (auto& [name, zone] : zones_)
        if (zone && zone->catalog && kept.contains(key_of(*zone->catalog)) && !kept.contains(name))
            kept[name] = std::move(zone);
    zones_ = std::move(kept);
    for (const ZoneConfig& wanted : config_.zones) {
        Managed* zone = find(wanted.origin);
        if (wanted.catalog == CatalogRole::producer) TRY(make_catalog(*zone));
        if (wanted.catalog == CatalogRole::consumer && zone->zone) follow_catalog(*zone);
    }
    publish();
    for (auto& [name, zone] : zones_)
        if (zone->config.is_secondary()) schedule_refresh(*zone, 0);
    return {};
}

Result<> Keeper::load_zone_file(Managed& zone) {
    const std::string file = path(zone.config.file);
    std::string identity = identity_of(file);
    if (zone.zone && !identity.empty() && identity == zone.file_identity) return {};
    auto loaded = load_zone(zone.config.origin, file);
    if (!loaded) return std::unexpected(std::move(loaded).error());
    zone.file_identity = std::move(identity);
    auto next = std::move(*loaded);
    if (!zone.zone) {
        zone.zone = next;
        if (zone.journal) {
            // Updates that came after the file was written.
            ZoneEditor editor(next);
            std::size_t applied = 0;
            for (const auto& diff : zone.journal->diffs()) {
                if (diff->from != editor.serial()) continue;
                TRY(editor.apply(*diff), "journal");
                zone.history = ZoneHistory::extend(zone.history, diff, history_bytes);
                ++applied;
            }
            if (applied > 0) {
                zone.zone = TRY(std::move(editor).finish(), "journal");
                // A file that was put there later than the journal, and is newer, is what counts.
                if (serial_newer(next->serial(), zone.zone->serial())) zone.zone = next;
            } else if (!zone.journal->diffs().empty()) {
                if (!serial_newer(next->serial(), zone.journal->diffs().back()->to))
                    return fail(Code::conflict,
                                "the journal does not continue the zone's file: raise the file's serial "
                                "above the journal's to drop it");
                log_warn("zone.journal_dropped", {{"zone", zone.config.origin.to_text()}});
                TRY(zone.journal->clear());
            }
        }
        log_info("zone.load", {{"zone", zone.config.origin.to_text()},
                               {"serial", zone.zone->serial()},
                               {"records", zone.zone->record_count()}});
        to_notify_.push_back(zone.config.origin);
        return {};
    }
    if (zone.config.is_dynamic() && !serial_newer(next->serial(), zone.zone->serial())) {
        log_warn("zone.file_ignored", {{"zone", zone.config.origin.to_text()},
                                       {"reason", "its serial is not above that of the updated zone"},
                                       {"serial", next->serial()},
                                       {"served_serial", zone.zone->serial()}});
        return {};
    }
    log_info("zone.load",
             {{"zone", zone.config.origin.to_text()}, {"serial", next->serial()}, {"records", next->record_count()}});
    auto diff = std::make_shared<const ZoneDiff>(diff_zones(*zone.zone, *next));
    if (!serial_newer(diff->to, diff->from)) {
        if (diff->changes_records())
            log_warn("zone.serial_not_raised", {{"zone", zone.config.origin.to_text()}, {"serial", next->serial()}});
        zone.history = nullptr;
        zone.zone = std::move(next);
        return {};
    }
    return install(zone, std::move(next), {diff});
}

// What earlier runs left: the journal, and of secondaries the zone itself.
Result<> Keeper::load_state(Managed& zone) {
    if (config_.state.empty() || (!zone.config.is_secondary() && !zone.config.is_dynamic())) return {};
    zone.journal = TRY(Journal::open(state_path(zone, ".journal")));
    if (!zone.config.is_secondary()) return {};
    const std::string file = state_path(zone, ".zone");
    struct stat info{};
    if (::stat(file.c_str(), &info) < 0) return zone.journal->clear();
    auto loaded = load_zone(zone.config.origin, file);
    if (!loaded) {
        log_warn("zone.state_unreadable", {{"zone", zone.config.origin.to_text()}, {"error", loaded.error()}});
        return zone.journal->clear();
    }
    zone.zone = std::move(*loaded);
    if (!zone.journal->diffs().empty()) {
        ZoneEditor editor(zone.zone);
        for (const auto& diff : zone.journal->diffs()) {
            if (diff->from != editor.serial()) continue;
            TRY(editor.apply(*diff), "journal");
            zone.history = ZoneHistory::extend(zone.history, diff, history_bytes);
        }
        zone.zone = TRY(std::move(editor).finish(), "journal");
    }
    log_info("zone.load", {{"zone", zone.config.origin.to_text()},
                           {"serial", zone.zone->serial()},
                           {"records", zone.zone->record_count()}});
    // The file's time is when the primary was last heard of.
    set_expiry(zone);
    const std::int64_t age = std::max<std::int64_t>(0, ::time(nullptr) - info.st_mtim.tv_sec);
    zone.expires_ns -= age * 1'000'000'000;
    if (zone.expires_ns < monotonic_ns()) zone.zone = nullptr;
    return {};
}

Result<std::shared_ptr<const ZoneSigner>> Keeper::make_signer(const Managed& zone) {
    if (!zone.config.signing) return std::shared_ptr<const ZoneSigner>();
    if (zone.zone && zone.zone->is_signed())
        return fail(Code::invalid_argument, "the zone is signed already: it cannot be signed again");
    if (!signer_) return fail(Code::internal, "no signer");
    return signer_->zone(zone.config.origin, *zone.config.signing, zone.signer);
}

Result<> Keeper::persist(Managed& zone, const std::vector<std::shared_ptr<const ZoneDiff>>& diffs) {
    if (!zone.journal) return {};
    const bool secondary = zone.config.is_secondary();
    // Without differences (AXFR), or with too many of them, the whole zone is written. A primary's file is its owner's:
    // its journal only grows.
    if (secondary &&
        (diffs.empty() || zone.journal->bytes() > std::max<std::size_t>(zone.zone->data_bytes(), 1U << 20U))) {
        TRY(write_zone_file(*zone.zone, state_path(zone, ".zone")));
        return zone.journal->clear();
    }
    for (const auto& diff : diffs) TRY(zone.journal->append(diff));
    return {};
}

Result<> Keeper::install(Managed& zone, std::shared_ptr<const Zone> next,
                         std::vector<std::shared_ptr<const ZoneDiff>> diffs) {
    std::shared_ptr<const Zone> before = std::exchange(zone.zone, std::move(next));
    if (auto kept = persist(zone, diffs); !kept) {
        zone.zone = std::move(before);
        return kept;
    }
    if (diffs.empty() && before && before->serial() != zone.zone->serial())
        diffs.push_back(std::make_shared<const ZoneDiff>(diff_zones(*before, *zone.zone)));
    for (auto& diff : diffs) zone.history = ZoneHistory::extend(zone.history, std::move(diff), history_bytes);
    // Others are told once the server has it.
    to_notify_.push_back(zone.config.origin);
    publish_pending_ = true;
    return {};
}

// Keys come and go with time.
void Keeper::tend_keys() {
    bool changed = false;
    for (auto& [name, zone] : zones_) {
        if (!zone->config.signing) continue;
        auto signer = make_signer(*zone);
        if (!signer) {
            log_error("zone.keys_failed", {{"zone", name}, {"error", signer.error()}});
            continue;
        }
        changed = changed || *signer != zone->signer;
        zone->signer = std::move(*signer);
    }
    if (changed) publish();
    loop_->after(600'000, [this] { tend_keys(); });
}

void Keeper::publish() {
    publish_pending_ = false;
    std::vector<ServedZone> served;
    served.reserve(zones_.size());
    for (auto& [name, zone] : zones_)
        served.push_back({.origin = zone->config.origin,
                          .zone = zone->zone,
                          .history = zone->history,
                          .access = zone->access,
                          .signer = zone->signer,
                          .policy = policies_ && zone->zone ? policies_(*zone->zone) : nullptr});
    auto set = ZoneSet::create(std::move(served), config_.keys);
    if (set) server_->set_zones(std::move(*set));
    for (const Name& origin : std::exchange(to_notify_, {}))
        if (Managed* zone = find(origin); zone != nullptr && zone->zone) notify(*zone);
}

void Keeper::republish() {
    loop_->post([this] { publish(); });
}

void Keeper::reload() {
    Config config;
    if (config_path_.empty()) {
        config = config_;
    } else {
        auto loaded = load_config(path(config_path_));
        if (!loaded) {
            log_error("server.reload_failed", {{"error", loaded.error()}});
            counters_.reload_failures.fetch_add(1);
            return;
        }
        config = std::move(*loaded);
        if (on_reload_)
            if (auto taken = on_reload_(config); !taken) {
                log_error("server.reload_failed", {{"error", taken.error()}});
                counters_.reload_failures.fetch_add(1);
                return;
            }
        config.chroot = config_.chroot;
        config.state = config_.state;
        config.server = config_.server;
    }
    if (config.server.tls && !config.tls_certificate.empty())
        if (auto tls = config.server.tls->reload(path(config.tls_certificate), path(config.tls_key)); !tls)
            log_error("server.tls_reload_failed", {{"error", tls.error()}});
    const std::optional<LogLevel> log_level = config.log_level;
    if (auto applied = apply_config(std::move(config), false); !applied) {
        log_error("server.reload_failed", {{"error", applied.error()}});
        counters_.reload_failures.fetch_add(1);
        return;
    }
    if (log_level) set_log_level(*log_level);
    counters_.reloads.fetch_add(1);
    log_info("server.reloaded", {{"zones", zones_.size()}});
}

void Keeper::run(int signal_fd) {
    loop_->run(signal_fd, [&] {
        signalfd_siginfo info{};
        if (::read(signal_fd, &info, sizeof info) != sizeof info) return;
        if (info.ssi_signo == SIGHUP)
            reload();
        else
            loop_->stop();
    });
    jobs_.reset();
}

bool Keeper::submit(ControlRequest request) {
    auto shared = std::make_shared<ControlRequest>(std::move(request));
    return loop_->post([this, shared] { handle(std::move(*shared)); }, most_waiting);
}

void Keeper::answer(const ControlRequest& request, Rcode rcode) {
    Bytes message(max_message_bytes);
    std::size_t size = Responder::answer_plainly(request.packet, rcode, {request.key, request.mac},
                                                 static_cast<std::uint64_t>(::time(nullptr)), message);
    server_->reply(request.reply, std::span(message).first(size));
}

void Keeper::handle(ControlRequest request) {
    if (request.action == Action::notify) {
        handle_notify(request);
        return;
    }
    // Updates that wait together are applied together: one new zone, one write to disk.
    updates_.push_back(std::move(request));
    if (updates_.size() == 1) loop_->post([this] { handle_updates(); });
}

void Keeper::handle_updates() {
    std::vector<ControlRequest> requests = std::exchange(updates_, {});
    std::map<std::string, std::vector<ControlRequest>> by_zone;
    for (ControlRequest& request : requests) {
        auto reader = MessageReader::open(request.packet);
        auto question = reader ? reader->read_question() : Result<Question>(fail(Code::invalid_argument, ""));
        if (!question || question->type != Type::SOA) {
            answer(request, Rcode::FORMERR);
            continue;
        }
        Managed* zone = question->dns_class == Class::IN ? find(question->name) : nullptr;
        if (zone == nullptr) {
            answer(request, Rcode::NOTAUTH);
            continue;
        }
        if (!zone->config.access.update.allows(socket_address_bytes(request.reply.peer),
                                               request.key ? &request.key->name : nullptr)) {
            log_info("update.refused", {{"zone", zone->config.origin.to_text()}});
            answer(request, Rcode::REFUSED);
            continue;
        }
        if (zone->config.is_secondary() || !zone->zone || !zone->journal) {
            answer(request, zone->zone ? Rcode::NOTIMP : Rcode::SERVFAIL);
            continue;
        }
        by_zone[key_of(zone->config.origin)].push_back(std::move(request));
    }
    for (auto& [name, batch] : by_zone) update_zone(*zones_.at(name), batch);
}

void Keeper::update_zone(Managed& zone, const std::vector<ControlRequest>& requests) {
    std::vector<Rcode> rcodes;
    ZoneEditor editor(zone.zone);
    for (const ControlRequest& request : requests) {
        const std::uint32_t serial = editor.serial();
        Rcode rcode = apply_update(editor, request.packet);
        (void)serial;
        rcodes.push_back(rcode);
    }
    ZoneDiff diff = editor.diff();
    Result<> done;
    if (diff.changes_records() || diff.from != diff.to) {
        if (diff.from == diff.to) editor.set_serial(diff.from + 1 == 0 ? 1 : diff.from + 1);
        diff = editor.diff();
        auto next = std::move(editor).finish();
        if (next)
            done = install(zone, std::move(*next), {std::make_shared<const ZoneDiff>(std::move(diff))});
        else
            done = std::unexpected(std::move(next).error());
    }
    if (!done && requests.size() > 1) {
        // One of them does not fit: each is tried alone.
        for (const ControlRequest& request : requests) update_zone(zone, {request});
        return;
    }
    if (!done) log_error("update.failed", {{"zone", zone.config.origin.to_text()}, {"error", done.error()}});
    // Whoever hears of success can ask for it.
    if (publish_pending_) publish();
    for (std::size_t i = 0; i < requests.size(); ++i) {
        counters_.updates.fetch_add(1);
        const bool invalid = !done && done.error().code() == Code::invalid_argument;
        answer(requests[i], done ? rcodes[i] : invalid ? Rcode::REFUSED : Rcode::SERVFAIL);
    }
    log_info("zone.update",
             {{"zone", zone.config.origin.to_text()}, {"messages", requests.size()}, {"serial", zone.zone->serial()}});
}

}  // namespace wherry::dns
