#include "dns/socket_address.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <array>
#include <charconv>

namespace wherry::dns {

std::span<const std::uint8_t> socket_address_bytes(const sockaddr_storage& address) {
    // SAFETY: the family says which address type the kernel (or parse) stored.
    if (address.ss_family == AF_INET) {
        const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address);
        return {reinterpret_cast<const std::uint8_t*>(&v4->sin_addr), 4};
    }
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address);
    return {reinterpret_cast<const std::uint8_t*>(&v6->sin6_addr), 16};
}

Result<SocketAddress> SocketAddress::parse(std::string_view text, std::uint16_t default_port) {
    auto bad = [&] {
        return fail(Code::invalid_argument,
                    "\"" + std::string(text.substr(0, 80)) + "\" is not ADDRESS[:PORT] or [IPv6][:PORT]");
    };
    std::string host;
    std::string_view port;
    if (text.starts_with('[')) {
        auto close = text.find(']');
        if (close == std::string_view::npos) return bad();
        host = text.substr(1, close - 1);
        std::string_view rest = text.substr(close + 1);
        if (!rest.empty() && !rest.starts_with(':')) return bad();
        port = rest.empty() ? rest : rest.substr(1);
        if (!rest.empty() && port.empty()) return bad();
    } else if (auto colon = text.find(':');
               colon != std::string_view::npos && text.find(':', colon + 1) == std::string_view::npos) {
        host = text.substr(0, colon);
        port = text.substr(colon + 1);
        if (port.empty()) return bad();
    } else {
        host = text;
    }
    std::uint16_t number = default_port;
    if (!port.empty()) {
        auto [stop, error] = std::from_chars(port.data(), port.data() + port.size(), number);
        if (error != std::errc() || stop != port.data() + port.size()) return bad();
    }
    SocketAddress address;
    // SAFETY: sockaddr_storage is made for holding either.
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
    if (::inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        address.size = sizeof(sockaddr_in);
    } else if (::inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        address.size = sizeof(sockaddr_in6);
    } else {
        return bad();
    }
    address.set_port(number);
    return address;
}

std::uint16_t SocketAddress::port() const {
    // SAFETY: both families keep the port at the same place.
    return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
}

void SocketAddress::set_port(std::uint16_t port) {
    // SAFETY: as above.
    reinterpret_cast<sockaddr_in*>(&storage)->sin_port = htons(port);
}

std::string SocketAddress::to_text() const {
    return (storage.ss_family == AF_INET6 ? "[" + host() + "]" : host()) + ":" + std::to_string(port());
}

std::string SocketAddress::host() const {
    std::array<char, INET6_ADDRSTRLEN> text{};
    ::inet_ntop(storage.ss_family, socket_address_bytes(storage).data(), text.data(), text.size());
    return text.data();
}

bool SocketAddress::is_wildcard() const {
    for (std::uint8_t byte : socket_address_bytes(storage))
        if (byte != 0) return false;
    return true;
}

}  // namespace wherry::dns
