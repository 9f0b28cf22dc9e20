// One description of a struct's members that serves both ways: JSON to struct and struct to JSON. A describing function
//
//     template <class C> void members(C& c, RestartPolicy& v) { c("Name", v.name); c("MaximumRetryCount",
//     v.maximum_retry_count); }
//
// is run with a Decoder (keeps the first error) or an Encoder. Internal to the engine.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"

namespace wherry::engine::codec {

// How an empty list or map is written.
enum class Empty : unsigned char { as_is, as_null, left_out };

class Decoder;
class Encoder;

template <class T>
concept Described = requires(Decoder& decoder, T& value) { members(decoder, value); };

class Decoder {
  public:
    explicit Decoder(const json::object& object, std::string path = {}) : object_(&object), path_(std::move(path)) {}

    template <class T>
    void operator()(std::string_view name, T& value, Empty = Empty::as_is) {
        if (error_) return;
        const json::value* found = find(name);
        if (found == nullptr || found->is_null()) return;
        decode(*found, value, path_.empty() ? std::string(name) : path_ + "." + std::string(name));
    }

    // Members of a nested struct that are written in the same object.
    template <class T>
    void inlined(T& value) {
        members(*this, value);
    }

    Result<> finish() {
        if (error_) return std::unexpected(std::move(*error_));
        return {};
    }

  private:
    // Exactly, or else without regard to case, as Go's decoder finds members.
    const json::value* find(std::string_view name) const {
        if (const json::value* exact = object_->if_contains(name)) return exact;
        for (const auto& member : *object_) {
            if (member.key().size() == name.size() && same_without_case(member.key(), name)) return &member.value();
        }
        return nullptr;
    }
    static bool same_without_case(std::string_view a, std::string_view b) {
        for (std::size_t i = 0; i < a.size(); ++i) {
            const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
            if (lower(a[i]) != lower(b[i])) return false;
        }
        return true;
    }
    void wrong(const std::string& path, std::string_view expected) {
        if (!error_) error_.emplace(Code::invalid_argument, path + ": expected " + std::string(expected));
    }

    void decode(const json::value& in, std::string& out, const std::string& path) {
        if (const json::string* text = in.if_string())
            out.assign(text->data(), text->size());
        else
            wrong(path, "a string");
    }
    void decode(const json::value& in, bool& out, const std::string& path) {
        if (const bool* flag = in.if_bool())
            out = *flag;
        else
            wrong(path, "true or false");
    }
    template <class T>
        requires(std::is_integral_v<T> && !std::is_same_v<T, bool>)
    void decode(const json::value& in, T& out, const std::string& path) {
        if (const std::int64_t* number = in.if_int64(); number != nullptr && std::in_range<T>(*number)) {
            out = static_cast<T>(*number);
        } else if (const std::uint64_t* positive = in.if_uint64(); positive != nullptr && std::in_range<T>(*positive)) {
            out = static_cast<T>(*positive);
        } else {
            wrong(path, in.is_number() ? "a whole number in range" : "a number");
        }
    }
    template <class T>
    void decode(const json::value& in, std::optional<T>& out, const std::string& path) {
        out.emplace();
        decode(in, *out, path);
    }
    template <class T>
    void decode(const json::value& in, std::vector<T>& out, const std::string& path) {
        const json::array* array = in.if_array();
        if (array == nullptr) return wrong(path, "an array");
        out.clear();
        out.reserve(array->size());
        for (const json::value& element : *array) {
            decode(element, out.emplace_back(), path + "[" + std::to_string(out.size() - 1) + "]");
        }
    }
    template <class T>
    void decode(const json::value& in, std::map<std::string, T>& out, const std::string& path) {
        const json::object* object = in.if_object();
        if (object == nullptr) return wrong(path, "an object");
        out.clear();
        for (const auto& member : *object) {
            T& value = out[std::string(member.key())];
            if (!member.value().is_null()) decode(member.value(), value, path + "." + std::string(member.key()));
        }
    }
    // {"a":{}, "b":{}} as a set of names.
    void decode(const json::value& in, std::set<std::string>& out, const std::string& path) {
        const json::object* object = in.if_object();
        if (object == nullptr) return wrong(path, "an object");
        out.clear();
        for (const auto& member : *object) {
            if (!member.value().is_object() && !member.value().is_null()) {
                return wrong(path + "." + std::string(member.key()), "an object");
            }
            out.emplace(member.key());
        }
    }
    template <Described T>
    void decode(const json::value& in, T& out, const std::string& path) {
        const json::object* object = in.if_object();
        if (object == nullptr) return wrong(path, "an object");
        Decoder inner(*object, path);
        members(inner, out);
        if (inner.error_) error_ = std::move(inner.error_);
    }

    const json::object* object_;
    std::string path_;
    std::optional<Error> error_;
};

class Encoder {
  public:
    template <class T>
    void operator()(std::string_view name, T& value, Empty empty = Empty::as_is) {
        if constexpr (requires { value.empty(); }) {
            if (value.empty() && empty != Empty::as_is) {
                if (empty == Empty::as_null) object_[name] = nullptr;
                return;
            }
        }
        if constexpr (std::is_arithmetic_v<T>) {
            if (empty == Empty::left_out && value == T{}) return;
        }
        if constexpr (requires { value.has_value(); }) {
            if (!value.has_value()) {
                if (empty != Empty::left_out) object_[name] = nullptr;
                return;
            }
        }
        object_[name] = encode(value);
    }
    template <class T>
    void inlined(T& value) {
        members(*this, value);
    }
    json::object take() { return std::move(object_); }

  private:
    template <class T>
    static json::value encode(T& value) {
        if constexpr (Described<T>) {
            Encoder inner;
            members(inner, value);
            return inner.take();
        } else {
            return json::value(value);
        }
    }
    static json::value encode(std::string& value) { return json::string(value); }
    template <class T>
    static json::value encode(std::optional<T>& value) {
        return encode(*value);
    }
    template <class T>
    static json::value encode(std::vector<T>& values) {
        json::array array;
        array.reserve(values.size());
        for (T& value : values) array.push_back(encode(value));
        return array;
    }
    template <class T>
    static json::value encode(std::map<std::string, T>& values) {
        json::object object;
        for (auto& [key, value] : values) object[key] = encode(value);
        return object;
    }
    static json::value encode(std::set<std::string>& values) {
        json::object object;
        for (const std::string& key : values) object[key] = json::object{};
        return object;
    }

    json::object object_;
};

template <class T>
Result<T> decode(const json::object& object, const std::string& path = {}) {
    T value;
    Decoder decoder(object, path);
    members(decoder, value);
    TRY(decoder.finish());
    return value;
}

// Describing functions take a reference to non-const for the decoder's sake; encoding does not change the value.
template <class T>
json::object encode(const T& value) {
    Encoder encoder;
    members(encoder, const_cast<T&>(value));
    return encoder.take();
}

}  // namespace wherry::engine::codec
