// SipHash-2-4 (Aumasson and Bernstein, 2012) with a 128-bit key and a 64-bit result, for DNS server cookies (RFC 9018
// section 4.4).
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace wherry::dns {

using SipKey = std::array<std::uint8_t, 16>;
std::uint64_t siphash24(const SipKey& key, std::span<const std::uint8_t> data);

}  // namespace wherry::dns
