// SvcParams of SVCB and HTTPS records (RFC 9460 sections 2.1, 2.2, 7 and appendix A).
#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "base/encoding.hpp"
#include "dns/message.hpp"
#include "dns/text_codec.hpp"

namespace wherry::dns {

namespace {

enum class Key : std::uint16_t {
    mandatory = 0,
    alpn = 1,
    no_default_alpn = 2,
    port = 3,
    ipv4hint = 4,
    ech = 5,
    ipv6hint = 6,
    dohpath = 7,
    ohttp = 8
};

constexpr std::pair<Key, std::string_view> key_names[] = {
    {Key::mandatory, "mandatory"}, {Key::alpn, "alpn"},         {Key::no_default_alpn, "no-default-alpn"},
    {Key::port, "port"},           {Key::ipv4hint, "ipv4hint"}, {Key::ech, "ech"},
    {Key::ipv6hint, "ipv6hint"},   {Key::dohpath, "dohpath"},   {Key::ohttp, "ohttp"},
};

std::unexpected<Error> bad(std::string_view what) {
    return fail(Code::invalid_argument, "SvcParams: " + std::string(what));
}

Result<std::uint16_t> parse_key(std::string_view text) {
    for (const auto& [key, name] : key_names)
        if (name == text) return static_cast<std::uint16_t>(key);
    std::uint16_t number = 0;
    if (text.starts_with("key")) {
        const char* end = text.data() + text.size();
        auto [stop, error] = std::from_chars(text.data() + 3, end, number);
        if (text.size() > 3 && error == std::errc() && stop == end && number != 65535) return number;
    }
    return bad("unknown key \"" + std::string(text.substr(0, 64)) + "\"");
}

std::string key_to_text(std::uint16_t number) {
    for (const auto& [key, name] : key_names)
        if (static_cast<std::uint16_t>(key) == number) return std::string(name);
    return "key" + std::to_string(number);
}

// A comma-separated list; a comma or backslash within an item is escaped (appendix A.1). `value` is without the outer
// escapes.
std::vector<Bytes> split_list(const Bytes& value) {
    std::vector<Bytes> items(1);
    for (std::size_t i = 0; i < value.size(); ++i) {
        if (value[i] == '\\' && i + 1 < value.size())
            items.back().push_back(value[++i]);
        else if (value[i] == ',')
            items.emplace_back();
        else
            items.back().push_back(value[i]);
    }
    return items;
}

std::string text_of(const Bytes& bytes) {
    return {bytes.begin(), bytes.end()};
}

void append_u16(Bytes& bytes, std::uint16_t value) {
    bytes.push_back(static_cast<std::uint8_t>(value >> 8U));
    bytes.push_back(static_cast<std::uint8_t>(value));
}

Result<Bytes> parse_value(std::uint16_t key, const Bytes& value) {
    Bytes wire;
    switch (static_cast<Key>(key)) {
        case Key::mandatory: {
            std::set<std::uint16_t> keys;
            for (const Bytes& item : split_list(value))
                if (!keys.insert(TRY(parse_key(text_of(item)))).second) return bad("a key is mandatory twice");
            for (std::uint16_t item : keys) append_u16(wire, item);
            return wire;
        }
        case Key::alpn:
            for (const Bytes& item : split_list(value)) {
                if (item.empty() || item.size() > 255) return bad("alpn: a protocol has 1 to 255 bytes");
                wire.push_back(static_cast<std::uint8_t>(item.size()));
                wire.insert(wire.end(), item.begin(), item.end());
            }
            return wire;
        case Key::no_default_alpn:
        case Key::ohttp:
            if (!value.empty()) return bad(key_to_text(key) + " has no value");
            return wire;
        case Key::port: {
            std::uint16_t port = 0;
            std::string text = text_of(value);
            auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), port);
            if (text.empty() || error != std::errc() || stop != text.data() + text.size())
                return bad("port is not a number below 65536");
            append_u16(wire, port);
            return wire;
        }
        case Key::ipv4hint:
        case Key::ipv6hint:
            for (const Bytes& item : split_list(value)) {
                Bytes address =
                    TRY(static_cast<Key>(key) == Key::ipv4hint ? parse_ipv4(text_of(item)) : parse_ipv6(text_of(item)));
                wire.insert(wire.end(), address.begin(), address.end());
            }
            return wire;
        case Key::ech: {
            std::string bytes = TRY(base64_decode(text_of(value)), "SvcParams: ech");
            if (bytes.empty()) return bad("ech is empty");
            return Bytes(bytes.begin(), bytes.end());
        }
        default:
            return value;
    }
}

bool value_is_valid(std::uint16_t key, std::span<const std::uint8_t> value) {
    switch (static_cast<Key>(key)) {
        case Key::mandatory: {
            if (value.empty() || value.size() % 2 != 0) return false;
            int last = -1;
            for (std::size_t i = 0; i < value.size(); i += 2) {
                int item = load_u16(value.data() + i);
                if (item <= last || item == 0) return false;
                last = item;
            }
            return true;
        }
        case Key::alpn:
            if (value.empty()) return false;
            while (!value.empty()) {
                if (value[0] == 0 || value[0] + 1U > value.size()) return false;
                value = value.subspan(value[0] + 1U);
            }
            return true;
        case Key::no_default_alpn:
        case Key::ohttp:
            return value.empty();
        case Key::port:
            return value.size() == 2;
        case Key::ipv4hint:
            return !value.empty() && value.size() % 4 == 0;
        case Key::ipv6hint:
            return !value.empty() && value.size() % 16 == 0;
        case Key::ech:
            return !value.empty();
        default:
            return true;
    }
}

std::string value_to_text(std::uint16_t key, std::span<const std::uint8_t> value) {
    std::string text;
    auto separate = [&] {
        if (!text.empty()) text += ',';
    };
    switch (static_cast<Key>(key)) {
        case Key::mandatory:
            for (std::size_t i = 0; i < value.size(); i += 2) {
                separate();
                text += key_to_text(load_u16(value.data() + i));
            }
            return text;
        case Key::alpn: {
            Bytes list;
            while (!value.empty()) {
                if (!list.empty()) list.push_back(',');
                for (std::uint8_t byte : value.subspan(1, value[0])) {
                    if (byte == ',' || byte == '\\') list.push_back('\\');
                    list.push_back(byte);
                }
                value = value.subspan(value[0] + 1U);
            }
            return quote(list);
        }
        case Key::port:
            return std::to_string(load_u16(value.data()));
        case Key::ipv4hint:
        case Key::ipv6hint: {
            std::size_t size = static_cast<Key>(key) == Key::ipv4hint ? 4 : 16;
            for (; !value.empty(); value = value.subspan(size)) {
                separate();
                text += size == 4 ? ipv4_to_text(value.first(size)) : ipv6_to_text(value.first(size));
            }
            return text;
        }
        case Key::ech:
            return base64_encode(std::string(value.begin(), value.end()));
        default:
            return quote(value);
    }
}

}  // namespace

Result<Bytes> parse_svc_params(std::span<const Token> tokens) {
    std::map<std::uint16_t, Bytes> params;
    for (const Token& token : tokens) {
        std::string_view text = token.text;
        auto equals = text.find('=');
        std::uint16_t key = TRY(parse_key(text.substr(0, equals)));
        Bytes value;
        if (equals != std::string_view::npos) {
            std::string_view raw = text.substr(equals + 1);
            if (raw.size() >= 2 && raw.front() == '"' && raw.back() == '"') raw = raw.substr(1, raw.size() - 2);
            value = TRY(unescape(raw));
        }
        Bytes wire = TRY(parse_value(key, value));
        if (!value_is_valid(key, wire)) return bad(key_to_text(key) + " has a value that is not valid");
        if (!params.emplace(key, std::move(wire)).second) return bad(key_to_text(key) + " is given twice");
    }
    if (auto mandatory = params.find(0); mandatory != params.end())
        for (std::size_t i = 0; i < mandatory->second.size(); i += 2)
            if (std::uint16_t key = load_u16(mandatory->second.data() + i); !params.contains(key))
                return bad(key_to_text(key) + " is mandatory and missing");
    Bytes wire;
    for (const auto& [key, value] : params) {
        if (value.size() > 65535) return bad("value is too long");
        append_u16(wire, key);
        append_u16(wire, static_cast<std::uint16_t>(value.size()));
        wire.insert(wire.end(), value.begin(), value.end());
    }
    return wire;
}

bool svc_params_are_valid(std::span<const std::uint8_t> params) {
    int last = -1;
    while (!params.empty()) {
        if (params.size() < 4) return false;
        std::uint16_t key = load_u16(params.data());
        std::size_t length = load_u16(params.data() + 2);
        if (key <= last || params.size() < 4 + length || !value_is_valid(key, params.subspan(4, length))) return false;
        last = key;
        params = params.subspan(4 + length);
    }
    return true;
}

std::string svc_params_to_text(std::span<const std::uint8_t> params) {
    std::string text;
    while (!params.empty()) {
        std::uint16_t key = load_u16(params.data());
        std::size_t length = load_u16(params.data() + 2);
        if (!text.empty()) text += ' ';
        text += key_to_text(key);
        if (length > 0) text += "=" + value_to_text(key, params.subspan(4, length));
        params = params.subspan(4 + length);
    }
    return text;
}

}  // namespace wherry::dns
