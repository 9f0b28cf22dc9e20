// DNSSEC's arithmetic (RFC 4034, 5155, 9276, 9824): what is signed, key tags, hashes of names, DS data. No keys here.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "dns/name.hpp"
#include "dns/rdata.hpp"
#include "dns/types.hpp"

namespace wherry::dns {

inline constexpr std::uint8_t algorithm_ecdsa_p256 = 13;  // RFC 6605
inline constexpr std::uint8_t algorithm_ed25519 = 15;     // RFC 8080
inline constexpr std::uint16_t dnskey_zone = 256;
inline constexpr std::uint16_t dnskey_secure_entry = 257;

std::uint16_t key_tag(std::span<const std::uint8_t> dnskey);  // RFC 4034 appendix B
// SHA-256 DS data of a key (RFC 4509).
Bytes make_ds(const Name& owner, std::span<const std::uint8_t> dnskey);

// RRSIG data up to the signature, and what the signature is of (RFC 4034 sections 3.1 and 3.1.8.1).
struct ToSign {
    Bytes rrsig;  // type covered to signer's name
    Bytes data;
};
struct SignatureFacts {
    std::uint8_t algorithm = 0;
    std::uint16_t key_tag = 0;
    std::uint32_t inception = 0;
    std::uint32_t expiration = 0;
    Name signer;
};
ToSign prepare_signature(const Name& owner, Type type, std::uint32_t ttl, std::vector<Bytes> records,
                         const SignatureFacts& facts);

using Nsec3Hash = std::array<std::uint8_t, 20>;
Nsec3Hash nsec3_hash(std::span<const std::uint8_t> name, std::span<const std::uint8_t> salt, unsigned iterations);
// The owner of a hash: its base32hex form in front of the zone's name.
Name nsec3_owner(const Nsec3Hash& hash, const Name& origin);
// hash plus or minus one, round the corner.
Nsec3Hash neighbour(Nsec3Hash hash, int by);

}  // namespace wherry::dns
