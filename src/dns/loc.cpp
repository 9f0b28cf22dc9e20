// LOC record data (RFC 1876).
#include <array>
#include <charconv>
#include <cstdio>

#include "dns/message.hpp"
#include "dns/text_codec.hpp"

namespace wherry::dns {

namespace {

// A decimal number with at most three digits of fraction, in thousandths; nullopt-like -1 is not valid input here.
Result<std::int64_t> parse_thousandths(std::string_view text) {
    bool negative = text.starts_with('-');
    if (negative) text.remove_prefix(1);
    std::uint32_t whole = 0;
    const char* end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data(), end, whole);
    if (text.empty() || error != std::errc() || whole > 1'000'000'000)
        return fail(Code::invalid_argument, "LOC: not a number");
    std::int64_t value = std::int64_t{whole} * 1000;
    if (stop != end) {
        if (*stop != '.') return fail(Code::invalid_argument, "LOC: not a number");
        std::int64_t scale = 100;
        for (const char* p = stop + 1; p != end; ++p, scale /= 10) {
            if (*p < '0' || *p > '9' || scale == 0) return fail(Code::invalid_argument, "LOC: not a number");
            value += (*p - '0') * scale;
        }
    }
    return negative ? -value : value;
}

// Metres, as centimetres; the "m" is optional.
Result<std::int64_t> parse_centimetres(std::string_view text) {
    if (text.ends_with('m')) text.remove_suffix(1);
    return TRY(parse_thousandths(text)) / 10;
}

// Base and exponent of ten, four bits each (RFC 1876 section 2).
std::uint8_t encode_size(std::int64_t centimetres) {
    unsigned exponent = 0;
    while (centimetres >= 10 && exponent < 9) {
        centimetres /= 10;
        ++exponent;
    }
    return static_cast<std::uint8_t>((centimetres & 15) << 4U | exponent);
}

std::string size_to_text(std::uint8_t value) {
    std::int64_t centimetres = value >> 4U;
    for (unsigned i = 0; i < (value & 15U); ++i) centimetres *= 10;
    char text[48];
    std::snprintf(text, sizeof text, "%lld.%02lldm", static_cast<long long>(centimetres / 100),
                  static_cast<long long>(centimetres % 100));
    return text;
}

std::string angle_to_text(std::uint32_t value, char positive, char negative) {
    std::int64_t thousandths = static_cast<std::int64_t>(value) - (std::int64_t{1} << 31U);
    char side = thousandths < 0 ? negative : positive;
    if (thousandths < 0) thousandths = -thousandths;
    char text[64];
    std::snprintf(text, sizeof text, "%lld %lld %lld.%03lld %c", static_cast<long long>(thousandths / 3600000),
                  static_cast<long long>(thousandths / 60000 % 60), static_cast<long long>(thousandths / 1000 % 60),
                  static_cast<long long>(thousandths % 1000), side);
    return text;
}

}  // namespace

Result<Bytes> parse_loc(std::span<const Token> tokens) {
    std::size_t next = 0;
    auto angle = [&](char positive, char negative, std::int64_t limit) -> Result<std::uint32_t> {
        std::array<std::int64_t, 3> parts{};  // degrees, minutes, seconds in thousandths
        for (std::size_t i = 0; next < tokens.size(); ++next) {
            std::string_view text = tokens[next].text;
            if (text.size() == 1 && (text[0] == positive || text[0] == negative)) {
                ++next;
                if (i == 0 || parts[0] % 1000 != 0 || parts[1] % 1000 != 0) break;
                std::int64_t total = parts[0] * 3600 + parts[1] * 60 + parts[2];
                if (total > limit * 3600 * 1000 || parts[1] > 59000 || parts[2] > 59999)
                    return fail(Code::out_of_range, "LOC: angle is out of range");
                return static_cast<std::uint32_t>((std::int64_t{1} << 31U) + (text[0] == positive ? total : -total));
            }
            if (i == parts.size()) break;
            parts[i++] = TRY(parse_thousandths(text));
            if (parts[i - 1] < 0) break;
        }
        return fail(Code::invalid_argument, "LOC: expected degrees, minutes, seconds and a direction");
    };
    std::uint32_t latitude = TRY(angle('N', 'S', 90));
    std::uint32_t longitude = TRY(angle('E', 'W', 180));
    if (next >= tokens.size()) return fail(Code::invalid_argument, "LOC: altitude is missing");
    std::int64_t altitude = TRY(parse_centimetres(tokens[next++].text)) + 10'000'000;
    if (altitude < 0 || altitude > 0xFFFFFFFFLL) return fail(Code::out_of_range, "LOC: altitude is out of range");
    std::array<std::int64_t, 3> sizes{100, 1'000'000, 1000};  // 1 m, 10 km, 10 m
    for (std::int64_t& size : sizes) {
        if (next < tokens.size()) size = TRY(parse_centimetres(tokens[next++].text));
        if (size < 0 || size > 9'000'000'000LL) return fail(Code::out_of_range, "LOC: size is out of range");
    }
    if (next != tokens.size()) return fail(Code::invalid_argument, "LOC: too many fields");
    Bytes wire(16);
    wire[1] = encode_size(sizes[0]);
    wire[2] = encode_size(sizes[1]);
    wire[3] = encode_size(sizes[2]);
    store_u32(wire.data() + 4, latitude);
    store_u32(wire.data() + 8, longitude);
    store_u32(wire.data() + 12, static_cast<std::uint32_t>(altitude));
    return wire;
}

std::string loc_to_text(std::span<const std::uint8_t> rdata) {
    std::int64_t altitude = static_cast<std::int64_t>(load_u32(rdata.data() + 12)) - 10'000'000;
    char text[48];
    std::snprintf(text, sizeof text, "%s%lld.%02lldm", altitude < 0 ? "-" : "",
                  static_cast<long long>(std::abs(altitude) / 100), static_cast<long long>(std::abs(altitude) % 100));
    return angle_to_text(load_u32(rdata.data() + 4), 'N', 'S') + " " +
           angle_to_text(load_u32(rdata.data() + 8), 'E', 'W') + " " + text + " " + size_to_text(rdata[1]) + " " +
           size_to_text(rdata[2]) + " " + size_to_text(rdata[3]);
}

}  // namespace wherry::dns
