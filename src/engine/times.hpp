// Durations and times as people write them. Internal to the engine, and for the daemon's options.
#pragma once

#include <string_view>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace wherry::engine {

// Go's durations of whole numbers: "10m", "1h30m", "500ms"; "0". invalid_argument otherwise, and beyond 100 years.
Result<Nanoseconds> parse_duration(std::string_view text);
// Such a duration before now, an RFC 3339 time (also without zone or time of day, then UTC) or seconds since the epoch:
// what prune's and list's `until` takes.
Result<WallTime> parse_until(std::string_view text);

}  // namespace wherry::engine
