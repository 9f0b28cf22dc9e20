// Helpers shared by the protocol's codecs. Private to the room.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"

namespace wherry::supervisor::codec {

inline void put(json::object& object, std::string_view key, std::string_view text) {
    if (!text.empty()) object.emplace(key, json::string(text));
}
inline void put(json::object& object, std::string_view key, WallTime time) {
    if (time != WallTime{}) object.emplace(key, static_cast<std::int64_t>(time.time_since_epoch().count()));
}
inline void put(json::object& object, std::string_view key, bool value) {
    if (value) object.emplace(key, true);
}
template <class T>
    requires(std::is_integral_v<T> && !std::is_same_v<T, bool>)
void put(json::object& object, std::string_view key, T value) {
    if constexpr (std::is_signed_v<T>) {
        object.emplace(key, static_cast<std::int64_t>(value));
    } else {
        object.emplace(key, static_cast<std::uint64_t>(value));
    }
}
inline void put(json::object& object, std::string_view key, const char* text) {
    put(object, key, std::string_view(text));
}
inline void put(json::object& object, std::string_view key, const std::string& text) {
    put(object, key, std::string_view(text));
}
inline void put_strings(json::object& object, std::string_view key, const std::vector<std::string>& items) {
    if (items.empty()) return;
    json::array array;
    array.reserve(items.size());
    for (const std::string& item : items) array.emplace_back(json::string(item));
    object.emplace(key, std::move(array));
}
template <class Map>
void put_map(json::object& object, std::string_view key, const Map& items) {
    if (items.empty()) return;
    json::object child;
    for (const auto& [name, value] : items) child.emplace(name, value);
    object.emplace(key, std::move(child));
}

// Integers of any width, range-checked; missing gives the fallback.
template <class T>
Result<T> integer(const JsonReader& reader, std::string_view key, T fallback) {
    if constexpr (std::is_signed_v<T>) {
        std::int64_t value = TRY(reader.integer_or(key, fallback));
        if (value < std::numeric_limits<T>::min() || value > std::numeric_limits<T>::max())
            return reader.wrong(key, "a smaller number");
        return static_cast<T>(value);
    } else {
        auto value = TRY(reader.unsigned_integer(key));
        if (!value) return fallback;
        if (*value > std::numeric_limits<T>::max()) return reader.wrong(key, "a smaller number");
        return static_cast<T>(*value);
    }
}
inline Result<WallTime> time(const JsonReader& reader, std::string_view key) {
    return WallTime(Nanoseconds(TRY(reader.integer_or(key, 0))));
}
inline Result<json::object> object(const JsonReader& reader, std::string_view key) {
    auto child = TRY(reader.child(key));
    return child ? child->object() : json::object();
}
template <class T>
Result<std::vector<T>> list(const JsonReader& reader, std::string_view key) {
    std::vector<T> items;
    for (const JsonReader& child : TRY(reader.children(key))) items.push_back(TRY(T::parse(child)));
    return items;
}
template <class T>
Result<std::optional<T>> optional(const JsonReader& reader, std::string_view key) {
    auto child = TRY(reader.child(key));
    if (!child) return std::nullopt;
    return TRY(T::parse(*child));
}
template <class T>
void put_list(json::object& object, std::string_view key, const std::vector<T>& items) {
    if (items.empty()) return;
    json::array array;
    array.reserve(items.size());
    for (const T& item : items) array.emplace_back(to_json_object(item));
    object.emplace(key, std::move(array));
}

// An identifier that becomes part of paths and messages: [A-Za-z0-9][A-Za-z0-9_.-]{0,127}.
bool is_identifier(std::string_view text);
Result<std::string> identifier(const JsonReader& reader, std::string_view key);
// The same, or empty when missing.
Result<std::string> optional_identifier(const JsonReader& reader, std::string_view key);
// "" or an absolute path without NUL.
Result<std::string> absolute_path(const JsonReader& reader, std::string_view key);

}  // namespace wherry::supervisor::codec
