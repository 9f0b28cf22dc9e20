// The path to a target, hop by hop, with loss and times, in rounds of parallel probes; and round trips to it alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "dns/tools/probe.hpp"

namespace wherry::dns::tools {

// Round trips of one hop or target, in nanoseconds.
class RoundTrips {
  public:
    void add_sent() { ++sent_; }
    void add_reply(std::int64_t nanoseconds);

    unsigned sent() const { return sent_; }
    unsigned received() const { return received_; }
    double loss() const { return sent_ == 0 ? 0 : 1.0 - static_cast<double>(received_) / sent_; }  // 0 to 1
    std::int64_t last() const { return last_; }
    std::int64_t best() const { return best_; }
    std::int64_t worst() const { return worst_; }
    double average() const { return received_ == 0 ? 0 : total_ / received_; }
    double deviation() const;  // standard deviation
    double jitter() const {
        return received_ < 2 ? 0 : steps_ / (received_ - 1);
    }  // mean difference of successive ones

  private:
    unsigned sent_ = 0;
    unsigned received_ = 0;
    std::int64_t last_ = 0;
    std::int64_t best_ = 0;
    std::int64_t worst_ = 0;
    double total_ = 0;
    double squares_ = 0;
    double steps_ = 0;
};

struct HopReply {
    SocketAddress from;
    ProbeReply::Kind kind = ProbeReply::Kind::time_exceeded;
    int code = 0;
    std::int64_t time = 0;  // round trip, ns
};

struct Hop {
    unsigned number = 0;
    RoundTrips times;
    std::map<std::string, unsigned> addresses;    // who answered, how often
    std::vector<std::optional<HopReply>> probes;  // the last `kept_probes` in order; nullopt: lost
};

struct PathOptions {
    ProbeProtocol protocol = ProbeProtocol::udp;
    ProbeOptions probe;
    unsigned first_hop = 1;
    unsigned most_hops = 30;
    std::chrono::milliseconds wait{1000};  // for each probe's answer
    std::chrono::milliseconds pace{2};     // between two probes: routers limit the errors they send
    unsigned kept_probes = 10;
};

class Path {
  public:
    static Result<Path> open(const SocketAddress& target, const PathOptions& options);

    // A probe to every hop up to the target, in parallel, and the wait for their answers. `stop` is polled at least ten
    // times a second; true ends the round early. Answers are in hops() when it returns.
    Result<> round(const std::function<bool()>& stop);
    // From first_hop on; not beyond the target once it has answered.
    const std::vector<Hop>& hops() const { return hops_; }
    bool reached() const { return end_hop_ != 0 && reached_; }
    const SocketAddress& target() const { return target_; }

  private:
    Path(const SocketAddress& target, const PathOptions& options) : target_(target), options_(options) {}
    struct Open {
        unsigned hop = 0;
        std::int64_t sent = 0;
        bool done = false;
    };
    void take(const ProbeReply& reply);
    void wait(std::int64_t until);
    bool all_done(std::int64_t now);

    SocketAddress target_;
    PathOptions options_;
    std::unique_ptr<Prober> prober_;
    std::vector<Hop> hops_;
    std::map<std::uint16_t, Open> open_;  // of this round
    std::uint16_t next_sequence_ = 1;
    unsigned end_hop_ = 0;  // the first hop behind which nothing is: the target, or who says it can't be reached
    bool reached_ = false;
};

// `count` probes to the target itself, `interval` apart (the answers of one may come after the next was sent).
struct PingOptions {
    ProbeProtocol protocol = ProbeProtocol::icmp;
    ProbeOptions probe;
    unsigned count = 5;  // 0: until stop
    std::chrono::milliseconds interval{1000};
    std::chrono::milliseconds wait{1000};
    unsigned hops = 64;  // TTL
};
struct PingReply {
    unsigned sequence = 0;
    ProbeReply reply;
    std::int64_t time = 0;  // ns
};
Result<RoundTrips> ping(const SocketAddress& target, const PingOptions& options,
                        const std::function<void(const PingReply&)>& on_reply, const std::function<bool()>& stop);

}  // namespace wherry::dns::tools
