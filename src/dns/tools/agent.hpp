// An agent at a site: measures round trips to clients and other sites and tells the dispatcher.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "dns/socket_address.hpp"

namespace wherry::dns::tools {

struct AgentOptions {
    std::string server;  // "http://192.0.2.1:8053", of the dispatcher's control service
    std::string sender;
    std::string secret;                                        // bytes
    std::vector<std::pair<std::string, SocketAddress>> peers;  // other sites, by name
    std::vector<std::uint16_t> watched_ports;  // local TCP ports whose clients' round trips the kernel knows
    bool probe = true;                         // the dispatcher's targets, actively
    std::chrono::milliseconds interval{60'000};
    unsigned count = 3;  // probes of each target
};

struct RoundOutcome {
    std::size_t observed = 0;  // connections
    std::size_t probed = 0;    // targets that answered
    std::size_t taken = 0;     // samples that the dispatcher took
};

// Round trips of the established TCP connections to these local ports (sock_diag(7), TCP_INFO: the least one seen), ms
// by client address.
Result<std::vector<std::pair<SocketAddress, double>>> observed_round_trips(const std::vector<std::uint16_t>& ports);

// Measures and tells once.
Result<RoundOutcome> agent_round(const AgentOptions& options, const std::function<bool()>& stop);

}  // namespace wherry::dns::tools
