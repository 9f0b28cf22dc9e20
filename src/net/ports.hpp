// Port specifications as Docker's users write them: -p, --expose, "80/tcp" in JSON, host port ranges.
// Pure parsing; nothing is allocated or bound here (network.hpp publishes).
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "net/address.hpp"

namespace wherry::net {

enum class Protocol : unsigned char { tcp, udp, sctp };

std::string_view to_string(Protocol protocol);
Result<Protocol> parse_protocol(std::string_view text);  // any case; empty is tcp; "Invalid proto: x"
std::uint8_t ip_protocol_number(Protocol protocol);

// An inclusive range. {0, 0} as a host port means "any free one".
struct PortRange {
    std::uint16_t first = 0;
    std::uint16_t last = 0;

    unsigned size() const { return static_cast<unsigned>(last) - first + 1; }
    auto operator<=>(const PortRange&) const = default;
};

// "80" or "8000-8010"; 0 and empty give {0, 0} only where `zero_allowed`.
enum class ZeroPort : unsigned char { refused, allowed };
Result<PortRange> parse_port_range(std::string_view text, ZeroPort zero);

// A port inside the container; written "80/tcp".
struct ContainerPort {
    std::uint16_t port = 0;
    Protocol protocol = Protocol::tcp;

    static Result<ContainerPort> parse(std::string_view text);  // "80", "80/udp"; one port, not a range
    std::string to_string() const;
    auto operator<=>(const ContainerPort&) const = default;
};

// One published container port with the host's side still to be chosen out of host_ports:
// size 1: exactly that one; {0,0}: any free; a larger range: the first free one of it.
struct PortRequest {
    ContainerPort container;
    IpAddress host_address;  // not set: all of the host's addresses
    PortRange host_ports;

    bool operator==(const PortRequest&) const = default;
};

// Docker's -p: [[ip:][hostPort[-end]]:]containerPort[-end][/protocol], ip in brackets for IPv6.
// A range of container ports gives one request for each. Errors carry Docker's words.
Result<std::vector<PortRequest>> parse_publish(std::string_view spec);

// Docker's --expose: port[-end][/protocol].
Result<std::vector<ContainerPort>> parse_expose(std::string_view spec);

// One entry of HostConfig.PortBindings: key "80/tcp", HostIp and HostPort as in the API.
Result<PortRequest> parse_binding(std::string_view container_port, std::string_view host_ip,
                                  std::string_view host_port);

}  // namespace wherry::net
