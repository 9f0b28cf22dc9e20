// Writes JSON text straight into a string: no document in between. Escapes as Go's encoder without HTML escaping does;
// bytes that are no UTF-8 become U+FFFD. Commas are the writer's business, balance is the caller's.
//
//     JsonWriter w;
//     w.begin_object().member("Id", id).key("Names").begin_array().value("/web").end_array().end_object();
#pragma once

#include <charconv>
#include <concepts>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"

namespace wherry::api::docker {

class JsonWriter {
  public:
    JsonWriter& begin_object() { return open('{'); }
    JsonWriter& end_object() { return close('}'); }
    JsonWriter& begin_array() { return open('['); }
    JsonWriter& end_array() { return close(']'); }
    JsonWriter& key(std::string_view name);

    JsonWriter& value(std::string_view text);
    JsonWriter& value(const char* text) { return value(std::string_view(text)); }
    JsonWriter& value(const std::string& text) { return value(std::string_view(text)); }
    template <std::same_as<bool> T>
    JsonWriter& value(T truth) {
        return raw(truth ? "true" : "false");
    }
    template <std::integral T>
        requires(!std::same_as<T, bool>)
    JsonWriter& value(T number) {
        char digits[24];
        auto end = std::to_chars(digits, digits + sizeof digits, number).ptr;
        return raw({digits, static_cast<std::size_t>(end - digits)});
    }
    JsonWriter& null() { return raw("null"); }
    // RFC 3339 as Go writes it; the epoch is Go's zero time.
    JsonWriter& value(WallTime time) { return value(format_rfc3339_short(time)); }
    JsonWriter& value(const std::vector<std::string>& items);
    JsonWriter& value(const std::map<std::string, std::string>& items);
    JsonWriter& value(const json::value& document) { return raw(json_text(document)); }
    // Text that is JSON already.
    JsonWriter& raw(std::string_view text);

    template <class T>
    JsonWriter& member(std::string_view name, const T& item) {
        return key(name).value(item);
    }
    JsonWriter& null_member(std::string_view name) { return key(name).null(); }
    // null when empty, as Go's nil slices and maps.
    JsonWriter& member_or_null(std::string_view name, const std::vector<std::string>& items) {
        return items.empty() ? null_member(name) : member(name, items);
    }
    JsonWriter& member_or_null(std::string_view name, const std::map<std::string, std::string>& items) {
        return items.empty() ? null_member(name) : member(name, items);
    }

    void reserve(std::size_t size) { out_.reserve(size); }
    const std::string& text() const { return out_; }
    std::string take() { return std::move(out_); }
    // The text with Go's newline behind it.
    std::string take_line() {
        out_ += '\n';
        return std::move(out_);
    }

  private:
    static std::string json_text(const json::value& document);
    JsonWriter& open(char bracket) {
        separate();
        out_ += bracket;
        comma_ = false;
        return *this;
    }
    JsonWriter& close(char bracket) {
        out_ += bracket;
        comma_ = true;
        return *this;
    }
    void separate() {
        if (comma_) out_ += ',';
        comma_ = true;
    }
    void append_escaped(std::string_view text);

    std::string out_;
    bool comma_ = false;
};

}  // namespace wherry::api::docker
