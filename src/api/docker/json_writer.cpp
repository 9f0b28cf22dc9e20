#include "api/docker/json_writer.hpp"

#include <array>

namespace wherry::api::docker {
namespace {

// Length of the well-formed UTF-8 sequence at the start of `text`; 0 when it is none (RFC 3629 section 4).
std::size_t utf8_length(std::string_view text) {
    auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    unsigned first = byte(0);
    std::size_t length = first < 0x80   ? 1
                         : first < 0xC2 ? 0
                         : first < 0xE0 ? 2
                         : first < 0xF0 ? 3
                         : first < 0xF5 ? 4
                                        : 0;
    if (length == 0 || length > text.size()) return 0;
    for (std::size_t i = 1; i < length; ++i)
        if ((byte(i) & 0xC0U) != 0x80U) return 0;
    if (length < 3) return length;
    unsigned second = byte(1);
    if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) || (first == 0xF0 && second < 0x90) ||
        (first == 0xF4 && second > 0x8F))
        return 0;
    return length;
}

// 1: goes into a JSON string as it is.
constexpr std::array<bool, 256> plain_bytes = [] {
    std::array<bool, 256> plain{};
    for (std::size_t c = 0x20; c < 0x80; ++c) plain[c] = c != '"' && c != '\\';
    return plain;
}();

}  // namespace

std::string JsonWriter::json_text(const json::value& document) {
    return to_json(document);
}

JsonWriter& JsonWriter::key(std::string_view name) {
    separate();
    out_ += '"';
    append_escaped(name);
    out_ += "\":";
    comma_ = false;
    return *this;
}

JsonWriter& JsonWriter::value(std::string_view text) {
    separate();
    out_ += '"';
    append_escaped(text);
    out_ += '"';
    return *this;
}

JsonWriter& JsonWriter::raw(std::string_view text) {
    separate();
    out_ += text;
    return *this;
}

JsonWriter& JsonWriter::value(const std::vector<std::string>& items) {
    begin_array();
    for (const std::string& item : items) value(item);
    return end_array();
}

JsonWriter& JsonWriter::value(const std::map<std::string, std::string>& items) {
    begin_object();
    for (const auto& [name, item] : items) member(name, item);
    return end_object();
}

void JsonWriter::append_escaped(std::string_view text) {
    constexpr std::string_view digits = "0123456789abcdef";
    while (!text.empty()) {
        std::size_t run = 0;
        while (run < text.size() && plain_bytes[static_cast<unsigned char>(text[run])]) ++run;
        out_ += text.substr(0, run);
        text.remove_prefix(run);
        if (text.empty()) return;
        char c = text.front();
        auto byte = static_cast<unsigned char>(c);
        std::size_t used = 1;
        if (c == '"' || c == '\\') {
            out_ += '\\';
            out_ += c;
        } else if (c == '\n') {
            out_ += "\\n";
        } else if (c == '\r') {
            out_ += "\\r";
        } else if (c == '\t') {
            out_ += "\\t";
        } else if (byte < 0x20) {
            out_ += "\\u00";
            out_ += digits[byte >> 4U];
            out_ += digits[byte & 15U];
        } else if (used = utf8_length(text); used == 0) {
            out_ += "\\ufffd";
            used = 1;
        } else if (text.starts_with("\xe2\x80\xa8")) {
            out_ += "\\u2028";
        } else if (text.starts_with("\xe2\x80\xa9")) {
            out_ += "\\u2029";
        } else {
            out_ += text.substr(0, used);
        }
        text.remove_prefix(used);
    }
}

}  // namespace wherry::api::docker
