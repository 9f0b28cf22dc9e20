// Time as the project writes it: nanoseconds since the epoch, and RFC 3339 with nine digits for people and JSON.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry {

using Nanoseconds = std::chrono::nanoseconds;
// Wall-clock time since 1970-01-01T00:00:00Z.
using WallTime = std::chrono::time_point<std::chrono::system_clock, Nanoseconds>;

WallTime wall_now();
std::int64_t monotonic_ns();  // CLOCK_MONOTONIC

// "2026-11-23T13:09:51.000000123Z": always UTC, always nine digits (Docker's fixed-width RFC3339Nano of log lines).
std::string format_rfc3339(WallTime time);
// Go's time.RFC3339Nano: trailing zeros of the fraction dropped. The zero time is "0001-01-01T00:00:00Z".
std::string format_rfc3339_short(WallTime time);
// Any RFC 3339 date and time, "Z" or an offset, up to nine digits of fraction. Beyond what nanoseconds in 64 bits reach
// (1677 to 2262) it is their end; the zero time is the zero time.
Result<WallTime> parse_rfc3339(std::string_view text);

}  // namespace wherry
