// TSIG (RFC 8945): messages authenticated with a shared secret, both as the one who checks and the one who signs.
//
//     TsigCheck check = tsig_verify(ring, packet, record, now);            // a request
//     if (check.error == 0) size = tsig_sign({.key = *check.key, .prior_mac = check.mac, .now = now}, buffer, size);
//
// Pure functions over packets; nothing is kept. Times are seconds since the epoch.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "dns/message.hpp"
#include "dns/name.hpp"
#include "dns/rdata.hpp"

namespace wherry::dns {

// RFC 8945 section 6; HMAC-MD5 is not offered.
enum class TsigAlgorithm : unsigned char { hmac_sha1, hmac_sha224, hmac_sha256, hmac_sha384, hmac_sha512 };

std::string_view to_string(TsigAlgorithm algorithm);  // "hmac-sha256"
Result<TsigAlgorithm> parse_tsig_algorithm(std::string_view text);

struct TsigKey {
    Name name;
    TsigAlgorithm algorithm = TsigAlgorithm::hmac_sha256;
    Bytes secret;
};

// The keys that a server or a client knows. Immutable once shared.
class KeyRing {
  public:
    Result<> add(TsigKey key);  // already_exists
    std::shared_ptr<const TsigKey> find(const Name& name) const;
    bool empty() const { return keys_.empty(); }

  private:
    std::map<std::string, std::shared_ptr<const TsigKey>> keys_;  // by lower-case text
};

inline constexpr std::uint16_t tsig_fudge_seconds = 300;
// Of a signature that tsig_sign adds with these keys, at most: owner, fixed part, algorithm, MAC, server time.
std::size_t tsig_room(const TsigKey& key);

// What the check of a message's TSIG record came to.
struct TsigCheck {
    bool malformed = false;              // FORMERR, no TSIG in the answer
    std::uint16_t error = 0;             // TSIG error: BADSIG, BADKEY, BADTIME, BADTRUNC; 0: authentic
    std::shared_ptr<const TsigKey> key;  // null with BADKEY
    Bytes mac;                           // of the message: the prior MAC of the answer
    std::uint64_t time = 0;              // that the signer wrote
    Name key_name;                       // as sent, also with BADKEY
    Name algorithm_name;
};

struct TsigVerifyOptions {
    std::uint64_t now = 0;
    std::span<const std::uint8_t> prior_mac;  // answers: of the request, or of the last signed message of a stream
    bool timers_only = false;                 // later messages of a stream (RFC 8945 section 5.3.1)
    std::span<const std::uint8_t> unsigned_messages;  // of the stream since the last signed one, one after another
};

// `record` is the last record of `packet` and of type TSIG.
TsigCheck tsig_verify(const KeyRing& ring, std::span<const std::uint8_t> packet, const RecordView& record,
                      const TsigVerifyOptions& options);

struct TsigSignOptions {
    const TsigKey& key;
    std::span<const std::uint8_t> prior_mac;
    bool timers_only = false;
    std::uint64_t now = 0;
    std::uint16_t error = 0;        // BADTIME: the server's time goes along
    std::uint64_t signed_time = 0;  // with BADTIME: the client's time, else 0
};

// Adds the TSIG record to the message of `size` bytes at the start of `buffer`; the new size, 0 when there is no room.
// `mac_out` gets the MAC, for the next message of a stream.
std::size_t tsig_sign(const TsigSignOptions& options, std::span<std::uint8_t> buffer, std::size_t size,
                      Bytes* mac_out = nullptr);
// The unsigned TSIG record of an answer to a message that could not be checked (BADKEY, BADSIG).
std::size_t tsig_add_error(const TsigCheck& check, std::uint64_t now, std::span<std::uint8_t> buffer, std::size_t size);

}  // namespace wherry::dns
