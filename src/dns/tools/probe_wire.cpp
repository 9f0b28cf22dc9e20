#include "dns/tools/probe_wire.hpp"

#include <netinet/in.h>

#include <algorithm>

#include "dns/message.hpp"

namespace wherry::dns::tools {

namespace {

constexpr unsigned echo_request_v4 = 8;
constexpr unsigned echo_request_v6 = 128;
constexpr std::size_t icmp_header = 8;
constexpr std::size_t tcp_header = 20;

SocketAddress address_from(std::span<const std::uint8_t> bytes) {
    SocketAddress address;
    // SAFETY: sockaddr_storage is made for holding either.
    if (bytes.size() == 4) {
        auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
        v4->sin_family = AF_INET;
        std::ranges::copy(bytes, reinterpret_cast<std::uint8_t*>(&v4->sin_addr));
        address.size = sizeof(sockaddr_in);
    } else {
        auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
        v6->sin6_family = AF_INET6;
        std::ranges::copy(bytes, reinterpret_cast<std::uint8_t*>(&v6->sin6_addr));
        address.size = sizeof(sockaddr_in6);
    }
    return address;
}

}  // namespace

std::string_view to_string(ProbeProtocol protocol) {
    return protocol == ProbeProtocol::icmp ? "ICMP" : protocol == ProbeProtocol::udp ? "UDP" : "TCP";
}

std::uint16_t internet_checksum(std::span<const std::uint8_t> data, std::uint32_t initial) {
    std::uint64_t sum = initial;
    for (std::size_t i = 0; i + 1 < data.size(); i += 2) sum += load_u16(data.data() + i);
    if (data.size() % 2 != 0) sum += static_cast<std::uint64_t>(data.back()) << 8U;
    while (sum >> 16U != 0) sum = (sum & 0xFFFFU) + (sum >> 16U);
    return static_cast<std::uint16_t>(~sum);
}

std::vector<std::uint8_t> make_echo(int family, std::uint16_t identifier, std::uint16_t sequence,
                                    std::size_t data_bytes) {
    std::vector<std::uint8_t> packet(icmp_header + std::max<std::size_t>(data_bytes, 4));
    packet[0] = static_cast<std::uint8_t>(family == AF_INET ? echo_request_v4 : echo_request_v6);
    store_u16(&packet[4], identifier);
    store_u16(&packet[6], sequence);
    store_u16(&packet[8], static_cast<std::uint16_t>(~sequence));
    for (std::size_t i = icmp_header + 2; i < packet.size(); ++i) packet[i] = static_cast<std::uint8_t>(i);
    // The kernel sums ICMPv6 itself, since the addresses belong to the sum (RFC 3542 section 3.1).
    if (family == AF_INET) store_u16(&packet[2], internet_checksum(packet));
    return packet;
}

std::vector<std::uint8_t> make_syn(const SocketAddress& source, const SocketAddress& target, std::uint16_t high,
                                   std::uint16_t sequence) {
    std::vector<std::uint8_t> packet(tcp_header);
    store_u16(&packet[0], source.port());
    store_u16(&packet[2], target.port());
    store_u16(&packet[4], high);
    store_u16(&packet[6], sequence);
    packet[12] = tcp_header / 4 << 4U;
    packet[13] = 0x02;  // SYN
    store_u16(&packet[14], 64240);
    std::uint32_t pseudo = IPPROTO_TCP + tcp_header;
    for (const SocketAddress* address : {&source, &target}) {
        auto bytes = socket_address_bytes(address->storage);
        for (std::size_t i = 0; i < bytes.size(); i += 2) pseudo += load_u16(bytes.data() + i);
    }
    store_u16(&packet[16], internet_checksum(packet, pseudo));
    return packet;
}

std::optional<ProbeReply::Kind> icmp_meaning(int family, unsigned type, unsigned code, ProbeProtocol protocol) {
    using Kind = ProbeReply::Kind;
    if (family == AF_INET) {
        if (type == 11 && code == 0) return Kind::time_exceeded;
        // A closed port says that the target was reached.
        if (type == 3) return code == 3 && protocol == ProbeProtocol::udp ? Kind::reached : Kind::unreachable;
        return std::nullopt;
    }
    if (type == 3 && code == 0) return Kind::time_exceeded;
    if (type == 1) return code == 4 && protocol == ProbeProtocol::udp ? Kind::reached : Kind::unreachable;
    return std::nullopt;
}

std::span<const std::uint8_t> ipv4_payload(std::span<const std::uint8_t> packet, unsigned protocol, int& hops_left) {
    if (packet.size() < 20 || packet[0] >> 4U != 4 || packet[9] != protocol) return {};
    std::size_t header = std::size_t{packet[0] & 15U} * 4;
    if (header < 20 || header > packet.size()) return {};
    hops_left = packet[8];
    return packet.subspan(header);
}

std::optional<Quoted> quoted_packet(int family, std::span<const std::uint8_t> icmp, unsigned protocol) {
    if (icmp.size() < icmp_header) return std::nullopt;
    auto inner = icmp.subspan(icmp_header);
    if (family == AF_INET) {
        int ignored = 0;
        auto transport = ipv4_payload(inner, protocol, ignored);
        if (transport.size() < 8) return std::nullopt;
        return Quoted{.destination = address_from(inner.subspan(16, 4)), .transport = transport};
    }
    // Probes have no extension headers: the transport follows at once.
    if (inner.size() < 48 || inner[0] >> 4U != 6 || inner[6] != protocol) return std::nullopt;
    return Quoted{.destination = address_from(inner.subspan(24, 16)), .transport = inner.subspan(40)};
}

}  // namespace wherry::dns::tools
