// DNS messages on the wire (RFC 1035 section 4, EDNS of RFC 6891). All integers are big-endian.
//
// MessageReader reads a received packet in place, without allocating; every offset is checked and compression pointers
// may only point backwards (RFC 1035 section 4.1.4), so that no packet can loop. MessageWriter fills a caller's buffer,
// compresses names, and can be rolled back to a record boundary when an answer does not fit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.hpp"
#include "dns/name.hpp"
#include "dns/types.hpp"

namespace wherry::dns {

inline constexpr std::size_t header_bytes = 12;
inline constexpr std::size_t max_message_bytes = 65535;

struct Header {
    std::uint16_t id = 0;
    bool response = false;  // QR
    Opcode opcode = Opcode::query;
    bool authoritative = false;        // AA
    bool truncated = false;            // TC
    bool recursion_desired = false;    // RD
    bool recursion_available = false;  // RA
    bool authentic_data = false;       // AD
    bool checking_disabled = false;    // CD
    std::uint8_t rcode = 0;            // low four bits
    std::uint16_t questions = 0;
    std::uint16_t answers = 0;
    std::uint16_t authorities = 0;
    std::uint16_t additionals = 0;
};

struct Question {
    Name name;
    Type type = Type::A;
    Class dns_class = Class::IN;
};

// A record of a packet. rdata points into the packet; names in it may be compressed (read them with the reader).
struct RecordView {
    Name name;
    Type type = Type::A;
    Class dns_class = Class::IN;
    std::uint32_t ttl = 0;
    std::size_t offset = 0;        // of the owner name in the packet
    std::size_t rdata_offset = 0;  // in the packet
    std::span<const std::uint8_t> rdata;
};

class MessageReader {
  public:
    // invalid_argument when there is no whole header.
    static Result<MessageReader> open(std::span<const std::uint8_t> packet);

    const Header& header() const { return header_; }
    std::span<const std::uint8_t> packet() const { return packet_; }
    std::size_t offset() const { return offset_; }

    Result<Question> read_question();
    Result<RecordView> read_record();
    // A name at `at`, which is moved behind it. Compressed or not.
    Result<Name> read_name(std::size_t& at) const;
    bool at_end() const { return offset_ == packet_.size(); }

  private:
    explicit MessageReader(std::span<const std::uint8_t> packet) : packet_(packet) {}
    std::span<const std::uint8_t> packet_;
    std::size_t offset_ = header_bytes;
    Header header_;
};

// EDNS option codes (IANA "DNS EDNS0 Option Codes").
enum class EdnsOption : std::uint16_t {
    NSID = 3,
    client_subnet = 8,
    expire = 9,
    cookie = 10,
    tcp_keepalive = 11,
    padding = 12,
    chain = 13,
    extended_error = 15
};

struct Edns {
    std::uint16_t udp_payload_bytes = 512;
    std::uint8_t extended_rcode = 0;
    std::uint8_t version = 0;
    bool dnssec_ok = false;                 // DO
    bool compact_ok = false;                // CO (RFC 9824 section 5.1); read only
    std::span<const std::uint8_t> options;  // sequence of {code, length, data}, checked for length

    // Data of the first option with this code; nullopt when there is none.
    std::optional<std::span<const std::uint8_t>> option(EdnsOption code) const;
};

// From an OPT record; invalid_argument when its options do not fill the rdata exactly or its owner is not the root.
Result<Edns> parse_edns(const RecordView& record);

class MessageWriter {
  public:
    explicit MessageWriter(std::span<std::uint8_t> buffer) : buffer_(buffer), limit_(buffer.size()) {}

    // Nothing is written beyond limit; at most the buffer's size.
    void set_limit(std::size_t limit) { limit_ = limit < buffer_.size() ? limit : buffer_.size(); }
    std::size_t limit() const { return limit_; }

    bool write_header(const Header& header);  // first; counts may be patched later by set_counts
    void set_counts(std::uint16_t questions, std::uint16_t answers, std::uint16_t authorities,
                    std::uint16_t additionals);
    void patch_header(const Header& header);
    bool write_question(const Question& question);
    // Owner, type, class, ttl and a length to be closed by end_rdata().
    bool begin_record(const Name& owner, Type type, Class dns_class, std::uint32_t ttl);
    bool end_rdata();
    // A whole record whose rdata is uncompressed wire form. Names inside are compressed for the types that allow it
    // (RFC 3597 section 4).
    bool write_record(const Name& owner, Type type, Class dns_class, std::uint32_t ttl,
                      std::span<const std::uint8_t> rdata);
    bool write_edns(const Edns& edns);

    bool write_name(const Name& name);  // compressed where possible
    bool write_name_uncompressed(const Name& name);
    bool write_u8(std::uint8_t value);
    bool write_u16(std::uint16_t value);
    bool write_u32(std::uint32_t value);
    bool write_bytes(std::span<const std::uint8_t> bytes);

    std::size_t size() const { return size_; }
    std::span<const std::uint8_t> data() const { return buffer_.first(size_); }

    struct Mark {
        std::size_t size;
        std::size_t names;
    };
    Mark mark() const { return {size_, names_}; }
    void rollback(Mark mark) {
        size_ = mark.size;
        names_ = mark.names;
    }

  private:
    bool room(std::size_t bytes) const { return size_ + bytes <= limit_; }
    // Offset of an occurrence of the name that starts at `wire` among the first `names` (whole) ones, or 0.
    std::uint16_t find(std::span<const std::uint8_t> wire, std::size_t names) const;

    std::span<std::uint8_t> buffer_;
    std::size_t limit_;
    std::size_t size_ = 0;
    std::size_t rdata_length_at_ = 0;
    // Offsets of names already written, for compression; enough for any answer that is small, and not searched for
    // long.
    std::array<std::uint16_t, 64> offsets_{};
    std::size_t names_ = 0;
};

constexpr std::uint16_t load_u16(const std::uint8_t* at) {
    return static_cast<std::uint16_t>(at[0] << 8U | at[1]);
}
constexpr std::uint32_t load_u32(const std::uint8_t* at) {
    return static_cast<std::uint32_t>(at[0]) << 24U | static_cast<std::uint32_t>(at[1]) << 16U |
           static_cast<std::uint32_t>(at[2]) << 8U | at[3];
}
constexpr void store_u16(std::uint8_t* at, std::uint16_t value) {
    at[0] = static_cast<std::uint8_t>(value >> 8U);
    at[1] = static_cast<std::uint8_t>(value);
}
constexpr void store_u32(std::uint8_t* at, std::uint32_t value) {
    store_u16(at, static_cast<std::uint16_t>(value >> 16U));
    store_u16(at + 2, static_cast<std::uint16_t>(value));
}

}  // namespace wherry::dns
