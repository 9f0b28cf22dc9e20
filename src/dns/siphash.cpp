#include "dns/siphash.hpp"

#include <bit>
#include <cstddef>
#include <cstring>

namespace wherry::dns {

std::uint64_t siphash24(const SipKey& key, std::span<const std::uint8_t> data) {
    auto load = [](const std::uint8_t* at) {
        std::uint64_t word = 0;
        std::memcpy(&word, at, 8);  // little-endian, as the machine's
        return word;
    };
    const std::uint64_t k0 = load(key.data());
    const std::uint64_t k1 = load(key.data() + 8);
    std::uint64_t v0 = k0 ^ 0x736f6d6570736575U;
    std::uint64_t v1 = k1 ^ 0x646f72616e646f6dU;
    std::uint64_t v2 = k0 ^ 0x6c7967656e657261U;
    std::uint64_t v3 = k1 ^ 0x7465646279746573U;
    auto round = [&] {
        v0 += v1;
        v1 = std::rotl(v1, 13) ^ v0;
        v0 = std::rotl(v0, 32);
        v2 += v3;
        v3 = std::rotl(v3, 16) ^ v2;
        v0 += v3;
        v3 = std::rotl(v3, 21) ^ v0;
        v2 += v1;
        v1 = std::rotl(v1, 17) ^ v2;
        v2 = std::rotl(v2, 32);
    };
    auto absorb = [&](std::uint64_t word) {
        v3 ^= word;
        round();
        round();
        v0 ^= word;
    };
    std::size_t at = 0;
    for (; at + 8 <= data.size(); at += 8) absorb(load(data.data() + at));
    std::uint64_t last = static_cast<std::uint64_t>(data.size()) << 56U;
    for (std::size_t i = 0; at + i < data.size(); ++i) last |= static_cast<std::uint64_t>(data[at + i]) << (8 * i);
    absorb(last);
    v2 ^= 0xff;
    for (int i = 0; i < 4; ++i) round();
    return v0 ^ v1 ^ v2 ^ v3;
}

}  // namespace wherry::dns
