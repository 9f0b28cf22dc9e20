// Sizes, durations and times as people write and read them, by Docker's rules (its go-units library and Go's time).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/result.hpp"

namespace wherry::cli {

// "512", "64m", "1.5GiB" with factors of 1024: bytes. Errors in Docker's words ("invalid suffix: 'x'").
Result<std::int64_t> parse_bytes(std::string_view text);
// As parse_bytes, but "-1" is -1 (memory-swap).
Result<std::int64_t> parse_swap_bytes(std::string_view text);
// Go's ParseDuration ("1h15m30.5s", "300ms"): nanoseconds.
Result<std::int64_t> parse_duration(std::string_view text);
// A decimal such as "1.5" or ".5" or "3/2" times 10^9, exactly (--cpus): nano processors.
Result<std::int64_t> parse_nano_cpus(std::string_view text);

Result<> check_bytes(std::string_view value);
Result<> check_swap_bytes(std::string_view value);
Result<> check_duration(std::string_view value);
Result<> check_cpus(std::string_view value);

std::string human_size(double bytes, int digits = 3);  // "1.24MB": factors of 1000, that many significant digits
std::string human_binary_size(double bytes);           // "1.179MiB": factors of 1024, four significant digits
std::string human_duration(std::int64_t seconds);      // "About an hour"
std::string human_ago(WallTime then, WallTime now);    // "3 minutes ago"
std::string go_time(WallTime time);                    // "2026-11-23 13:09:51 +0000 UTC"
// Seconds since the epoch (maybe with ".nanoseconds"), RFC 3339 (also without a zone or time of day, taken as UTC),
// or a duration before `now`: "seconds.nanoseconds" as the API wants it.
Result<std::string> parse_timestamp(std::string_view text, WallTime now);

// printf("%.<digits>g").
std::string general(double value, int digits);

}  // namespace wherry::cli
