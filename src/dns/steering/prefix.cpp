#include "dns/steering/prefix.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace wherry::dns::steering {

Prefix Prefix::from_bytes(bool ipv6, const std::uint8_t* address, unsigned length) {
    Prefix prefix;
    prefix.ipv6 = ipv6;
    std::copy_n(address, ipv6 ? 16 : 4, prefix.bytes.begin());
    prefix.length = ipv6 ? 128 : 32;
    return prefix.shortened(length);
}

Prefix Prefix::of(const SocketAddress& address, unsigned length) {
    return from_bytes(address.family() == AF_INET6, socket_address_bytes(address.storage).data(), length);
}

Prefix Prefix::shortened(unsigned to) const {
    Prefix shorter = *this;
    if (to >= length) return shorter;
    shorter.length = static_cast<std::uint8_t>(to);
    for (unsigned bit = to; bit < 128; ++bit) {
        if (bit % 8 == 0) {
            std::fill(shorter.bytes.begin() + bit / 8, shorter.bytes.end(), std::uint8_t{0});
            break;
        }
        shorter.bytes[bit / 8] = static_cast<std::uint8_t>(shorter.bytes[bit / 8] & ~(0x80U >> bit % 8));
    }
    return shorter;
}

bool Prefix::contains(const Prefix& other) const {
    return ipv6 == other.ipv6 && other.length >= length && other.shortened(length) == *this;
}

Result<Prefix> Prefix::parse(std::string_view text) {
    auto bad = [&](std::string_view why) {
        return fail(Code::invalid_argument,
                    "\"" + std::string(text.substr(0, 80)) + "\" is no prefix: " + std::string(why));
    };
    auto slash = text.find('/');
    std::string host(text.substr(0, slash));
    std::array<std::uint8_t, 16> bytes{};
    bool ipv6 = host.find(':') != std::string::npos;
    if (::inet_pton(ipv6 ? AF_INET6 : AF_INET, host.c_str(), bytes.data()) != 1) return bad("ADDRESS/BITS is wanted");
    unsigned longest = ipv6 ? 128 : 32;
    unsigned length = longest;
    if (slash != std::string_view::npos) {
        std::string_view digits = text.substr(slash + 1);
        auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), length);
        if (error != std::errc() || stop != digits.data() + digits.size() || length > longest)
            return bad("the number of bits is wrong");
    }
    Prefix whole = from_bytes(ipv6, bytes.data(), longest);
    Prefix prefix = whole.shortened(length);
    if (prefix.bytes != whole.bytes) return bad("bits are set beyond its length");
    return prefix;
}

std::string Prefix::to_text() const {
    std::array<char, INET6_ADDRSTRLEN> text{};
    ::inet_ntop(ipv6 ? AF_INET6 : AF_INET, bytes.data(), text.data(), text.size());
    return std::string(text.data()) + "/" + std::to_string(length);
}

std::size_t PrefixHash::operator()(const Prefix& prefix) const {
    std::uint64_t words[2];
    std::memcpy(words, prefix.bytes.data(), sizeof words);
    std::uint64_t hash = words[0] * 0x9E3779B97F4A7C15ULL ^ (words[1] + 0x7F4A7C15ULL) * 0xC2B2AE3D27D4EB4FULL;
    hash ^= (static_cast<std::uint64_t>(prefix.length) << 1U | static_cast<std::uint64_t>(prefix.ipv6)) *
            0x165667B19E3779F9ULL;
    hash ^= hash >> 29U;
    hash *= 0xBF58476D1CE4E5B9ULL;
    return hash ^ hash >> 32U;
}

}  // namespace wherry::dns::steering
