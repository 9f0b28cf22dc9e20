// Encodings that presentation forms use: base32hex (RFC 4648 section 7), addresses, time stamps of RRSIG.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "dns/rdata.hpp"

namespace wherry::dns {

std::string base32hex_encode(std::span<const std::uint8_t> bytes);  // lower case, no padding
Result<Bytes> base32hex_decode(std::string_view text);
std::string hex_upper(std::span<const std::uint8_t> bytes);
Result<Bytes> hex_decode(std::string_view text);
Result<Bytes> parse_ipv4(std::string_view text);
Result<Bytes> parse_ipv6(std::string_view text);
std::string ipv4_to_text(std::span<const std::uint8_t> bytes);  // 4 bytes
std::string ipv6_to_text(std::span<const std::uint8_t> bytes);  // 16 bytes, RFC 5952
// RRSIG times (RFC 4034 section 3.2): YYYYMMDDHHmmSS in UTC, or seconds; serial arithmetic, 32 bits.
Result<std::uint32_t> parse_signature_time(std::string_view text);
std::string signature_time_to_text(std::uint32_t seconds);
// A quoted character string with the escapes of RFC 1035 section 5.1.
std::string quote(std::span<const std::uint8_t> bytes);
// LOC (RFC 1876), whole data.
Result<Bytes> parse_loc(std::span<const Token> tokens);
std::string loc_to_text(std::span<const std::uint8_t> rdata);  // 16 bytes, version 0
// SvcParams (RFC 9460 section 2.1 and 7): sorted keys in wire form.
Result<Bytes> parse_svc_params(std::span<const Token> tokens);
std::string svc_params_to_text(std::span<const std::uint8_t> params);
bool svc_params_are_valid(std::span<const std::uint8_t> params);
// APL (RFC 3123).
Result<Bytes> parse_apl(std::span<const Token> tokens);
std::string apl_to_text(std::span<const std::uint8_t> rdata);
bool apl_is_valid(std::span<const std::uint8_t> rdata);

}  // namespace wherry::dns
