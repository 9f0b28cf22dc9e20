#include "vmm/api/fields.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace wherry::vmm::api {
namespace {

std::string describe(const json::value& value) {
    switch (value.kind()) {
        case json::kind::null:
            return "null";
        case json::kind::bool_:
            return fmt::format("boolean `{}`", value.get_bool());
        case json::kind::int64:
            return fmt::format("integer `{}`", value.get_int64());
        case json::kind::uint64:
            return fmt::format("integer `{}`", value.get_uint64());
        case json::kind::double_:
            return "floating point number";
        case json::kind::string:
            return fmt::format("string \"{}\"", std::string_view(value.get_string()));
        case json::kind::array:
            return "sequence";
        case json::kind::object:
            return "map";
    }
    return "value";
}

std::unexpected<Error> wrong(const json::value& value, std::string_view expected) {
    const bool is_number = value.is_number() && expected.starts_with("a number");
    return fail(Code::invalid_argument,
                fmt::format("invalid {}: {}, expected {}", is_number ? "value" : "type", describe(value), expected));
}

std::unexpected<Error> missing(std::string_view name) {
    return fail(Code::invalid_argument, fmt::format("missing field `{}`", name));
}

}  // namespace

const json::value* Fields::find(std::string_view name) {
    known_.push_back(name);
    const json::value* value = object_->if_contains(name);
    return value == nullptr || value->is_null() ? nullptr : value;
}

Result<std::optional<std::string>> Fields::string(std::string_view name) {
    const json::value* value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) return wrong(*value, "a string");
    return std::string(value->get_string());
}

Result<std::optional<bool>> Fields::boolean(std::string_view name) {
    const json::value* value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_bool()) return wrong(*value, "a boolean");
    return value->get_bool();
}

Result<std::optional<std::uint64_t>> Fields::number(std::string_view name, std::uint64_t largest) {
    const json::value* value = find(name);
    if (value == nullptr) return std::nullopt;
    std::uint64_t number = 0;
    if (value->is_uint64()) {
        number = value->get_uint64();
    } else if (value->is_int64() && value->get_int64() >= 0) {
        number = static_cast<std::uint64_t>(value->get_int64());
    } else {
        return wrong(*value, fmt::format("a number from 0 to {}", largest));
    }
    if (number > largest) return wrong(*value, fmt::format("a number from 0 to {}", largest));
    return number;
}

Result<const json::object*> Fields::object(std::string_view name) {
    const json::value* value = find(name);
    if (value == nullptr) return nullptr;
    if (!value->is_object()) return wrong(*value, "an object");
    return &value->get_object();
}

Result<const json::array*> Fields::array(std::string_view name) {
    const json::value* value = find(name);
    if (value == nullptr) return nullptr;
    if (!value->is_array()) return wrong(*value, "a sequence");
    return &value->get_array();
}

Result<const json::value*> Fields::any(std::string_view name) {
    return find(name);
}

Result<std::string> Fields::required_string(std::string_view name) {
    auto value = TRY(string(name));
    if (!value) return missing(name);
    return std::move(*value);
}

Result<bool> Fields::required_boolean(std::string_view name) {
    const auto value = TRY(boolean(name));
    if (!value) return missing(name);
    return *value;
}

Result<std::uint64_t> Fields::required_number(std::string_view name, std::uint64_t largest) {
    const auto value = TRY(number(name, largest));
    if (!value) return missing(name);
    return *value;
}

Result<> Fields::finish() const {
    for (const auto& member : *object_) {
        const std::string_view key = member.key();
        if (std::ranges::find(known_, key) != known_.end()) continue;
        std::string expected;
        for (std::string_view name : known_) expected += fmt::format("{}`{}`", expected.empty() ? "" : ", ", name);
        return fail(Code::invalid_argument, fmt::format("unknown field `{}`, expected {}{}", key,
                                                        known_.size() > 1 ? "one of " : "", expected));
    }
    return {};
}

}  // namespace wherry::vmm::api
