#include "engine/name_publisher.hpp"

#include <algorithm>

#include "base/fd.hpp"
#include "base/log.hpp"

namespace wherry::engine {

namespace {

constexpr std::string_view label = "wherry.dns";
constexpr auto answer_timeout = std::chrono::milliseconds(2000);
constexpr auto first_pause = std::chrono::milliseconds(500);
constexpr auto longest_pause = std::chrono::seconds(30);

// What stands between separators; nothing where two of them meet.
std::vector<std::string> parts_between(std::string_view text, char separator) {
    std::vector<std::string> parts;
    while (!text.empty()) {
        std::size_t end = std::min(text.find(separator), text.size());
        if (end > 0) parts.emplace_back(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return parts;
}

}  // namespace

Result<std::unique_ptr<NamePublisher>> NamePublisher::create(Core& core, const NameOptions& options) {
    std::unique_ptr<NamePublisher> made(new NamePublisher(core, options));
    made->server_ = TRY(dns::SocketAddress::parse(options.server), "--names-server");
    made->zone_ = TRY(dns::Name::parse(options.zone), "--names-zone");
    if (!options.address.empty()) (void)TRY(dns::SocketAddress::parse(options.address, 0), "--names-address");
    if (!options.key_file.empty()) {
        std::string text = TRY(read_file(options.key_file, 4096), "--names-key-file");
        while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '\r')) text.pop_back();
        made->key_ = std::make_shared<const dns::TsigKey>(TRY(dns::tools::parse_key(text), options.key_file));
    }
    TRY(made->read());
    return made;
}

Result<> NamePublisher::read() {
    if (!path_exists(path())) return {};
    for (const std::string& line : parts_between(TRY(read_file(path())), '\n')) {
        auto words = parts_between(line, ' ');
        if (words.size() == 2) published_.emplace(words[0], words[1]);
    }
    return {};
}

Result<> NamePublisher::write(const Published& published) const {
    std::string text;
    for (const auto& [name, address] : published) text += name + " " + address + "\n";
    return write_file_atomic(path(), text, 0600, Durability::data);
}

NamePublisher::Published NamePublisher::wanted() {
    Published wanted;
    for (const ContainerPtr& container : core_.containers.all()) {
        auto found = container->config().labels.find(std::string(label));
        if (found == container->config().labels.end() || container->phase != Phase::running || container->removed)
            continue;
        if (container->health && container->health->status != "healthy") continue;  // starting ones are not there yet
        std::vector<std::string> addresses;
        if (!options_.address.empty()) {
            addresses.push_back(options_.address);
        } else {
            const std::optional<net::Endpoint>* endpoint = &container->endpoint;
            SandboxPtr sandbox = core_.sandboxes.by_id(container->sandbox_id);
            if (!*endpoint && sandbox) endpoint = &sandbox->endpoint;
            if (!*endpoint) continue;
            if ((*endpoint)->address.is_set()) addresses.push_back((*endpoint)->address.to_string());
            if ((*endpoint)->address6.is_set()) addresses.push_back((*endpoint)->address6.to_string());
        }
        for (const std::string& word : parts_between(found->second, ',')) {
            auto name = dns::Name::parse(word, &zone_);
            if (!name || !name->is_within(zone_) || name->size() == zone_.size()) {
                if (complained_.insert(word).second)
                    log_warn("names.not_in_zone",
                             {{"container", container->id}, {"name", word}, {"zone", zone_.to_text()}});
                continue;
            }
            for (const std::string& address : addresses) wanted.emplace(name->lower().to_text(), address);
        }
    }
    return wanted;
}

dns::tools::RecordChange NamePublisher::change(bool add, const std::pair<std::string, std::string>& entry) const {
    dns::tools::RecordChange change{.add = add,
                                    .name = dns::Name::parse(entry.first).value_or(dns::Name()),
                                    .type = dns::Type::A,
                                    .ttl = options_.ttl,
                                    .rdata = {}};
    if (auto address = dns::SocketAddress::parse(entry.second, 0)) {
        auto bytes = dns::socket_address_bytes(address->storage);
        change.type = bytes.size() == 4 ? dns::Type::A : dns::Type::AAAA;
        change.rdata.assign(bytes.begin(), bytes.end());
    }
    return change;
}

asio::awaitable<Result<>> NamePublisher::synchronize() {
    const Published next = wanted();
    if (next == published_) co_return Result<>{};
    std::vector<dns::tools::RecordChange> changes;
    for (const auto& entry : published_)
        if (!next.contains(entry)) changes.push_back(change(false, entry));
    Published both = published_;
    for (const auto& entry : next)
        if (both.insert(entry).second) changes.push_back(change(true, entry));
    // What may be out there is written before it is.
    CO_CHECK(co_await core_.pool.run([this, &both, &changes]() -> Result<> {
        TRY(write(both), "names");
        return dns::tools::update(server_, zone_, key_, changes, answer_timeout);
    }));
    CO_CHECK(co_await core_.pool.run([this, &next] { return write(next); }), "names");
    published_ = next;
    co_return Result<>{};
}

asio::awaitable<void> NamePublisher::run() {
    auto subscribed = core_.events.subscribe({.since = {}, .until = {}, .filters = {{"type", {"container"}}}});
    if (!subscribed) co_return;
    events_ = std::move(*subscribed);
    std::chrono::milliseconds pause = first_pause;
    while (!core_.gate.closing()) {
        auto done = co_await synchronize();
        if (!done) {
            log_warn("names.not_published", {{"error", done.error()}});
            co_await closing_.wait(Signal::Clock::now() + pause);
            pause = std::min<std::chrono::milliseconds>(pause * 2, longest_pause);
            continue;
        }
        pause = first_pause;
        auto event = co_await events_->next();
        if (!event || !*event) {
            if (core_.gate.closing()) co_return;
            // Too slow a reader is cut off: what happened meanwhile is seen by the next look anyway.
            auto again = core_.events.subscribe({.since = {}, .until = {}, .filters = {{"type", {"container"}}}});
            if (!again) co_return;
            events_ = std::move(*again);
        }
    }
}

void NamePublisher::close() {
    closing_.notify_all();
    if (events_) events_->cancel();
}

}  // namespace wherry::engine
