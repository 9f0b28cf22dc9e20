// Numbers as people write them: in an argument, a file, a request.
#pragma once

#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>

namespace wherry {

// Decimal, nothing around it, and in the range of T; otherwise empty.
template <class T>
std::optional<T> parse_number(std::string_view text) {
    T value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
}

}  // namespace wherry
