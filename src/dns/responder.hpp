// From a query's packet to the answer's: the authoritative algorithm of RFC 1034 section 4.3.2 with the additions of
// RFC 2308 (negative answers), 4592 (wildcards), 6672 (DNAME), 6891 (EDNS), 7873 and 9018 (cookies), 8482 (minimal
// ANY), 8914 (extended errors), 9619 (one question) and, for presigned zones, 4035 section 3.1 and 5155 section 7.2.
//
// Stateless but for the options: one Responder serves every thread. Nothing is allocated on the way of an answer.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "dns/catalog.hpp"
#include "dns/message.hpp"
#include "dns/siphash.hpp"
#include "dns/transfer_out.hpp"

namespace wherry::dns {

enum class Transport : unsigned char { udp, tcp, tls };

struct ResponderOptions {
    std::string nsid;                        // RFC 5001; empty: none
    std::string version;                     // CH TXT version.bind; empty: refused
    std::uint16_t udp_payload_bytes = 1232;  // what we announce, and the most we send over UDP
    SipKey cookie_secret{};
    bool cookies = true;
    std::uint16_t tcp_keepalive_ds = 100;  // RFC 7828, in units of 100 ms; 0: not announced
};

struct QueryContext {
    std::span<const std::uint8_t> client;  // 4 or 16 bytes of address, for cookies and access
    Transport transport = Transport::udp;
    std::uint32_t now = 0;  // seconds since the epoch, for cookies and signatures
};

// What is left to whoever called the responder: it has checked the message's shape and signature, nobody's rights.
enum class Action : unsigned char { none, transfer, update, notify };

// What became of a query, for metrics and the query log.
struct Outcome {
    Rcode rcode = Rcode::NOERROR;
    bool answered = false;  // false: nothing is sent (a response, or too short to have an id)
    bool truncated = false;
    Opcode opcode = Opcode::query;
    Type type = Type::A;
    std::uint64_t name_hash = 0;         // of the name that was asked for, any case
    bool cookie_valid = false;           // the client has shown that it receives at its address
    Action action = Action::none;        // not none: nothing was written
    std::shared_ptr<const TsigKey> key;  // that the message was signed with
    Bytes mac;                           // of the message
};

class Responder {
  public:
    explicit Responder(ResponderOptions options) : options_(std::move(options)) {}

    // Writes the answer into `answer` (at least 512 bytes; 65535 for TCP) and returns its size, 0 for no answer.
    std::size_t respond(const ZoneSet& zones, const QueryContext& context, std::span<const std::uint8_t> query,
                        std::span<std::uint8_t> answer, Outcome& outcome) const;
    // The same without the short way for common queries; for tests.
    std::size_t respond_fully(const ZoneSet& zones, const QueryContext& context, std::span<const std::uint8_t> query,
                              std::span<std::uint8_t> answer, Outcome& outcome) const;
    // The answer with this rcode and nothing in it to a request that was left to the caller; signed where it was.
    static std::size_t answer_plainly(std::span<const std::uint8_t> query, Rcode rcode, const TsigSession& session,
                                      std::uint64_t now, std::span<std::uint8_t> answer);
    // Takes everything but the question out of an answer and marks it truncated; the new size.
    static std::size_t cut(std::span<std::uint8_t> answer);
    const ResponderOptions& options() const { return options_; }

  private:
    ResponderOptions options_;
};

}  // namespace wherry::dns
