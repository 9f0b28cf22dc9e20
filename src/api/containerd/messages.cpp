#include "api/containerd/messages.hpp"

namespace wherry::api::containerd {

Timestamp timestamp_of(WallTime time) {
    constexpr std::int64_t seconds_of_zero_time = -62'135'596'800;  // 0001-01-01T00:00:00Z
    if (time == WallTime{}) return {seconds_of_zero_time, 0};
    std::int64_t total = time.time_since_epoch().count();
    std::int64_t nanos = total % 1'000'000'000;
    std::int64_t seconds = total / 1'000'000'000;
    if (nanos < 0) {
        nanos += 1'000'000'000;
        --seconds;
    }
    return {seconds, static_cast<std::int32_t>(nanos)};
}

}  // namespace wherry::api::containerd
