#include "dns/rdata.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "base/encoding.hpp"
#include "dns/message.hpp"
#include "dns/rdata_format.hpp"
#include "dns/text_codec.hpp"

namespace wherry::dns {

namespace {

constexpr std::size_t max_rdata_bytes = 65535;

std::unexpected<Error> bad(std::string message) {
    return fail(Code::invalid_argument, std::move(message));
}

void append_u16(Bytes& bytes, std::uint16_t value) {
    bytes.push_back(static_cast<std::uint8_t>(value >> 8U));
    bytes.push_back(static_cast<std::uint8_t>(value));
}

void append_u32(Bytes& bytes, std::uint32_t value) {
    append_u16(bytes, static_cast<std::uint16_t>(value >> 16U));
    append_u16(bytes, static_cast<std::uint16_t>(value));
}

void append(Bytes& bytes, std::span<const std::uint8_t> more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
}

// The size of the name at the start of wire-form data; 0 when it is not one.
std::size_t name_size(std::span<const std::uint8_t> wire) {
    std::size_t at = 0;
    while (at < wire.size() && at < max_name_bytes) {
        if (wire[at] == 0) return at + 1;
        if (wire[at] > max_label_bytes) return 0;
        at += wire[at] + 1U;
    }
    return 0;
}

bool type_bitmap_is_valid(std::span<const std::uint8_t> map) {
    int last = -1;
    while (!map.empty()) {
        if (map.size() < 3 || map[0] <= last || map[1] == 0 || map[1] > 32 || map.size() < 2U + map[1] ||
            map[1U + map[1]] == 0)
            return false;
        last = map[0];
        map = map.subspan(2U + map[1]);
    }
    return true;
}

// The size that field `format` has at the start of `wire`; npos when it does not fit.
constexpr std::size_t no_field = static_cast<std::size_t>(-1);
std::size_t field_size(char format, std::span<const std::uint8_t> wire) {
    auto fixed = [&](std::size_t size) { return wire.size() >= size ? size : no_field; };
    auto counted = [&] { return wire.empty() || wire.size() < wire[0] + 1U ? no_field : wire[0] + std::size_t{1}; };
    switch (format) {
        case '1':
            return fixed(1);
        case '2':
        case 'T':
            return fixed(2);
        case '4':
        case 't':
        case 'w':
        case 'a':
            return fixed(4);
        case 'A':
            return fixed(16);
        case '6':
            return fixed(6);
        case '8':
        case 'g':
            return fixed(8);
        case 'n':
        case 'N':
        case 'L': {
            std::size_t size = name_size(wire);
            return size == 0 ? no_field : size;
        }
        case 's':
        case 'X':
            return counted();
        case 'H':
            return wire.empty() || wire[0] == 0 ? no_field : counted();
        case 'c': {
            std::size_t size = counted();
            if (size == no_field || size < 2) return no_field;
            bool letters = std::all_of(
                wire.begin() + 1, wire.begin() + static_cast<std::ptrdiff_t>(size),
                [](std::uint8_t b) { return (b >= '0' && b <= '9') || (to_lower(b) >= 'a' && to_lower(b) <= 'z'); });
            return letters ? size : no_field;
        }
        case 'S': {
            std::size_t at = 0;
            if (wire.empty()) return no_field;
            while (at < wire.size()) at += wire[at] + std::size_t{1};
            return at == wire.size() ? at : no_field;
        }
        case 'm':
            return type_bitmap_is_valid(wire) ? wire.size() : no_field;
        case 'p':
            return svc_params_are_valid(wire) ? wire.size() : no_field;
        case 'l':
            return wire.size() == 16 && wire[0] == 0 ? 16 : no_field;
        case 'd':
            return apl_is_valid(wire) ? wire.size() : no_field;
        case 'h':
        case 'b':
        case 'q':
            return wire.size();
        default:
            return no_field;
    }
}

template <class Number>
Result<Number> parse_number(std::string_view text) {
    Number value{};
    const char* end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || stop != end || text.empty())
        return bad("\"" + std::string(text.substr(0, 64)) + "\" is not a number in range");
    return value;
}

// Algorithm and certificate type mnemonics that zone files use in DS, DNSKEY, RRSIG and CERT.
Result<std::uint8_t> parse_u8(std::string_view text) {
    constexpr std::pair<std::string_view, std::uint8_t> names[] = {
        {"RSASHA1", 5},          {"RSASHA256", 8}, {"RSASHA512", 10}, {"ECDSAP256SHA256", 13},
        {"ECDSAP384SHA384", 14}, {"ED25519", 15},  {"ED448", 16}};
    for (const auto& [name, value] : names)
        if (name == text) return value;
    return parse_number<std::uint8_t>(text);
}

std::string joined(std::span<const Token> tokens) {
    std::string text;
    for (const Token& token : tokens) text += token.text;
    return text;
}

Result<> parse_field(char format, std::span<const Token>& tokens, const Name& origin, Bytes& wire) {
    const bool takes_rest = std::string_view("Shbmpld").contains(format);
    if (tokens.empty() && !takes_rest) return bad("a field is missing");
    std::string_view text = tokens.empty() ? std::string_view() : tokens.front().text;
    auto rest = tokens;
    tokens = takes_rest ? std::span<const Token>() : tokens.subspan(1);
    switch (format) {
        case '1':
            wire.push_back(TRY(parse_u8(text)));
            return {};
        case '2':
            append_u16(wire, TRY(parse_number<std::uint16_t>(text)));
            return {};
        case '4':
            append_u32(wire, TRY(parse_number<std::uint32_t>(text)));
            return {};
        case 't':
            append_u32(wire, TRY(parse_ttl(text)));
            return {};
        case 'w':
            append_u32(wire, TRY(parse_signature_time(text)));
            return {};
        case 'T': {
            auto type = parse_type(text);
            if (!type) return bad("\"" + std::string(text.substr(0, 64)) + "\" is not a record type");
            append_u16(wire, static_cast<std::uint16_t>(*type));
            return {};
        }
        case 'a':
            append(wire, TRY(parse_ipv4(text)));
            return {};
        case 'A':
            append(wire, TRY(parse_ipv6(text)));
            return {};
        case 'n':
        case 'N':
        case 'L':
            append(wire, TRY(Name::parse(text, &origin)).wire());
            return {};
        case 's':
        case 'c':
        case 'S': {
            auto strings = format == 'S' ? rest : rest.first(1);
            if (strings.empty()) return bad("a character string is missing");
            for (const Token& token : strings) {
                Bytes bytes = TRY(unescape(token.text));
                if (bytes.size() > 255) return bad("a character string is longer than 255 bytes");
                wire.push_back(static_cast<std::uint8_t>(bytes.size()));
                append(wire, bytes);
            }
            return {};
        }
        case 'q':
            append(wire, TRY(unescape(text)));
            return {};
        case 'h':
            append(wire, TRY(hex_decode(joined(rest))));
            return {};
        case 'X':
        case 'H': {
            Bytes bytes = TRY(format == 'X' ? hex_decode(text == "-" ? "" : text) : base32hex_decode(text));
            if (bytes.size() > 255) return bad("longer than 255 bytes");
            wire.push_back(static_cast<std::uint8_t>(bytes.size()));
            append(wire, bytes);
            return {};
        }
        case 'b': {
            std::string bytes = TRY(base64_decode(joined(rest)));
            wire.insert(wire.end(), bytes.begin(), bytes.end());
            return {};
        }
        case 'm': {
            std::vector<Type> types;
            for (const Token& token : rest) {
                auto type = parse_type(token.text);
                if (!type) return bad("\"" + std::string(token.text.substr(0, 64)) + "\" is not a record type");
                types.push_back(*type);
            }
            append(wire, encode_type_bitmap(std::move(types)));
            return {};
        }
        case 'p':
            append(wire, TRY(parse_svc_params(rest)));
            return {};
        case 'l':
            append(wire, TRY(parse_loc(rest)));
            return {};
        case 'd':
            append(wire, TRY(parse_apl(rest)));
            return {};
        case '6':
        case '8': {
            std::string digits;
            std::size_t count = static_cast<std::size_t>(format - '0');
            for (std::size_t i = 0; i < text.size(); ++i) {
                if (i % 3 != 2)
                    digits += text[i];
                else if (text[i] != '-')
                    return bad("expected bytes separated by \"-\"");
            }
            if (digits.size() != count * 2 || text.size() != count * 3 - 1)
                return bad("expected " + std::to_string(count) + " bytes separated by \"-\"");
            append(wire, TRY(hex_decode(digits)));
            return {};
        }
        case 'g': {
            std::size_t groups = 0;
            while (groups < 4) {
                auto colon = text.find(':');
                std::string_view group = text.substr(0, colon);
                std::uint16_t value = 0;
                auto [stop, error] = std::from_chars(group.data(), group.data() + group.size(), value, 16);
                if (group.empty() || group.size() > 4 || error != std::errc() || stop != group.data() + group.size())
                    break;
                append_u16(wire, value);
                ++groups;
                if (colon == std::string_view::npos) break;
                text.remove_prefix(colon + 1);
            }
            if (groups != 4) return bad("expected four groups of hexadecimal digits");
            return {};
        }
        default:
            return fail(Code::internal, "unknown rdata format");
    }
}

std::string bitmap_to_text(std::span<const std::uint8_t> map) {
    std::string text;
    while (!map.empty()) {
        for (unsigned i = 0; i < map[1]; ++i)
            for (unsigned bit = 0; bit < 8; ++bit)
                if ((map[2 + i] & (0x80U >> bit)) != 0) {
                    if (!text.empty()) text += ' ';
                    text += to_string(static_cast<Type>(map[0] * 256U + i * 8U + bit));
                }
        map = map.subspan(2U + map[1]);
    }
    return text;
}

std::string field_to_text(char format, std::span<const std::uint8_t> field) {
    const std::uint8_t* p = field.data();
    switch (format) {
        case '1':
            return std::to_string(p[0]);
        case '2':
            return std::to_string(load_u16(p));
        case 'T':
            return to_string(static_cast<Type>(load_u16(p)));
        case '4':
        case 't':
            return std::to_string(load_u32(p));
        case 'w':
            return signature_time_to_text(load_u32(p));
        case 'a':
            return ipv4_to_text(field);
        case 'A':
            return ipv6_to_text(field);
        case 'n':
        case 'N':
        case 'L':
            return Name::from_checked_wire(field).to_text();
        case 's':
            return quote(field.subspan(1));
        case 'c':
            return {field.begin() + 1, field.end()};
        case 'q':
            return quote(field);
        case 'S': {
            std::string text;
            while (!field.empty()) {
                if (!text.empty()) text += ' ';
                text += quote(field.subspan(1, field[0]));
                field = field.subspan(field[0] + std::size_t{1});
            }
            return text;
        }
        case 'h':
            return hex_upper(field);
        case 'X':
            return field.size() == 1 ? "-" : hex_upper(field.subspan(1));
        case 'H':
            return base32hex_encode(field.subspan(1));
        case 'b':
            return base64_encode(std::string(field.begin(), field.end()));
        case 'm':
            return bitmap_to_text(field);
        case 'p':
            return svc_params_to_text(field);
        case 'l':
            return loc_to_text(field);
        case 'd':
            return apl_to_text(field);
        case '6':
        case '8': {
            std::string text;
            for (std::uint8_t byte : field) {
                char digits[4];
                std::snprintf(digits, sizeof digits, "%s%02x", text.empty() ? "" : "-", byte);
                text += digits;
            }
            return text;
        }
        case 'g': {
            char text[24];
            std::snprintf(text, sizeof text, "%04x:%04x:%04x:%04x", load_u16(p), load_u16(p + 2), load_u16(p + 4),
                          load_u16(p + 6));
            return text;
        }
        default:
            return {};
    }
}

}  // namespace

Result<Bytes> unescape(std::string_view text) {
    Bytes bytes;
    bytes.reserve(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '\\') {
            bytes.push_back(static_cast<std::uint8_t>(text[i]));
            continue;
        }
        if (++i >= text.size()) return bad("ends in a backslash");
        if (text[i] < '0' || text[i] > '9') {
            bytes.push_back(static_cast<std::uint8_t>(text[i]));
            continue;
        }
        unsigned value = 0;
        for (std::size_t k = 0; k < 3; ++k, ++i) {
            if (i >= text.size() || text[i] < '0' || text[i] > '9') return bad("\\DDD needs three digits");
            value = value * 10 + static_cast<unsigned>(text[i] - '0');
        }
        --i;
        if (value > 255) return bad("\\DDD is above 255");
        bytes.push_back(static_cast<std::uint8_t>(value));
    }
    return bytes;
}

Result<std::uint32_t> parse_ttl(std::string_view text) {
    std::uint64_t total = 0;
    std::uint64_t part = 0;
    bool digits = false;
    bool units = false;
    auto wrong = [&] {
        return bad("\"" + std::string(text.substr(0, 64)) +
                   "\" is not a number of seconds or a duration such as 1h30m");
    };
    for (char c : text) {
        if (c >= '0' && c <= '9') {
            part = part * 10 + static_cast<std::uint64_t>(c - '0');
            if (part > 0xFFFFFFFFU) return wrong();
            digits = true;
            continue;
        }
        std::uint64_t unit = 0;
        switch (c | 32) {
            case 's':
                unit = 1;
                break;
            case 'm':
                unit = 60;
                break;
            case 'h':
                unit = 3600;
                break;
            case 'd':
                unit = 86400;
                break;
            case 'w':
                unit = 604800;
                break;
            default:
                return wrong();
        }
        if (!digits) return wrong();
        total += part * unit;
        part = 0;
        digits = false;
        units = true;
    }
    if (!digits && !units) return wrong();
    total += part;
    if (total > 0xFFFFFFFFU) return wrong();
    return static_cast<std::uint32_t>(total);
}

Bytes encode_type_bitmap(std::vector<Type> types) {
    std::ranges::sort(types);
    Bytes map;
    for (std::size_t i = 0; i < types.size();) {
        unsigned window = static_cast<unsigned>(types[i]) >> 8U;
        std::array<std::uint8_t, 32> bits{};
        std::size_t length = 0;
        for (; i < types.size() && static_cast<unsigned>(types[i]) >> 8U == window; ++i) {
            unsigned low = static_cast<unsigned>(types[i]) & 255U;
            bits[low / 8] = static_cast<std::uint8_t>(bits[low / 8] | 0x80U >> (low % 8));
            length = low / 8 + 1;
        }
        map.push_back(static_cast<std::uint8_t>(window));
        map.push_back(static_cast<std::uint8_t>(length));
        append(map, std::span(bits).first(length));
    }
    return map;
}

Result<Bytes> parse_rdata(Type type, std::span<const Token> tokens, const Name& origin) {
    if (is_meta(type)) return bad("records of type " + to_string(type) + " cannot be in a zone");
    Bytes wire;
    if (!tokens.empty() && tokens.front().text == "\\#" && !tokens.front().quoted) {
        if (tokens.size() < 2) return bad("\\# needs a length");
        auto length = TRY(parse_number<std::uint16_t>(tokens[1].text));
        wire = TRY(hex_decode(joined(tokens.subspan(2))));
        if (wire.size() != length)
            return bad("\\# gives " + std::to_string(length) + " bytes, but there are " + std::to_string(wire.size()));
        if (!rdata_is_valid(type, wire)) return bad("data does not have the shape of type " + to_string(type));
        return wire;
    }
    std::string_view format = rdata_format(type);
    if (format.empty()) return bad("type " + to_string(type) + " has no presentation form; use \\# (RFC 3597)");
    for (char field : format) TRY(parse_field(field, tokens, origin, wire), to_string(type));
    if (!tokens.empty())
        return bad(to_string(type) + ": too many fields, from \"" + std::string(tokens.front().text.substr(0, 64)) +
                   "\"");
    if (wire.size() > max_rdata_bytes) return bad(to_string(type) + ": longer than 65535 bytes");
    if (!rdata_is_valid(type, wire)) return bad(to_string(type) + ": not valid");
    return wire;
}

bool rdata_is_valid(Type type, std::span<const std::uint8_t> rdata) {
    std::string_view format = rdata_format(type);
    if (format.empty()) return rdata.size() <= max_rdata_bytes;
    for (char field : format) {
        std::size_t size = field_size(field, rdata);
        if (size == no_field) return false;
        rdata = rdata.subspan(size);
    }
    return rdata.empty();
}

std::string rdata_to_text(Type type, std::span<const std::uint8_t> rdata) {
    std::string_view format = rdata_format(type);
    if (format.empty() || !rdata_is_valid(type, rdata)) {
        std::string text = "\\# " + std::to_string(rdata.size());
        if (!rdata.empty()) text += " " + hex_upper(rdata);
        return text;
    }
    std::string text;
    for (char field : format) {
        std::size_t size = field_size(field, rdata);
        std::string part = field_to_text(field, rdata.first(size));
        if (!text.empty() && !part.empty()) text += ' ';
        text += part;
        rdata = rdata.subspan(size);
    }
    return text;
}

Result<Bytes> rdata_from_message(const MessageReader& message, const RecordView& record) {
    Bytes wire;
    std::size_t at = record.rdata_offset;
    const std::size_t end = at + record.rdata.size();
    for (char field : rdata_format(record.type)) {
        if (field == 'n' || field == 'L' || field == 'N') {
            // RFC 3597 section 4: names of other types ought to come uncompressed, but receivers decompress the known
            // ones.
            Name name = TRY(message.read_name(at));
            if (at > end) return bad("name runs past its record");
            append(wire, name.wire());
            continue;
        }
        std::size_t size = field_size(field, message.packet().subspan(at, end - at));
        if (size == no_field) return bad("data does not have the shape of type " + to_string(record.type));
        append(wire, message.packet().subspan(at, size));
        at += size;
    }
    if (rdata_format(record.type).empty()) return Bytes(record.rdata.begin(), record.rdata.end());
    if (at != end) return bad("data does not have the shape of type " + to_string(record.type));
    return wire;
}

bool write_rdata_compressed(MessageWriter& writer, Type type, std::span<const std::uint8_t> rdata) {
    std::string_view format = rdata_format(type);
    if (!format.contains('n')) return writer.write_bytes(rdata);
    for (char field : format) {
        std::size_t size = field_size(field, rdata);
        if (size == no_field) return writer.write_bytes(rdata);
        bool written = field == 'n' ? writer.write_name(Name::from_checked_wire(rdata.first(size)))
                                    : writer.write_bytes(rdata.first(size));
        if (!written) return false;
        rdata = rdata.subspan(size);
    }
    return true;
}

void canonicalize_rdata(Type type, std::span<std::uint8_t> rdata) {
    for (char field : rdata_format(type)) {
        std::size_t size = field_size(field, rdata);
        if (size == no_field) return;
        if (field == 'n' || field == 'L')
            for (std::uint8_t& byte : rdata.first(size)) byte = to_lower(byte);
        rdata = rdata.subspan(size);
    }
}

Name rdata_name(std::span<const std::uint8_t> rdata, std::size_t offset) {
    return Name::from_checked_wire(rdata.subspan(offset, name_size(rdata.subspan(offset))));
}

}  // namespace wherry::dns
