#include "dns/steering/dispatcher.hpp"

#include <openssl/crypto.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <charconv>
#include <cmath>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/log.hpp"
#include "dns/sample_signature.hpp"

namespace wherry::dns::steering {

namespace json = boost::json;

namespace {

constexpr std::int64_t clock_slack = 300;  // s
constexpr std::size_t most_targets = 1'000'000;
constexpr std::size_t most_mapped_cells = 20'000;
constexpr auto settle = std::chrono::milliseconds(200);  // samples that come together are taken into account together
constexpr auto often = std::chrono::seconds(60);         // ages and planned TTLs change without samples

std::int64_t seconds_now() {
    return std::chrono::duration_cast<std::chrono::seconds>(wall_now().time_since_epoch()).count();
}

double rounded(float value) {
    return std::round(static_cast<double>(value) * 1000) / 1000;
}

struct SampleLine {
    std::optional<SiteIndex> site;  // of a round trip between sites
    Prefix client;
    double rtt = 0;
};

Result<SampleLine> parse_sample(const SteeringConfig& config, std::string_view line) {
    SampleLine sample;
    auto last = line.rfind(' ');
    if (last == std::string_view::npos) return fail(Code::invalid_argument, "PREFIX RTT_MS is wanted");
    std::string_view digits = line.substr(last + 1);
    auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), sample.rtt);
    if (error != std::errc() || stop != digits.data() + digits.size())
        return fail(Code::invalid_argument, "the round trip is no number");
    std::string_view what = line.substr(0, last);
    if (what.starts_with("site ")) {
        sample.site = config.site(what.substr(5));
        if (!sample.site) return fail(Code::not_found, "there is no such site");
        return sample;
    }
    sample.client = TRY(Prefix::parse(what));
    return sample;
}

}  // namespace

Dispatcher::Dispatcher(SteeringConfig config, std::function<void()> on_change)
    : config_(std::move(config)),
      on_change_(std::move(on_change)),
      latency_(config_.sites.size(), config_.latency),
      last_time_(config_.senders.size(), 0) {}

Result<std::unique_ptr<Dispatcher>> Dispatcher::create(SteeringConfig config,
                                                       std::shared_ptr<const CommandChecks> commands,
                                                       std::function<void()> on_change) {
    std::unique_ptr<Dispatcher> made(new Dispatcher(std::move(config), std::move(on_change)));
    Dispatcher* self = made.get();
    if (!self->config_.geo.empty()) {
        self->geography_ = TRY(Geography::open(self->config_.geo));
        const bool by_place = std::ranges::any_of(self->config_.names, [](const SteeredName& name) {
            return std::ranges::find(name.policies, Policy::geo) != name.policies.end();
        });
        if (by_place) self->places_ = places_of(self->config_, *self->geography_);
        self->latency_.geography = geographic_prior(*self->geography_, self->config_.locations());
    }
    if (!self->config_.state.empty() && path_exists(self->config_.state)) {
        std::string text = TRY(read_file(self->config_.state, 1U << 30U), "samples");
        if (!self->latency_.load(text, seconds_now()))
            log_warn("steering.state_unreadable", {{"path", self->config_.state}});
    }
    if (!self->config_.query_log.empty()) {
        std::vector<std::string> names;
        for (const SteeredName& name : self->config_.names) names.push_back(name.name.to_text());
        self->recorder_ = TRY(QueryRecorder::create(self->config_.query_log, std::move(names)));
    }
    self->health_ = std::make_unique<HealthMonitor>(self->config_.sites, std::move(commands), [self] {
        {
            std::lock_guard hold(self->lock_);
            self->dirty_ = true;
        }
        self->wake_.notify_all();
    });
    self->refresh();
    return made;
}

Dispatcher::~Dispatcher() {
    health_.reset();
    {
        std::lock_guard hold(lock_);
        stopping_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
}

void Dispatcher::start() {
    health_->start();
    thread_ = std::thread([this] { run(); });
}

void Dispatcher::refresh() {
    std::lock_guard hold(lock_);
    rebuild();
}

void Dispatcher::rebuild() {
    std::int64_t now = seconds_now();
    latency_.summarize(now);
    tables_ = make_tables(config_, latency_, geography_.get(), places_, health_->up(), now);
    dirty_ = false;
}

void Dispatcher::run() {
    std::uint64_t saved = 0;
    std::chrono::nanoseconds pause = settle;
    std::unique_lock hold(lock_);
    while (!stopping_) {
        if (!wake_.wait_for(hold, often, [&] { return stopping_ || dirty_; })) dirty_ = true;
        if (stopping_) break;
        wake_.wait_for(hold, pause, [&] { return stopping_; });
        if (stopping_) break;
        const std::int64_t began = monotonic_ns();
        rebuild();
        std::string state;
        if (!config_.state.empty() && samples_taken_ != saved) {
            saved = samples_taken_;
            state = latency_.save();
        }
        hold.unlock();
        if (!state.empty())
            if (auto written = write_file_atomic(config_.state, state, 0640, Durability::none); !written)
                log_error("steering.state_not_written", {{"error", written.error()}});
        on_change_();
        // A large map takes long to work out and to write: at most a fifth of a processor goes into it.
        pause = std::max<std::chrono::nanoseconds>(settle, 4 * std::chrono::nanoseconds(monotonic_ns() - began));
        hold.lock();
    }
}

std::shared_ptr<const AnswerPolicy> Dispatcher::policy(const Zone& zone) const {
    std::lock_guard hold(lock_);
    return make_policy(config_, tables_, zone, recorder_);
}

Result<std::size_t> Dispatcher::take_samples(std::string_view sender, std::int64_t time, std::string_view mac,
                                             std::string_view body) {
    auto found = std::ranges::find_if(config_.senders, [&](const SenderConfig& one) { return one.name == sender; });
    // An unknown sender costs as much as a wrong mac, and says as much.
    static const std::string nobody(32, '\0');
    const std::string& secret = found == config_.senders.end() ? nobody : found->secret;
    std::string expected = sample_signature(secret, sender, time, body);
    bool right = mac.size() == expected.size() && CRYPTO_memcmp(mac.data(), expected.data(), expected.size()) == 0;
    if (found == config_.senders.end() || !right) {
        std::lock_guard hold(lock_);
        ++samples_refused_;
        return fail(Code::unauthenticated, "the sender or its signature is not known here");
    }
    auto index = static_cast<SenderIndex>(found - config_.senders.begin());
    std::int64_t now = seconds_now();
    if (std::abs(now - time) > clock_slack)
        return fail(Code::unauthenticated, "the time is more than five minutes off");
    // Everything is read before anything is taken.
    std::vector<SampleLine> lines;
    for (std::size_t number = 1; !body.empty(); ++number) {
        std::size_t end = std::min(body.find('\n'), body.size());
        std::string_view line = body.substr(0, end);
        body.remove_prefix(std::min(end + 1, body.size()));
        if (line.empty()) continue;
        lines.push_back(TRY(parse_sample(config_, line), "line " + std::to_string(number)));
    }
    SiteIndex site = *config_.site(found->site);
    std::size_t taken = 0;
    {
        std::lock_guard hold(lock_);
        if (time <= last_time_[index])
            return fail(Code::unauthenticated, "the time is not after that of the last message: a repetition");
        last_time_[index] = time;
        for (const SampleLine& line : lines) {
            if (line.site)
                latency_.set_site_rtt(site, *line.site, line.rtt);
            else if (!latency_.add(line.client, site, index, line.rtt, now))
                continue;
            else if (line.client.length == (line.client.ipv6 ? 128 : 32) &&
                     (targets_.size() < most_targets || targets_.contains(cell_of(line.client))))
                targets_[cell_of(line.client)] = line.client;
            ++taken;
        }
        samples_taken_ += taken;
        dirty_ = true;
    }
    wake_.notify_all();
    return taken;
}

Result<Decision> Dispatcher::explain(const Name& name, const Prefix& client) const {
    std::lock_guard hold(lock_);
    for (const SteeredName& steered : config_.names)
        if (steered.name == name)
            return Chooser(config_, latency_, geography_.get())
                .decide(steered, client, health_->up(), seconds_now(), true);
    return fail(Code::not_found, name.to_text() + " is not steered here");
}

json::object Dispatcher::explain_json(const Name& name, const Decision& decision, const Prefix& client) const {
    json::array candidates;
    for (const Candidate& candidate : decision.candidates) {
        const SiteConfig& site = config_.sites[candidate.site];
        json::object object = {{"site", site.name},
                               {"up", candidate.up},
                               {"drained", candidate.drained},
                               {"weight", site.weight},
                               {"priority", site.priority},
                               {"source", to_string(candidate.estimate.source)},
                               {"confidence", rounded(candidate.estimate.confidence)},
                               {"chosen", candidate.chosen}};
        object["rtt_ms"] = candidate.estimate.source == Source::none ? json::value(nullptr)
                                                                     : json::value(rounded(candidate.estimate.rtt));
        object["age_s"] = candidate.estimate.age < 0 ? json::value(nullptr) : json::value(candidate.estimate.age);
        if (candidate.distance_km >= 0) object["distance_km"] = std::round(candidate.distance_km);
        candidates.push_back(std::move(object));
    }
    json::array winners;
    for (SiteIndex site : decision.sites) winners.push_back(json::string(config_.sites[site].name));
    return {{"name", name.to_text()},
            {"client", client.to_text()},
            {"winner", std::move(winners)},
            {"why", decision.reason},
            {"candidates", std::move(candidates)}};
}

json::object Dispatcher::status() const {
    std::vector<bool> up = health_->up();
    json::array sites;
    for (std::size_t i = 0; i < config_.sites.size(); ++i) {
        json::array checks;
        for (const auto& check : health_->checks(static_cast<SiteIndex>(i)))
            checks.push_back({{"check", check.what}, {"up", check.up}, {"problem", check.problem}});
        json::array addresses;
        for (const SocketAddress& address : config_.sites[i].addresses)
            addresses.push_back(json::string(address.host()));
        sites.push_back({{"site", config_.sites[i].name},
                         {"up", static_cast<bool>(up[i])},
                         {"drained", config_.sites[i].drain},
                         {"addresses", std::move(addresses)},
                         {"checks", std::move(checks)}});
    }
    std::lock_guard hold(lock_);
    json::array names;
    for (std::size_t i = 0; i < config_.names.size(); ++i)
        names.push_back({{"name", config_.names[i].name.to_text()},
                         {"ttl", tables_[i]->ttl},
                         {"prefixes", tables_[i]->prefixes.size()}});
    return {{"sites", std::move(sites)},
            {"names", std::move(names)},
            {"cells", latency_.cell_count()},
            {"samples_taken", samples_taken_},
            {"messages_refused", samples_refused_}};
}

std::string Dispatcher::targets() const {
    std::lock_guard hold(lock_);
    std::string text;
    for (const auto& [cell, address] : targets_) {
        std::string line = address.to_text();
        text += line.substr(0, line.find('/')) + "\n";
    }
    return text;
}

void Dispatcher::adopt(const Dispatcher& other) {
    std::vector<std::optional<SiteIndex>> sites;
    for (const SiteConfig& site : other.config_.sites) sites.push_back(config_.site(site.name));
    std::vector<std::optional<SenderIndex>> senders;
    for (const SenderConfig& sender : other.config_.senders) {
        auto found = std::ranges::find_if(config_.senders, [&](const SenderConfig& one) {
            return one.name == sender.name && one.site == sender.site;
        });
        if (found == config_.senders.end())
            senders.emplace_back();
        else
            senders.emplace_back(static_cast<SenderIndex>(found - config_.senders.begin()));
    }
    std::scoped_lock hold(lock_, other.lock_);
    latency_.adopt(other.latency_, sites, senders);
    for (std::size_t i = 0; i < senders.size(); ++i)
        if (senders[i]) last_time_[*senders[i]] = other.last_time_[i];
    targets_ = other.targets_;
    samples_taken_ = other.samples_taken_;
    rebuild();
}

json::object Dispatcher::map() const {
    std::lock_guard hold(lock_);
    json::array sites;
    for (std::size_t i = 0; i < config_.sites.size(); ++i) {
        json::object site = {{"site", config_.sites[i].name}};
        if (config_.sites[i].location)
            site["location"] = {config_.sites[i].location->first, config_.sites[i].location->second};
        const Coordinate& at = latency_.site_coordinates()[i];
        site["coordinate"] = {at.at[0], at.at[1], at.at[2]};
        sites.push_back(std::move(site));
    }
    json::array cells;
    std::int64_t now = seconds_now();
    for (const Prefix& prefix : latency_.cells()) {
        if (cells.size() >= most_mapped_cells) break;
        json::array round_trips;
        for (const Estimate& estimate : latency_.estimate(prefix, now))
            round_trips.push_back(estimate.source == Source::none ? json::value(nullptr)
                                                                  : json::value(rounded(estimate.rtt)));
        json::object cell = {{"prefix", prefix.to_text()}, {"rtt_ms", std::move(round_trips)}};
        if (geography_)
            if (auto place = geography_->locate(prefix)) cell["location"] = {place->first, place->second};
        cells.push_back(std::move(cell));
    }
    return {{"sites", std::move(sites)}, {"cells", std::move(cells)}};
}

}  // namespace wherry::dns::steering
