// Health checks: what is wished, when the next probe is due, and what a result comes to. Pure functions; the probes
// themselves run in container_health.cpp. Internal to the engine.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "engine/container_spec.hpp"
#include "engine/containers.hpp"

namespace wherry::engine {

// Execs of probes: a daemon that starts knows by it what the last one left running.
inline constexpr std::string_view health_exec_prefix = "health-";

struct HealthPlan {
    Strings command;
    Nanoseconds interval = std::chrono::seconds(30);
    Nanoseconds timeout = std::chrono::seconds(30);
    Nanoseconds start_period{0};
    Nanoseconds start_interval = std::chrono::seconds(5);
    int retries = 3;
};

// nullopt: there is none, or it was switched off.
std::optional<HealthPlan> health_plan(const Config& config);
// From the end of the last probe (or the start) to the next.
Nanoseconds health_delay(const HealthPlan& plan, const HealthView& health, WallTime started_at, WallTime now);
// Docker's rules. True when the status has changed.
bool take_health_result(const HealthPlan& plan, HealthView& health, HealthLogEntry result, WallTime started_at);
// The output of a program as JSON can hold it: bytes that are no UTF-8 become U+FFFD.
std::string valid_utf8(std::string_view bytes);
// "5s", "1m30s", "500ms", as Go prints durations.
std::string duration_text(std::int64_t milliseconds);

}  // namespace wherry::engine
