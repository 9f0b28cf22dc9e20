// Protocol Buffers' wire format (https://protobuf.dev/programming-guides/encoding/), proto3: as much as containerd's
// shim interface needs. Input is hostile: every length is checked, nesting is limited by the types themselves (none is
// recursive), repeated fields by `max_elements`.
//
// A message is a struct that names its fields once, for both directions:
//
//     struct KillRequest {
//         std::string id;
//         std::uint32_t signal = 0;
//         void fields(this auto&& self, auto&& field) { field(1, self.id); field(3, self.signal); }
//     };
//     std::string bytes = encode(request);
//     KillRequest request = TRY(decode<KillRequest>(bytes));
//
// Field types: std::string (string, bytes), integers and enumerations (varint), bool, messages, std::optional of a
// message, std::vector of strings, of messages or of std::uint64_t (packed), std::map of strings. Defaults are not
// written, unknown fields are skipped, of repeated scalars the last one counts, as proto3 says.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace wherry::api::containerd {

inline constexpr std::size_t max_elements = 65536;  // of one repeated field

enum class WireType : unsigned char { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

struct WireField {
    std::uint32_t number = 0;
    WireType type = WireType::varint;
    std::uint64_t integer = 0;  // varint, fixed64, fixed32
    std::string_view bytes;     // inside the input
};

class WireReader {
  public:
    explicit WireReader(std::string_view bytes) : rest_(bytes) {}
    // nullopt at the end; invalid_argument for what is cut or malformed (groups included).
    Result<std::optional<WireField>> next();
    Result<std::uint64_t> varint();
    bool at_end() const { return rest_.empty(); }

  private:
    std::string_view rest_;
};

class WireWriter {
  public:
    void varint(std::uint32_t number, std::uint64_t value);
    void bytes(std::uint32_t number, std::string_view value);
    void raw_varint(std::uint64_t value);
    std::string take() { return std::move(out_); }

  private:
    std::string out_;
};

template <class T>
concept WireMessage = requires(T& value) { value.fields([](std::uint32_t, auto&) {}); };
template <class T>
concept WireInteger = std::integral<T> || std::is_enum_v<T>;

template <WireMessage T>
std::string encode(const T& value);
template <WireMessage T>
Result<T> decode(std::string_view bytes);

namespace wire {

std::unexpected<Error> wrong_type(std::uint32_t number);
std::unexpected<Error> too_many(std::uint32_t number);

template <class T>
struct is_vector : std::false_type {};
template <class T>
struct is_vector<std::vector<T>> : std::true_type {};
template <class T>
struct is_optional : std::false_type {};
template <class T>
struct is_optional<std::optional<T>> : std::true_type {};
using StringMap = std::map<std::string, std::string>;

struct MapEntry {
    std::string key, value;
    void fields(this auto&& self, auto&& field) {
        field(1, self.key);
        field(2, self.value);
    }
};

template <class T>
void write(WireWriter& writer, std::uint32_t number, const T& value) {
    if constexpr (std::is_same_v<T, std::string>) {
        if (!value.empty()) writer.bytes(number, value);
    } else if constexpr (WireInteger<T>) {
        // Negative int32 and int64 are sign-extended to ten bytes.
        if (value != T{}) writer.varint(number, static_cast<std::uint64_t>(static_cast<std::int64_t>(value)));
    } else if constexpr (std::is_same_v<T, std::vector<std::uint64_t>>) {
        if (value.empty()) return;
        WireWriter packed;
        for (std::uint64_t item : value) packed.raw_varint(item);
        writer.bytes(number, packed.take());
    } else if constexpr (is_vector<T>::value) {
        for (const auto& item : value) {
            if constexpr (std::is_same_v<typename T::value_type, std::string>) {
                writer.bytes(number, item);
            } else {
                writer.bytes(number, encode(item));
            }
        }
    } else if constexpr (is_optional<T>::value) {
        if (value) writer.bytes(number, encode(*value));
    } else if constexpr (std::is_same_v<T, StringMap>) {
        for (const auto& [key, item] : value) writer.bytes(number, encode(MapEntry{key, item}));
    } else {
        std::string inner = encode(value);
        if (!inner.empty()) writer.bytes(number, inner);
    }
}

template <class T>
Result<> read(const WireField& field, T& value) {
    if constexpr (std::is_same_v<T, bool>) {
        if (field.type != WireType::varint) return wrong_type(field.number);
        value = field.integer != 0;
    } else if constexpr (WireInteger<T>) {
        if (field.type != WireType::varint) return wrong_type(field.number);
        value = static_cast<T>(field.integer);  // proto3 cuts to the type's width
    } else if constexpr (std::is_same_v<T, std::vector<std::uint64_t>>) {
        if (field.type == WireType::varint) {
            value.push_back(field.integer);
        } else if (field.type == WireType::bytes) {
            WireReader packed(field.bytes);
            while (!packed.at_end()) {
                value.push_back(TRY(packed.varint()));
                if (value.size() > max_elements) return too_many(field.number);
            }
        } else {
            return wrong_type(field.number);
        }
        if (value.size() > max_elements) return too_many(field.number);
    } else {
        if (field.type != WireType::bytes) return wrong_type(field.number);
        if constexpr (std::is_same_v<T, std::string>) {
            value.assign(field.bytes);
        } else if constexpr (is_vector<T>::value) {
            if (value.size() >= max_elements) return too_many(field.number);
            if constexpr (std::is_same_v<typename T::value_type, std::string>) {
                value.emplace_back(field.bytes);
            } else {
                value.push_back(TRY(decode<typename T::value_type>(field.bytes)));
            }
        } else if constexpr (is_optional<T>::value) {
            value = TRY(decode<typename T::value_type>(field.bytes));
        } else if constexpr (std::is_same_v<T, StringMap>) {
            if (value.size() >= max_elements) return too_many(field.number);
            MapEntry entry = TRY(decode<MapEntry>(field.bytes));
            value.insert_or_assign(std::move(entry.key), std::move(entry.value));
        } else {
            value = TRY(decode<T>(field.bytes));
        }
    }
    return {};
}

}  // namespace wire

template <WireMessage T>
std::string encode(const T& value) {
    WireWriter writer;
    value.fields([&writer](std::uint32_t number, const auto& member) { wire::write(writer, number, member); });
    return writer.take();
}

template <WireMessage T>
Result<T> decode(std::string_view bytes) {
    T value;
    WireReader reader(bytes);
    for (;;) {
        auto field = TRY(reader.next());
        if (!field) return value;
        Result<> outcome;
        value.fields([&](std::uint32_t number, auto& member) {
            if (number == field->number) outcome = wire::read(*field, member);
        });
        TRY(std::move(outcome));
    }
}

}  // namespace wherry::api::containerd
