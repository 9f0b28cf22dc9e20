// Which of a name's addresses is nearest, by measurement.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "dns/tools/path.hpp"

namespace wherry::dns::tools {

struct RankOptions {
    std::uint16_t port = 443;  // of the TCP probes
    unsigned count = 5;
    std::chrono::milliseconds wait{1000};
};

struct RankedAddress {
    SocketAddress address;
    RoundTrips tcp;   // SYN to SYN-ACK or reset
    RoundTrips icmp;  // empty where ICMP is not allowed
    std::string problem;

    // What decides: TCP when it answers. Addresses are ordered by their best time, which load disturbs least.
    const RoundTrips& decisive() const { return tcp.received() > 0 ? tcp : icmp; }
};

// Nearest first; those that never answered last. All addresses are measured at the same time, in a thread each.
std::vector<RankedAddress> rank(const std::vector<SocketAddress>& addresses, const RankOptions& options);

}  // namespace wherry::dns::tools
