// Record data: checks, presentation form and compression by type, from one table of formats.
//
// "Wire form" here is uncompressed: every name in full. That is how zones keep data and how transfers and signatures
// see it (RFC 3597 section 4, RFC 4034 section 6.2).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "dns/name.hpp"
#include "dns/types.hpp"

namespace wherry::dns {

class MessageReader;
class MessageWriter;
struct RecordView;

using Bytes = std::vector<std::uint8_t>;

// One token of a master file: text with quotes and escapes still to be undone, and whether it stood in quotes.
struct Token {
    std::string_view text;
    bool quoted = false;
};

// Presentation form to wire form (RFC 1035 section 5.1 and the types' own RFCs); "\# n hex" works for every type
// (RFC 3597 section 5). Relative names are completed with origin.
Result<Bytes> parse_rdata(Type type, std::span<const Token> tokens, const Name& origin);
// Wire form to presentation form; what is malformed or unknown prints in RFC 3597's form.
std::string rdata_to_text(Type type, std::span<const std::uint8_t> rdata);
// A packet's record data (compressed names allowed where the type's RFC allows them) to wire form. invalid_argument
// when it does not have the type's shape.
Result<Bytes> rdata_from_message(const MessageReader& message, const RecordView& record);
// Whether wire-form data has the shape of the type (unknown types: always).
bool rdata_is_valid(Type type, std::span<const std::uint8_t> rdata);
// Writes wire-form data, compressing the names of RFC 1035's types. False when there is no room.
bool write_rdata_compressed(MessageWriter& writer, Type type, std::span<const std::uint8_t> rdata);
// Lower-cases the names that RFC 4034 section 6.2 (with RFC 6840 section 5.1) says are lower-cased, in place.
void canonicalize_rdata(Type type, std::span<std::uint8_t> rdata);

// The name at the start of (or `offset` into) checked wire-form data: NS, CNAME, DNAME, PTR, MX at 2, SRV at 6, SOA.
Name rdata_name(std::span<const std::uint8_t> rdata, std::size_t offset = 0);

// A type bit map (RFC 4034 section 4.1.2) of these types, which need not be sorted.
Bytes encode_type_bitmap(std::vector<Type> types);

// Undoes quotes and escapes of a character string.
Result<Bytes> unescape(std::string_view text);
// "1h30m" as BIND writes TTLs, or plain seconds; at most 2^31-1 (RFC 2181 section 8).
Result<std::uint32_t> parse_ttl(std::string_view text);

}  // namespace wherry::dns
