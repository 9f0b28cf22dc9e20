#include "dns/tools/rank.hpp"

#include <algorithm>
#include <thread>

namespace wherry::dns::tools {

namespace {

RankedAddress measure(const SocketAddress& address, const RankOptions& options) {
    RankedAddress ranked;
    ranked.address = address;
    ranked.address.set_port(0);
    for (ProbeProtocol protocol : {ProbeProtocol::tcp, ProbeProtocol::icmp}) {
        PingOptions probes;
        probes.protocol = protocol;
        probes.probe.port = options.port;
        // Connections need no privilege and, unlike raw probes, are what the user's program will make.
        probes.probe.allow_raw = protocol == ProbeProtocol::icmp;
        probes.count = options.count;
        probes.interval = std::chrono::milliseconds(100);
        probes.wait = options.wait;
        auto times = ping(address, probes, [](const PingReply&) {}, [] { return false; });
        if (times) {
            (protocol == ProbeProtocol::tcp ? ranked.tcp : ranked.icmp) = *times;
        } else if (ranked.problem.empty() && times.error().code() != Code::permission_denied) {
            ranked.problem = times.error().describe();
        }
    }
    return ranked;
}

}  // namespace

std::vector<RankedAddress> rank(const std::vector<SocketAddress>& addresses, const RankOptions& options) {
    std::vector<RankedAddress> found(addresses.size());
    {
        std::vector<std::jthread> threads;
        for (std::size_t i = 0; i < addresses.size(); ++i)
            threads.emplace_back([&, i] { found[i] = measure(addresses[i], options); });
    }
    std::ranges::sort(found, [](const RankedAddress& one, const RankedAddress& other) {
        bool answers = one.decisive().received() > 0;
        bool other_answers = other.decisive().received() > 0;
        if (answers != other_answers) return answers;
        return one.decisive().best() < other.decisive().best();
    });
    return found;
}

}  // namespace wherry::dns::tools
