#include "dns/tools/path.hpp"

#include <poll.h>

#include <algorithm>
#include <cmath>

#include "base/clock.hpp"

namespace wherry::dns::tools {

namespace {

constexpr std::int64_t millisecond = 1'000'000;

void poll_until(const Prober& prober, std::int64_t until) {
    std::vector<pollfd> ready;
    for (int fd : prober.descriptors()) ready.push_back({.fd = fd, .events = POLLIN, .revents = 0});
    std::int64_t left = std::max<std::int64_t>(0, until - monotonic_ns());
    timespec time{.tv_sec = left / 1'000'000'000, .tv_nsec = left % 1'000'000'000};
    // A signal ends the wait early, and the caller looks whether it shall stop.
    (void)::ppoll(ready.data(), ready.size(), &time, nullptr);
}

}  // namespace

void RoundTrips::add_reply(std::int64_t nanoseconds) {
    if (received_ > 0) steps_ += std::abs(static_cast<double>(nanoseconds - last_));
    best_ = received_ == 0 ? nanoseconds : std::min(best_, nanoseconds);
    worst_ = std::max(worst_, nanoseconds);
    last_ = nanoseconds;
    auto value = static_cast<double>(nanoseconds);
    total_ += value;
    squares_ += value * value;
    ++received_;
}

double RoundTrips::deviation() const {
    if (received_ == 0) return 0;
    double mean = average();
    return std::sqrt(std::max(0.0, squares_ / received_ - mean * mean));
}

Result<Path> Path::open(const SocketAddress& target, const PathOptions& options) {
    Path path(target, options);
    path.prober_ = TRY(Prober::open(options.protocol, target, options.probe));
    return path;
}

void Path::take(const ProbeReply& reply) {
    auto found = reply.sequence >= 0 ? open_.find(static_cast<std::uint16_t>(reply.sequence)) : open_.end();
    if (reply.sequence < 0) found = std::ranges::find_if(open_, [](const auto& entry) { return !entry.second.done; });
    if (found == open_.end() || found->second.done) return;  // late, or nothing of ours
    Open& probe = found->second;
    probe.done = true;
    if (probe.hop - options_.first_hop >= hops_.size()) return;  // beyond the end, which came to be known meanwhile
    Hop& hop = hops_[probe.hop - options_.first_hop];
    std::int64_t time = reply.time - probe.sent;
    hop.times.add_reply(time);
    ++hop.addresses[reply.from.host()];
    hop.probes.back() = HopReply{.from = reply.from, .kind = reply.kind, .code = reply.code, .time = time};
    if (reply.kind == ProbeReply::Kind::time_exceeded || (end_hop_ != 0 && probe.hop >= end_hop_)) return;
    // The first hop that is the end; probes further on answered from the same place and are no hops.
    end_hop_ = probe.hop;
    reached_ = reply.kind == ProbeReply::Kind::reached;
    hops_.resize(end_hop_ - options_.first_hop + 1);
}

void Path::wait(std::int64_t until) {
    poll_until(*prober_, until);
    prober_->receive([this](const ProbeReply& reply) { take(reply); });
}

bool Path::all_done(std::int64_t now) {
    return std::ranges::all_of(open_, [&](const auto& entry) {
        const Open& probe = entry.second;
        return probe.done || (end_hop_ != 0 && probe.hop > end_hop_) ||
               now - probe.sent >= options_.wait.count() * millisecond;
    });
}

Result<> Path::round(const std::function<bool()>& stop) {
    open_.clear();
    auto under_way = [&](std::int64_t now) {
        return static_cast<unsigned>(std::ranges::count_if(open_, [&](const auto& entry) {
            return !entry.second.done && now - entry.second.sent < options_.wait.count() * millisecond;
        }));
    };
    for (unsigned number = options_.first_hop; number <= options_.most_hops && (end_hop_ == 0 || number <= end_hop_);
         ++number) {
        while (under_way(monotonic_ns()) >= prober_->window()) {
            if (stop()) return {};
            wait(monotonic_ns() + 50 * millisecond);
        }
        if (end_hop_ != 0 && number > end_hop_) break;
        if (number - options_.first_hop >= hops_.size())
            hops_.push_back({.number = number, .times = {}, .addresses = {}, .probes = {}});
        Hop& hop = hops_[number - options_.first_hop];
        hop.times.add_sent();
        hop.probes.emplace_back();
        if (hop.probes.size() > options_.kept_probes) hop.probes.erase(hop.probes.begin());
        std::uint16_t sequence = next_sequence_++;
        open_[sequence] = {.hop = number, .sent = monotonic_ns()};
        TRY(prober_->send(number, sequence), "hop " + std::to_string(number));
        wait(monotonic_ns() + options_.pace.count() * millisecond);
        if (stop()) return {};
    }
    while (!all_done(monotonic_ns())) {
        if (stop()) return {};
        wait(monotonic_ns() + 50 * millisecond);
    }
    return {};
}

Result<RoundTrips> ping(const SocketAddress& target, const PingOptions& options,
                        const std::function<void(const PingReply&)>& on_reply, const std::function<bool()>& stop) {
    auto prober = TRY(Prober::open(options.protocol, target, options.probe));
    RoundTrips times;
    struct Open {
        unsigned number = 0;
        std::int64_t sent = 0;
    };
    std::map<std::uint16_t, Open> open;
    std::int64_t next = monotonic_ns();
    std::int64_t last_sent = next;
    unsigned number = 0;
    auto receive = [&] {
        prober->receive([&](const ProbeReply& reply) {
            auto found = reply.sequence >= 0 ? open.find(static_cast<std::uint16_t>(reply.sequence)) : open.begin();
            if (found == open.end()) return;
            PingReply told{.sequence = found->second.number, .reply = reply, .time = reply.time - found->second.sent};
            open.erase(found);
            if (reply.kind == ProbeReply::Kind::reached) times.add_reply(told.time);
            on_reply(told);
        });
    };
    while (!stop()) {
        bool more = options.count == 0 || number < options.count;
        std::int64_t now = monotonic_ns();
        if (more && now >= next && open.size() < prober->window()) {
            auto sequence = static_cast<std::uint16_t>(++number);
            open[sequence] = {.number = number, .sent = now};
            times.add_sent();
            TRY(prober->send(options.hops, sequence), target.host());
            last_sent = now;
            next = now + options.interval.count() * millisecond;
            more = options.count == 0 || number < options.count;
        }
        std::erase_if(open,
                      [&](const auto& entry) { return now - entry.second.sent > options.wait.count() * millisecond; });
        if (!more && (open.empty() || now - last_sent > options.wait.count() * millisecond)) break;
        std::int64_t until = now + 100 * millisecond;
        if (more && open.size() < prober->window()) until = std::min(until, next);
        poll_until(*prober, until);
        receive();
    }
    return times;
}

}  // namespace wherry::dns::tools
