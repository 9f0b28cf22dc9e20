// An address and port as the sockets API takes them, of either family.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry::dns {

struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t size = 0;

    // "192.0.2.1", "192.0.2.1:5353", "[2001:db8::1]:53", "2001:db8::1"; default_port when there is none.
    static Result<SocketAddress> parse(std::string_view text, std::uint16_t default_port = 53);
    std::string to_text() const;  // "192.0.2.1:53", "[2001:db8::1]:53"
    std::string host() const;     // without port and brackets
    std::uint16_t port() const;
    void set_port(std::uint16_t port);
    bool is_wildcard() const;  // every address of the host
    // SAFETY: the generic socket address that connect(2) and its kind take.
    const sockaddr* raw() const { return reinterpret_cast<const sockaddr*>(&storage); }
    int family() const { return storage.ss_family; }  // AF_INET or AF_INET6
};

// The address alone, 4 or 16 bytes in network order.
std::span<const std::uint8_t> socket_address_bytes(const sockaddr_storage& address);

}  // namespace wherry::dns
