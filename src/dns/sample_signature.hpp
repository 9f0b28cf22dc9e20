// How a message of round trips is signed by who sends it: agents and the dispatcher agree on it here
// (docs/dispatch.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace wherry::dns {

// HMAC-SHA256 of "SENDER\nTIME\n" and the body under the sender's secret (bytes), in lower-case hexadecimal. Time:
// seconds since the epoch.
std::string sample_signature(std::string_view secret, std::string_view sender, std::int64_t time,
                             std::string_view body);

}  // namespace wherry::dns
