// Base64 (RFC 4648 section 4) and its URL-safe alphabet (section 5).
#pragma once

#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry {

std::string base64_encode(std::string_view bytes);
// Accepts both alphabets, with or without padding; anything else is invalid_argument.
Result<std::string> base64_decode(std::string_view text);

}  // namespace wherry
