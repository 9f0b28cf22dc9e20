// IP addresses, prefixes and MAC addresses as values; both address families. No allocation, no I/O.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry::net {

// An IPv4 or IPv6 address. Default: no address at all (is_set() is false).
class IpAddress {
  public:
    enum class Family : unsigned char { none, ipv4, ipv6 };

    IpAddress() = default;
    static IpAddress ipv4(std::uint32_t host_order);
    static IpAddress ipv6(const std::array<std::uint8_t, 16>& bytes);
    // "192.0.2.1" or "2001:db8::1"; no zone, no port, no brackets. invalid_argument otherwise.
    static Result<IpAddress> parse(std::string_view text);
    static IpAddress any(Family family);  // 0.0.0.0 or ::

    Family family() const { return family_; }
    bool is_set() const { return family_ != Family::none; }
    bool is_ipv4() const { return family_ == Family::ipv4; }
    bool is_ipv6() const { return family_ == Family::ipv6; }
    bool is_any() const;       // 0.0.0.0, ::
    bool is_loopback() const;  // 127.0.0.0/8, ::1
    unsigned bits() const;     // 32, 128, or 0
    // Network byte order; 4 or 16 bytes.
    std::string_view bytes() const;
    std::uint32_t ipv4_value() const;  // host order; only for is_ipv4()
    // The address `offset` further on, wrapping within the family's space.
    IpAddress plus(std::uint64_t offset) const;
    std::string to_string() const;  // empty when not set

    auto operator<=>(const IpAddress&) const = default;

  private:
    Family family_ = Family::none;
    std::array<std::uint8_t, 16> bytes_{};
};

// An address with a prefix length: a subnet (host bits zero) or an interface address within its subnet.
struct IpPrefix {
    IpAddress address;
    unsigned length = 0;

    // "10.0.0.0/8"; a bare address gets /32 or /128.
    static Result<IpPrefix> parse(std::string_view text);
    bool is_set() const { return address.is_set(); }
    IpPrefix network() const;  // host bits cleared
    IpAddress last() const;    // all host bits set (IPv4: the broadcast address)
    bool contains(const IpAddress& other) const;
    bool overlaps(const IpPrefix& other) const;
    std::string to_string() const;

    auto operator<=>(const IpPrefix&) const = default;
};

struct MacAddress {
    std::array<std::uint8_t, 6> bytes{};

    // "02:42:ac:11:00:02"; also with '-'. invalid_argument otherwise, and for multicast addresses.
    static Result<MacAddress> parse(std::string_view text);
    // Docker's scheme: 02:42 and the IPv4 address; for IPv6, 02:42 and its last four bytes.
    static MacAddress from_ip(const IpAddress& address);
    bool is_set() const;
    std::string to_string() const;

    auto operator<=>(const MacAddress&) const = default;
};

}  // namespace wherry::net
