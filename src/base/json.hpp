// Boost.JSON behind Result: parsing with limits, and typed access that names the path when a document is wrong.
// The one place that says how tolerant we are: unknown members are the caller's business, wrong types never pass.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/fwd.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace wherry {

namespace json = boost::json;

// A whole document; depth is limited to 64, size by the caller. invalid_argument with the position otherwise.
Result<json::value> parse_json(std::string_view text);
Result<json::object> parse_json_object(std::string_view text);
std::string to_json(const json::value& value);

// A reader over one object. Missing members and null give nullopt or the default; a wrong type is an
// invalid_argument "process.args: expected an array". `path` is the prefix for messages.
class JsonReader {
  public:
    explicit JsonReader(const json::object& object, std::string path = {}) : object_(&object), path_(std::move(path)) {}

    bool has(std::string_view key) const;  // there and not null
    const json::value* find(std::string_view key) const;
    const json::object& object() const { return *object_; }
    std::string path_of(std::string_view key) const;

    Result<std::optional<std::string>> string(std::string_view key) const;
    Result<std::string> string_or(std::string_view key, std::string_view fallback) const;
    Result<std::string> required_string(std::string_view key) const;
    Result<std::optional<std::int64_t>> integer(std::string_view key) const;
    Result<std::int64_t> integer_or(std::string_view key, std::int64_t fallback) const;
    Result<std::optional<std::uint64_t>> unsigned_integer(std::string_view key) const;
    Result<std::optional<double>> number(std::string_view key) const;
    Result<std::optional<bool>> boolean(std::string_view key) const;
    Result<bool> boolean_or(std::string_view key, bool fallback) const;
    Result<std::vector<std::string>> strings(std::string_view key) const;               // missing: empty
    Result<std::map<std::string, std::string>> string_map(std::string_view key) const;  // missing: empty
    Result<std::optional<JsonReader>> child(std::string_view key) const;                // an object
    Result<std::vector<JsonReader>> children(std::string_view key) const;               // an array of objects
    std::unexpected<Error> wrong(std::string_view key, std::string_view expected) const;

  private:
    const json::object* object_;
    std::string path_;
};

}  // namespace wherry
