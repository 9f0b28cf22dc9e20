// Records one after another in plain wire form: owner, type, TTL and data behind its length, nothing compressed. What
// differences, journals and transfers are made of.
#pragma once

#include <cstdint>
#include <span>

#include "dns/message.hpp"
#include "dns/name.hpp"
#include "dns/rdata.hpp"
#include "dns/types.hpp"

namespace wherry::dns {

struct PlainRecord {
    Name owner;
    Type type = Type::A;
    std::uint32_t ttl = 0;
    std::span<const std::uint8_t> rdata;
};

inline void append_plain(Bytes& list, const Name& owner, Type type, std::uint32_t ttl,
                         std::span<const std::uint8_t> rdata) {
    std::array<std::uint8_t, 8> fixed{};
    store_u16(fixed.data(), static_cast<std::uint16_t>(type));
    store_u32(fixed.data() + 2, ttl);
    store_u16(fixed.data() + 6, static_cast<std::uint16_t>(rdata.size()));
    list.insert(list.end(), owner.wire().begin(), owner.wire().end());
    list.insert(list.end(), fixed.begin(), fixed.end());
    list.insert(list.end(), rdata.begin(), rdata.end());
}

// Takes the first record off `rest`. False at the end, and when what follows is not a record (rest is then not empty).
inline bool take_plain(std::span<const std::uint8_t>& rest, PlainRecord& record) {
    std::size_t at = 0;
    while (at < rest.size() && rest[at] != 0) {
        if (rest[at] > max_label_bytes) return false;
        at += rest[at] + 1U;
    }
    if (at >= rest.size() || at + 1 > max_name_bytes || rest.size() - at - 1 < 8) return false;
    record.owner = Name::from_checked_wire(rest.first(at + 1));
    const std::uint8_t* fixed = rest.data() + at + 1;
    std::size_t size = load_u16(fixed + 6);
    if (rest.size() - at - 9 < size) return false;
    record.type = static_cast<Type>(load_u16(fixed));
    record.ttl = load_u32(fixed + 2);
    record.rdata = rest.subspan(at + 9, size);
    rest = rest.subspan(at + 9 + size);
    return true;
}

// RFC 1982 with 32 bits: whether a is newer than b.
constexpr bool serial_newer(std::uint32_t a, std::uint32_t b) {
    return a != b && static_cast<std::int32_t>(a - b) > 0;
}

// The serial of a SOA's wire-form data.
inline std::uint32_t soa_serial(std::span<const std::uint8_t> rdata) {
    return load_u32(rdata.data() + rdata.size() - 20);
}

}  // namespace wherry::dns
