// Names are compared and hashed without regard to the case of ASCII letters (RFC 4343), eight bytes at a time. Length
// bytes of labels are below 'A', so folding leaves them alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace wherry::dns {

// Eight bytes with ASCII letters in lower case, without a branch.
inline std::uint64_t lower8(std::uint64_t word) {
    constexpr std::uint64_t ones = 0x0101010101010101U;
    std::uint64_t low = word & (0x7F * ones);
    std::uint64_t above_at = low + (0x7F - 'Z') * ones;  // top bit: byte > 'Z'
    std::uint64_t from_a = low + (0x80 - 'A') * ones;    // top bit: byte >= 'A'
    std::uint64_t letters = (from_a & ~above_at & ~word) & (0x80 * ones);
    return word | (letters >> 2U);
}

inline std::uint64_t load8(const std::uint8_t* at) {
    std::uint64_t word = 0;
    std::memcpy(&word, at, 8);
    return word;
}

// One to seven bytes as a number, the first lowest: by loads that overlap, since a copy of so many bytes as only the
// running program knows is a call.
inline std::uint64_t load_less_than8(const std::uint8_t* at, std::size_t size) {
    if (size >= 4) {
        std::uint32_t first = 0;
        std::uint32_t last = 0;
        std::memcpy(&first, at, 4);
        std::memcpy(&last, at + size - 4, 4);
        return first | std::uint64_t{last} << (8 * (size - 4));
    }
    std::uint64_t word = at[0];
    if (size >= 2) word |= std::uint64_t{at[1]} << 8U;
    if (size == 3) word |= std::uint64_t{at[2]} << 16U;
    return word;
}

// Two names in wire form, both of `size` bytes.
inline bool same_name(const std::uint8_t* a, const std::uint8_t* b, std::size_t size) {
    auto same = [](std::uint64_t x, std::uint64_t y) { return x == y || lower8(x) == lower8(y); };
    if (size < 8) return size == 0 || same(load_less_than8(a, size), load_less_than8(b, size));
    for (std::size_t at = 0; at + 8 < size; at += 8)
        if (!same(load8(a + at), load8(b + at))) return false;
    return same(load8(a + size - 8), load8(b + size - 8));
}

}  // namespace wherry::dns
