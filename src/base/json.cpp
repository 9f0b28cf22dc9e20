#include "base/json.hpp"

#include <boost/json/serialize.hpp>
#include <boost/json/stream_parser.hpp>
#include <limits>

namespace wherry {

Result<json::value> parse_json(std::string_view text) {
    json::parse_options options;
    options.max_depth = 64;
    json::stream_parser parser({}, options);
    boost::system::error_code error;
    std::size_t consumed = parser.write(text.data(), text.size(), error);
    if (!error) parser.finish(error);
    if (error)
        return fail(Code::invalid_argument, "JSON: " + error.message() + " at offset " + std::to_string(consumed));
    return parser.release();
}

Result<json::object> parse_json_object(std::string_view text) {
    json::value value = TRY(parse_json(text));
    if (!value.is_object()) return fail(Code::invalid_argument, "JSON: expected an object");
    return std::move(value.get_object());
}

std::string to_json(const json::value& value) {
    return json::serialize(value);
}

const json::value* JsonReader::find(std::string_view key) const {
    const json::value* value = object_->if_contains(key);
    return value == nullptr || value->is_null() ? nullptr : value;
}

bool JsonReader::has(std::string_view key) const {
    return find(key) != nullptr;
}

std::string JsonReader::path_of(std::string_view key) const {
    return path_.empty() ? std::string(key) : path_ + "." + std::string(key);
}

std::unexpected<Error> JsonReader::wrong(std::string_view key, std::string_view expected) const {
    return fail(Code::invalid_argument, path_of(key) + ": expected " + std::string(expected));
}

Result<std::optional<std::string>> JsonReader::string(std::string_view key) const {
    const json::value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) return wrong(key, "a string");
    return std::string(value->get_string());
}

Result<std::string> JsonReader::string_or(std::string_view key, std::string_view fallback) const {
    auto value = TRY(string(key));
    return value ? std::move(*value) : std::string(fallback);
}

Result<std::string> JsonReader::required_string(std::string_view key) const {
    auto value = TRY(string(key));
    if (!value) return fail(Code::invalid_argument, path_of(key) + ": missing");
    return std::move(*value);
}

Result<std::optional<std::int64_t>> JsonReader::integer(std::string_view key) const {
    const json::value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_int64()) return value->get_int64();
    if (value->is_uint64() &&
        value->get_uint64() <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        return static_cast<std::int64_t>(value->get_uint64());
    return wrong(key, "a 64-bit integer");
}

Result<std::int64_t> JsonReader::integer_or(std::string_view key, std::int64_t fallback) const {
    auto value = TRY(integer(key));
    return value.value_or(fallback);
}

Result<std::optional<std::uint64_t>> JsonReader::unsigned_integer(std::string_view key) const {
    const json::value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_uint64()) return value->get_uint64();
    if (value->is_int64() && value->get_int64() >= 0) return static_cast<std::uint64_t>(value->get_int64());
    return wrong(key, "a non-negative integer");
}

Result<std::optional<double>> JsonReader::number(std::string_view key) const {
    const json::value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_double()) return value->get_double();
    if (value->is_int64()) return static_cast<double>(value->get_int64());
    if (value->is_uint64()) return static_cast<double>(value->get_uint64());
    return wrong(key, "a number");
}

Result<std::optional<bool>> JsonReader::boolean(std::string_view key) const {
    const json::value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_bool()) return wrong(key, "true or false");
    return value->get_bool();
}

Result<bool> JsonReader::boolean_or(std::string_view key, bool fallback) const {
    auto value = TRY(boolean(key));
    return value.value_or(fallback);
}

Result<std::vector<std::string>> JsonReader::strings(std::string_view key) const {
    std::vector<std::string> items;
    const json::value* value = find(key);
    if (value == nullptr) return items;
    if (!value->is_array()) return wrong(key, "an array of strings");
    for (const json::value& item : value->get_array()) {
        if (!item.is_string()) return wrong(key, "an array of strings");
        items.emplace_back(item.get_string());
    }
    return items;
}

Result<std::map<std::string, std::string>> JsonReader::string_map(std::string_view key) const {
    std::map<std::string, std::string> items;
    const json::value* value = find(key);
    if (value == nullptr) return items;
    if (!value->is_object()) return wrong(key, "an object of strings");
    for (const auto& [name, item] : value->get_object()) {
        if (!item.is_string()) return wrong(key, "an object of strings");
        items.emplace(name, item.get_string());
    }
    return items;
}

Result<std::optional<JsonReader>> JsonReader::child(std::string_view key) const {
    const json::value* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_object()) return wrong(key, "an object");
    return JsonReader(value->get_object(), path_of(key));
}

Result<std::vector<JsonReader>> JsonReader::children(std::string_view key) const {
    std::vector<JsonReader> items;
    const json::value* value = find(key);
    if (value == nullptr) return items;
    if (!value->is_array()) return wrong(key, "an array of objects");
    std::size_t index = 0;
    for (const json::value& item : value->get_array()) {
        if (!item.is_object()) return wrong(key, "an array of objects");
        items.emplace_back(item.get_object(), path_of(key) + "[" + std::to_string(index++) + "]");
    }
    return items;
}

}  // namespace wherry
