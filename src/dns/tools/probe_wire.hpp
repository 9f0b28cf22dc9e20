// Packets of probes: building them, and finding the probe in what an ICMP error quotes. Internal to dns/tools;
// everything read here comes from the network and is bounds-checked.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "dns/socket_address.hpp"
#include "dns/tools/probe.hpp"

namespace wherry::dns::tools {

// RFC 1071.
std::uint16_t internet_checksum(std::span<const std::uint8_t> data, std::uint32_t initial = 0);

// An echo request whose checksum is the same for every sequence: a word of the data is the sequence's complement.
std::vector<std::uint8_t> make_echo(int family, std::uint16_t identifier, std::uint16_t sequence,
                                    std::size_t data_bytes);

// A SYN whose sequence number is (high << 16 | sequence); source and target of the same family.
std::vector<std::uint8_t> make_syn(const SocketAddress& source, const SocketAddress& target, std::uint16_t high,
                                   std::uint16_t sequence);

// An ICMP or ICMPv6 message of type and code: what it says of a probe.
std::optional<ProbeReply::Kind> icmp_meaning(int family, unsigned type, unsigned code, ProbeProtocol protocol);

// The IPv4 header's payload; empty when the packet is not whole enough. hops_left gets the TTL.
std::span<const std::uint8_t> ipv4_payload(std::span<const std::uint8_t> packet, unsigned protocol, int& hops_left);

// What an ICMP error quotes of our packet, behind its 8 byte header.
struct Quoted {
    SocketAddress destination;                // port 0
    std::span<const std::uint8_t> transport;  // header and what follows, at least 8 bytes
};
std::optional<Quoted> quoted_packet(int family, std::span<const std::uint8_t> icmp, unsigned protocol);

}  // namespace wherry::dns::tools
