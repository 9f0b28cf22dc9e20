#include "dns/dnssec.hpp"

#include <openssl/evp.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cstring>

#include "dns/message.hpp"
#include "dns/text_codec.hpp"

namespace wherry::dns {

namespace {

void put16(Bytes& out, std::uint32_t value) {
    out.push_back(static_cast<std::uint8_t>(value >> 8U));
    out.push_back(static_cast<std::uint8_t>(value));
}

void put32(Bytes& out, std::uint32_t value) {
    put16(out, value >> 16U);
    put16(out, value & 0xFFFFU);
}

void put(Bytes& out, std::span<const std::uint8_t> bytes) {
    out.insert(out.end(), bytes.begin(), bytes.end());
}

}  // namespace

std::uint16_t key_tag(std::span<const std::uint8_t> dnskey) {
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i < dnskey.size(); ++i) sum += (i & 1U) != 0 ? dnskey[i] : std::uint32_t{dnskey[i]} << 8U;
    sum += sum >> 16U & 0xFFFFU;
    return static_cast<std::uint16_t>(sum);
}

Bytes make_ds(const Name& owner, std::span<const std::uint8_t> dnskey) {
    Bytes input;
    put(input, owner.lower().wire());
    put(input, dnskey);
    Bytes ds;
    put16(ds, key_tag(dnskey));
    ds.push_back(dnskey[3]);
    ds.push_back(2);
    std::array<std::uint8_t, SHA256_DIGEST_LENGTH> digest{};
    SHA256(input.data(), input.size(), digest.data());
    put(ds, digest);
    return ds;
}

ToSign prepare_signature(const Name& owner, Type type, std::uint32_t ttl, std::vector<Bytes> records,
                         const SignatureFacts& facts) {
    ToSign made;
    const Name canonical = owner.lower();
    put16(made.rrsig, static_cast<std::uint16_t>(type));
    made.rrsig.push_back(facts.algorithm);
    made.rrsig.push_back(static_cast<std::uint8_t>(owner.label_count() - (owner.is_wildcard() ? 1U : 0U)));
    put32(made.rrsig, ttl);
    put32(made.rrsig, facts.expiration);
    put32(made.rrsig, facts.inception);
    put16(made.rrsig, facts.key_tag);
    put(made.rrsig, facts.signer.lower().wire());
    made.data = made.rrsig;
    for (Bytes& rdata : records) canonicalize_rdata(type, rdata);
    std::ranges::sort(records);
    records.erase(std::ranges::unique(records).begin(), records.end());
    for (const Bytes& rdata : records) {
        put(made.data, canonical.wire());
        put16(made.data, static_cast<std::uint16_t>(type));
        put16(made.data, 1);
        put32(made.data, ttl);
        put16(made.data, static_cast<std::uint32_t>(rdata.size()));
        put(made.data, rdata);
    }
    return made;
}

Nsec3Hash nsec3_hash(std::span<const std::uint8_t> name, std::span<const std::uint8_t> salt, unsigned iterations) {
    std::array<std::uint8_t, max_name_bytes + 255> input{};
    std::size_t size = std::min(name.size(), max_name_bytes);
    for (std::size_t i = 0; i < size; ++i) input[i] = to_lower(name[i]);
    Nsec3Hash hash{};
    for (unsigned round = 0; round <= iterations; ++round) {
        if (!salt.empty()) std::memcpy(input.data() + size, salt.data(), salt.size());
        SHA1(input.data(), size + salt.size(), hash.data());
        std::memcpy(input.data(), hash.data(), hash.size());
        size = hash.size();
    }
    return hash;
}

Name nsec3_owner(const Nsec3Hash& hash, const Name& origin) {
    std::string label = base32hex_encode(hash);
    std::array<std::uint8_t, 33> wire{};
    wire[0] = 32;
    std::copy_n(label.begin(), 32, wire.begin() + 1);
    auto name = origin.with_prefix(wire);
    return name ? *name : origin;
}

Nsec3Hash neighbour(Nsec3Hash hash, int by) {
    for (std::size_t i = hash.size(); i-- > 0;) {
        const int value = hash[i] + by;
        hash[i] = static_cast<std::uint8_t>(value);
        if (value >= 0 && value <= 255) break;
    }
    return hash;
}

}  // namespace wherry::dns
