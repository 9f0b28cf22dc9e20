#include "dns/text_codec.hpp"

#include <arpa/inet.h>

#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>

namespace wherry::dns {

std::string base32hex_encode(std::span<const std::uint8_t> bytes) {
    constexpr std::string_view alphabet = "0123456789abcdefghijklmnopqrstuv";
    std::string text;
    std::uint32_t group = 0;
    unsigned bits = 0;
    for (std::uint8_t byte : bytes) {
        group = (group << 8U) | byte;
        bits += 8;
        while (bits >= 5) {
            bits -= 5;
            text += alphabet[(group >> bits) & 31U];
        }
    }
    if (bits > 0) text += alphabet[(group << (5 - bits)) & 31U];
    return text;
}

Result<Bytes> base32hex_decode(std::string_view text) {
    Bytes bytes;
    std::uint32_t group = 0;
    unsigned bits = 0;
    for (char c : text) {
        std::uint32_t value = 0;
        if (c >= '0' && c <= '9')
            value = static_cast<std::uint32_t>(c - '0');
        else if (c >= 'a' && c <= 'v')
            value = static_cast<std::uint32_t>(c - 'a') + 10;
        else if (c >= 'A' && c <= 'V')
            value = static_cast<std::uint32_t>(c - 'A') + 10;
        else
            return fail(Code::invalid_argument, "not base32hex");
        group = (group << 5U) | value;
        bits += 5;
        if (bits >= 8) {
            bits -= 8;
            bytes.push_back(static_cast<std::uint8_t>(group >> bits));
        }
    }
    return bytes;
}

std::string hex_upper(std::span<const std::uint8_t> bytes) {
    constexpr std::string_view digits = "0123456789ABCDEF";
    std::string text;
    text.reserve(bytes.size() * 2);
    for (std::uint8_t byte : bytes) {
        text += digits[byte >> 4U];
        text += digits[byte & 15U];
    }
    return text;
}

Result<Bytes> hex_decode(std::string_view text) {
    if (text.size() % 2 != 0) return fail(Code::invalid_argument, "odd number of hexadecimal digits");
    Bytes bytes;
    bytes.reserve(text.size() / 2);
    for (std::size_t i = 0; i < text.size(); i += 2) {
        std::uint8_t value = 0;
        auto [stop, error] = std::from_chars(text.data() + i, text.data() + i + 2, value, 16);
        if (error != std::errc() || stop != text.data() + i + 2) return fail(Code::invalid_argument, "not hexadecimal");
        bytes.push_back(value);
    }
    return bytes;
}

namespace {

Result<Bytes> parse_address(int family, std::size_t size, std::string_view text) {
    Bytes bytes(size);
    if (text.size() > 64 || ::inet_pton(family, std::string(text).c_str(), bytes.data()) != 1)
        return fail(Code::invalid_argument, "\"" + std::string(text.substr(0, 64)) + "\" is not an IPv" +
                                                (family == AF_INET ? "4" : "6") + " address");
    return bytes;
}

}  // namespace

Result<Bytes> parse_ipv4(std::string_view text) {
    return parse_address(AF_INET, 4, text);
}
Result<Bytes> parse_ipv6(std::string_view text) {
    return parse_address(AF_INET6, 16, text);
}

std::string ipv4_to_text(std::span<const std::uint8_t> bytes) {
    std::array<char, INET_ADDRSTRLEN> text{};
    ::inet_ntop(AF_INET, bytes.data(), text.data(), text.size());
    return text.data();
}

std::string ipv6_to_text(std::span<const std::uint8_t> bytes) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    ::inet_ntop(AF_INET6, bytes.data(), text.data(), text.size());
    return text.data();
}

Result<std::uint32_t> parse_signature_time(std::string_view text) {
    for (char c : text)
        if (c < '0' || c > '9') return fail(Code::invalid_argument, "not a time");
    auto number = [&](std::size_t from, std::size_t count) {
        unsigned value = 0;
        std::from_chars(text.data() + from, text.data() + from + count, value);
        return value;
    };
    if (text.size() == 14) {
        std::chrono::year_month_day day{std::chrono::year(static_cast<int>(number(0, 4))),
                                        std::chrono::month(number(4, 2)), std::chrono::day(number(6, 2))};
        if (!day.ok() || number(8, 2) > 23 || number(10, 2) > 59 || number(12, 2) > 60)
            return fail(Code::invalid_argument, "not a time");
        auto seconds = std::chrono::sys_seconds(std::chrono::sys_days(day)).time_since_epoch().count();
        const unsigned of_day = number(8, 2) * 3600 + number(10, 2) * 60 + number(12, 2);
        return static_cast<std::uint32_t>(seconds + of_day);
    }
    std::uint32_t value = 0;
    auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc()) return fail(Code::invalid_argument, "not a time");
    return value;
}

std::string signature_time_to_text(std::uint32_t seconds) {
    // Serial arithmetic would choose the century by today's date; until 2106 the plain reading is the right one.
    std::chrono::sys_seconds time{std::chrono::seconds(seconds)};
    auto day = std::chrono::floor<std::chrono::days>(time);
    std::chrono::year_month_day date(day);
    std::chrono::hh_mm_ss clock(time - day);
    char text[32];
    std::snprintf(text, sizeof text, "%04d%02u%02u%02d%02d%02d", static_cast<int>(date.year()),
                  static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                  static_cast<int>(clock.hours().count()), static_cast<int>(clock.minutes().count()),
                  static_cast<int>(clock.seconds().count()));
    return text;
}

std::string quote(std::span<const std::uint8_t> bytes) {
    std::string text = "\"";
    for (std::uint8_t byte : bytes) {
        if (byte == '"' || byte == '\\') {
            text += '\\';
            text += static_cast<char>(byte);
        } else if (byte < ' ' || byte > '~') {
            text += '\\';
            text += static_cast<char>('0' + byte / 100);
            text += static_cast<char>('0' + byte / 10 % 10);
            text += static_cast<char>('0' + byte % 10);
        } else {
            text += static_cast<char>(byte);
        }
    }
    return text + '"';
}

// --- APL ---

Result<Bytes> parse_apl(std::span<const Token> tokens) {
    auto bad = [](std::string_view item) {
        return fail(Code::invalid_argument, "\"" + std::string(item.substr(0, 64)) + "\" is not an APL item");
    };
    Bytes wire;
    for (const Token& token : tokens) {
        std::string_view text = token.text;
        bool negated = text.starts_with('!');
        if (negated) text.remove_prefix(1);
        auto colon = text.find(':');
        auto slash = text.rfind('/');
        if (colon == std::string_view::npos || slash == std::string_view::npos || slash < colon) return bad(token.text);
        std::string_view family = text.substr(0, colon);
        if (family != "1" && family != "2") return bad(token.text);
        Bytes address = TRY(family == "1" ? parse_ipv4(text.substr(colon + 1, slash - colon - 1))
                                          : parse_ipv6(text.substr(colon + 1, slash - colon - 1)));
        unsigned prefix = 0;
        auto [stop, error] = std::from_chars(text.data() + slash + 1, text.data() + text.size(), prefix);
        if (error != std::errc() || stop != text.data() + text.size() || prefix > address.size() * 8)
            return bad(token.text);
        while (!address.empty() && address.back() == 0) address.pop_back();
        wire.insert(wire.end(), {0, static_cast<std::uint8_t>(family[0] - '0'), static_cast<std::uint8_t>(prefix),
                                 static_cast<std::uint8_t>(address.size() | (negated ? 0x80U : 0U))});
        wire.insert(wire.end(), address.begin(), address.end());
    }
    return wire;
}

bool apl_is_valid(std::span<const std::uint8_t> rdata) {
    while (!rdata.empty()) {
        if (rdata.size() < 4 || rdata[0] != 0 || (rdata[1] != 1 && rdata[1] != 2)) return false;
        std::size_t length = rdata[3] & 0x7FU;
        std::size_t full = rdata[1] == 1 ? 4 : 16;
        if (length > full || rdata[2] > full * 8 || rdata.size() < 4 + length) return false;
        rdata = rdata.subspan(4 + length);
    }
    return true;
}

std::string apl_to_text(std::span<const std::uint8_t> rdata) {
    std::string text;
    while (!rdata.empty()) {
        std::array<std::uint8_t, 16> address{};
        std::size_t length = rdata[3] & 0x7FU;
        std::memcpy(address.data(), rdata.data() + 4, length);
        if (!text.empty()) text += ' ';
        if ((rdata[3] & 0x80U) != 0) text += '!';
        text += rdata[1] == 1 ? "1:" + ipv4_to_text(address) : "2:" + ipv6_to_text(address);
        text += "/" + std::to_string(rdata[2]);
        rdata = rdata.subspan(4 + length);
    }
    return text;
}

}  // namespace wherry::dns
