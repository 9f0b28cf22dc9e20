// Client prefixes: an address and how many of its bits count, of either family.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "dns/socket_address.hpp"

namespace wherry::dns::steering {

struct Prefix {
    std::array<std::uint8_t, 16> bytes{};  // IPv4 in the first four; bits beyond `length` are zero
    std::uint8_t length = 0;
    bool ipv6 = false;

    // "192.0.2.0/24", "2001:db8::/48"; without a length the whole address. invalid_argument when bits beyond the length
    // are set.
    static Result<Prefix> parse(std::string_view text);
    // The first `length` bits of an address; a longer length than the family's is cut to it.
    static Prefix of(const SocketAddress& address, unsigned length);
    static Prefix from_bytes(bool ipv6, const std::uint8_t* address, unsigned length);

    Prefix shortened(unsigned to) const;  // to at most `to` bits
    bool contains(const Prefix& other) const;
    std::string to_text() const;

    auto operator<=>(const Prefix&) const = default;
};

struct PrefixHash {
    std::size_t operator()(const Prefix& prefix) const;
};

// What is measured as one: clients in the same /24 (IPv4) or /48 (IPv6) are taken to be at the same place.
inline constexpr unsigned cell_bits_ipv4 = 24;
inline constexpr unsigned cell_bits_ipv6 = 48;
inline Prefix cell_of(const Prefix& prefix) {
    return prefix.shortened(prefix.ipv6 ? cell_bits_ipv6 : cell_bits_ipv4);
}

}  // namespace wherry::dns::steering
