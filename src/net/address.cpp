#include "net/address.hpp"

#include <arpa/inet.h>

#include <cstring>

namespace wherry::net {

IpAddress IpAddress::ipv4(std::uint32_t host_order) {
    IpAddress address;
    address.family_ = Family::ipv4;
    for (unsigned i = 0; i < 4; ++i) address.bytes_[i] = static_cast<std::uint8_t>(host_order >> (24U - 8U * i));
    return address;
}

IpAddress IpAddress::ipv6(const std::array<std::uint8_t, 16>& bytes) {
    IpAddress address;
    address.family_ = Family::ipv6;
    address.bytes_ = bytes;
    return address;
}

Result<IpAddress> IpAddress::parse(std::string_view text) {
    // inet_pton reads C strings: an embedded zero would cut the text short.
    std::string copy(text);
    if (copy.find('\0') == std::string::npos) {
        std::array<std::uint8_t, 16> bytes{};
        if (::inet_pton(AF_INET, copy.c_str(), bytes.data()) == 1) {
            IpAddress address;
            address.family_ = Family::ipv4;
            address.bytes_ = bytes;
            return address;
        }
        if (::inet_pton(AF_INET6, copy.c_str(), bytes.data()) == 1) return ipv6(bytes);
    }
    return fail(Code::invalid_argument, "invalid IP address: " + copy);
}

IpAddress IpAddress::any(Family family) {
    IpAddress address;
    address.family_ = family;
    return address;
}

bool IpAddress::is_any() const {
    return is_set() && bytes_ == std::array<std::uint8_t, 16>{};
}

bool IpAddress::is_loopback() const {
    if (is_ipv4()) return bytes_[0] == 127;
    return is_ipv6() && *this == any(Family::ipv6).plus(1);
}

unsigned IpAddress::bits() const {
    switch (family_) {
        case Family::ipv4:
            return 32;
        case Family::ipv6:
            return 128;
        case Family::none:
            break;
    }
    return 0;
}

std::string_view IpAddress::bytes() const {
    // SAFETY: char may alias any object; bits() / 8 never exceeds the array.
    return {reinterpret_cast<const char*>(bytes_.data()), bits() / 8};
}

std::uint32_t IpAddress::ipv4_value() const {
    std::uint32_t value = 0;
    for (unsigned i = 0; i < 4; ++i) value = value << 8U | bytes_[i];
    return value;
}

IpAddress IpAddress::plus(std::uint64_t offset) const {
    IpAddress result = *this;
    std::uint64_t carry = offset;
    for (unsigned i = bits() / 8; i-- > 0 && carry != 0;) {
        std::uint64_t sum = (carry & 0xffU) + result.bytes_[i];
        result.bytes_[i] = static_cast<std::uint8_t>(sum);
        carry = (carry >> 8U) + (sum >> 8U);
    }
    return result;
}

std::string IpAddress::to_string() const {
    if (!is_set()) return {};
    std::array<char, INET6_ADDRSTRLEN> text{};
    ::inet_ntop(is_ipv4() ? AF_INET : AF_INET6, bytes_.data(), text.data(), text.size());
    return text.data();
}

Result<IpPrefix> IpPrefix::parse(std::string_view text) {
    IpPrefix prefix;
    auto slash = text.find('/');
    auto address = IpAddress::parse(text.substr(0, slash));
    if (!address) return fail(Code::invalid_argument, "invalid CIDR address: " + std::string(text));
    prefix.address = *address;
    prefix.length = prefix.address.bits();
    if (slash == std::string_view::npos) return prefix;
    std::string_view digits = text.substr(slash + 1);
    unsigned length = 0;
    if (digits.empty() || digits.size() > 3 || (digits.size() > 1 && digits.front() == '0'))
        return fail(Code::invalid_argument, "invalid CIDR address: " + std::string(text));
    for (char digit : digits) {
        if (digit < '0' || digit > '9')
            return fail(Code::invalid_argument, "invalid CIDR address: " + std::string(text));
        length = length * 10 + static_cast<unsigned>(digit - '0');
    }
    if (length > prefix.length) return fail(Code::invalid_argument, "invalid CIDR address: " + std::string(text));
    prefix.length = length;
    return prefix;
}

namespace {

// `address` with the bits after `length` all zero or all one.
IpAddress with_host_bits(const IpAddress& address, unsigned length, bool ones) {
    std::array<std::uint8_t, 16> bytes{};
    std::string_view source = address.bytes();
    for (std::size_t i = 0; i < source.size(); ++i) {
        auto value = static_cast<std::uint8_t>(source[i]);
        unsigned network_bits = length > i * 8 ? length - static_cast<unsigned>(i) * 8 : 0;
        auto host_mask = static_cast<std::uint8_t>(network_bits >= 8 ? 0 : 0xffU >> network_bits);
        bytes[i] = static_cast<std::uint8_t>(ones ? value | host_mask : value & ~host_mask);
    }
    if (address.is_ipv6()) return IpAddress::ipv6(bytes);
    std::uint32_t value = 0;
    for (unsigned i = 0; i < 4; ++i) value = value << 8U | bytes[i];
    return address.is_set() ? IpAddress::ipv4(value) : address;
}

}  // namespace

IpPrefix IpPrefix::network() const {
    return {with_host_bits(address, length, false), length};
}

IpAddress IpPrefix::last() const {
    return with_host_bits(address, length, true);
}

bool IpPrefix::contains(const IpAddress& other) const {
    return other.is_set() && other.family() == address.family() &&
           with_host_bits(other, length, false) == with_host_bits(address, length, false);
}

bool IpPrefix::overlaps(const IpPrefix& other) const {
    return length <= other.length ? contains(other.address) : other.contains(address);
}

std::string IpPrefix::to_string() const {
    return is_set() ? address.to_string() + "/" + std::to_string(length) : std::string{};
}

Result<MacAddress> MacAddress::parse(std::string_view text) {
    MacAddress mac;
    bool good = text.size() == 17;
    for (std::size_t i = 0; good && i < 17; ++i) {
        char c = text[i];
        if (i % 3 == 2) {
            good = (c == ':' || c == '-') && c == text[2];
            continue;
        }
        unsigned digit = 0;
        if (c >= '0' && c <= '9') {
            digit = static_cast<unsigned>(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            digit = static_cast<unsigned>(c - 'a') + 10;
        } else if (c >= 'A' && c <= 'F') {
            digit = static_cast<unsigned>(c - 'A') + 10;
        } else {
            good = false;
        }
        auto& byte = mac.bytes[i / 3];
        byte = static_cast<std::uint8_t>((unsigned{byte} << 4U) | digit);
    }
    if (!good) return fail(Code::invalid_argument, "invalid MAC address: " + std::string(text));
    if ((mac.bytes[0] & 1U) != 0 || !mac.is_set())
        return fail(Code::invalid_argument, "not a MAC address an interface can have: " + std::string(text));
    return mac;
}

MacAddress MacAddress::from_ip(const IpAddress& address) {
    MacAddress mac;
    mac.bytes = {0x02, 0x42, 0, 0, 0, 0};
    std::string_view bytes = address.bytes();
    if (bytes.size() >= 4) std::memcpy(mac.bytes.data() + 2, bytes.data() + bytes.size() - 4, 4);
    return mac;
}

bool MacAddress::is_set() const {
    return bytes != std::array<std::uint8_t, 6>{};
}

std::string MacAddress::to_string() const {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    for (std::uint8_t byte : bytes) {
        if (!text.empty()) text += ':';
        text += digits[byte >> 4U];
        text += digits[byte & 15U];
    }
    return text;
}

}  // namespace wherry::net
