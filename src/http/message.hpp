// What both ends of HTTP/1.1 (RFC 9112) share: header fields, targets and queries, percent coding.
// Plain values; not thread-safe, like any container.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace wherry::http {

// Header fields in the order they came; names compare without case (RFC 9110 section 5.1).
class Headers {
  public:
    using Field = std::pair<std::string, std::string>;

    // The first field of that name; empty when there is none (see has()).
    std::string_view get(std::string_view name) const;
    bool has(std::string_view name) const;
    void set(std::string_view name, std::string value);  // replaces every field of that name
    void add(std::string_view name, std::string value);
    void remove(std::string_view name);
    // True when the comma-separated list of that name holds `token`, without case ("Connection: keep-alive, Upgrade").
    bool lists(std::string_view name, std::string_view token) const;
    void clear() { fields_.clear(); }
    bool empty() const { return fields_.empty(); }

    auto begin() const { return fields_.begin(); }
    auto end() const { return fields_.end(); }

  private:
    std::vector<Field> fields_;
};

bool equals_ignoring_case(std::string_view a, std::string_view b);

// A decoded query string. Names may repeat; the order is kept.
class Query {
  public:
    // "a=1&b=%20x+y"; '+' is a space (HTML form encoding, as Go's net/url). invalid_argument on a bad escape.
    static Result<Query> parse(std::string_view text);

    // The first value of that name, empty when there is none.
    std::string_view get(std::string_view name) const;
    bool has(std::string_view name) const;
    std::vector<std::string_view> all(std::string_view name) const;
    void add(std::string_view name, std::string_view value) { items_.emplace_back(name, value); }
    std::string encode() const;  // "a=1&b=%20x", without '?'
    bool empty() const { return items_.empty(); }

    auto begin() const { return items_.begin(); }
    auto end() const { return items_.end(); }

  private:
    std::vector<std::pair<std::string, std::string>> items_;
};

// Percent-encodes all but unreserved characters (RFC 3986 section 2.3); for one path segment or one query value.
std::string percent_encode(std::string_view text);
// The same, but '/' and ':' stay: for image names inside a path.
std::string percent_encode_path(std::string_view text);
// invalid_argument on a cut or non-hexadecimal escape. '+' stays '+'.
Result<std::string> percent_decode(std::string_view text);

// "OK" of 200; "Unknown" for numbers without a name.
std::string_view reason_phrase(unsigned status);

}  // namespace wherry::http
