// Names people see: made-up container names, which names are allowed, signals by name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry::engine {

// "calm_harbour": an adjective and a noun of the water. `attempt` above 0 adds digits, for when names are taken.
std::string make_name(unsigned attempt);
// [a-zA-Z0-9][a-zA-Z0-9_.-]+; Docker's words otherwise.
Result<> check_container_name(std::string_view name);
Result<> check_volume_name(std::string_view name);

// "SIGTERM", "TERM", "term", "15", "RTMIN+3"; invalid_argument "Invalid signal: x".
Result<int> parse_signal(std::string_view text);
std::string signal_name(int signal);  // "SIGTERM"; "signal 99"

// "5 minutes", "About an hour": the age of things, as Docker's tables say it.
std::string human_duration(std::int64_t seconds);
std::string human_bytes(std::int64_t bytes);  // "64 MiB"

}  // namespace wherry::engine
