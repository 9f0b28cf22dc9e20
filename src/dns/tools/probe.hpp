// Single packets to a target with a chosen number of hops, and what comes back: for path tracing and ping.
//
// All probes of a Prober belong to one flow in the eyes of routers that balance by flow ("Paris" traceroute: Augustin
// et al., IMC 2006): ports are constant for UDP and TCP, identifier and checksum for ICMP.
// No privileges are needed where the kernel can do without: UDP by the error queue (IP_RECVERR, ip(7)), ICMP by ping
// sockets (net.ipv4.ping_group_range, icmp(7)), TCP by connect(2), one probe at a time. With CAP_NET_RAW ICMP and TCP
// use raw sockets.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "dns/socket_address.hpp"

namespace wherry::dns::tools {

enum class ProbeProtocol : unsigned char { icmp, udp, tcp };
std::string_view to_string(ProbeProtocol protocol);

struct ProbeReply {
    enum class Kind : unsigned char { time_exceeded, reached, unreachable };
    Kind kind = Kind::reached;
    // Of the probe it answers; -1 when the answering router quoted too little to tell: the oldest open one then.
    int sequence = -1;
    SocketAddress from;
    int code = 0;           // ICMP's, for unreachable
    int hops_left = -1;     // TTL or hop limit of the reply itself, where the kernel tells
    std::int64_t time = 0;  // monotonic ns
};

struct ProbeOptions {
    std::uint16_t port = 0;       // UDP, TCP; 0: 33434 and 80
    std::size_t data_bytes = 32;  // ICMP and UDP payload, at least 4
    bool allow_raw = true;
};

class Prober {
  public:
    using OnReply = std::function<void(const ProbeReply&)>;

    // permission_denied when neither way is open; unavailable when there is no route.
    static Result<std::unique_ptr<Prober>> open(ProbeProtocol protocol, const SocketAddress& target,
                                                const ProbeOptions& options);

    virtual ~Prober() = default;
    Prober() = default;
    Prober(const Prober&) = delete;
    Prober& operator=(const Prober&) = delete;

    // hops: 1-255. The same sequence may be used again once its reply came or was given up.
    virtual Result<> send(unsigned hops, std::uint16_t sequence) = 0;
    // Takes everything that has arrived, without blocking.
    virtual void receive(const OnReply& on_reply) = 0;
    // For poll(2); may change with every send().
    virtual std::vector<int> descriptors() const = 0;
    // How many probes may be under way at once.
    virtual unsigned window() const { return 64; }
};

}  // namespace wherry::dns::tools
