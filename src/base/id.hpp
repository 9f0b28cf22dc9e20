// Random identifiers and hexadecimal.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry {

void fill_random(std::span<std::byte> buffer);  // getrandom(2); aborts when the kernel has none to give
std::string hex(std::span<const std::byte> bytes);
Result<std::string> unhex(std::string_view text);  // raw bytes; both cases accepted
// 64 lower-case hexadecimal digits, as Docker's container ids; never one that reads as a decimal number when cut to 12.
std::string make_id();
inline constexpr std::size_t short_id_length = 12;

}  // namespace wherry
