#include "engine/health.hpp"

#include "supervisor/log_format.hpp"

namespace wherry::engine {
namespace {

constexpr std::size_t kept_results = 5;

}  // namespace

std::optional<HealthPlan> health_plan(const Config& config) {
    if (!config.healthcheck || config.healthcheck->test.empty()) return std::nullopt;
    const Healthcheck& check = *config.healthcheck;
    HealthPlan plan;
    if (check.test.front() == "CMD") {
        plan.command.assign(check.test.begin() + 1, check.test.end());
    } else if (check.test.front() == "CMD-SHELL") {
        plan.command = config.shell && !config.shell->empty() ? *config.shell : Strings{"/bin/sh", "-c"};
        plan.command.push_back(check.test.size() > 1 ? check.test[1] : std::string());
    }
    if (plan.command.empty()) return std::nullopt;  // NONE
    const auto set = [](Nanoseconds& value, std::int64_t given) {
        if (given > 0) value = Nanoseconds(given);
    };
    set(plan.interval, check.interval_ns);
    set(plan.timeout, check.timeout_ns);
    set(plan.start_period, check.start_period_ns);
    set(plan.start_interval, check.start_interval_ns);
    if (check.retries > 0) plan.retries = check.retries;
    return plan;
}

Nanoseconds health_delay(const HealthPlan& plan, const HealthView& health, WallTime started_at, WallTime now) {
    const bool starting = health.status == "starting" && now - started_at < plan.start_period;
    return starting ? plan.start_interval : plan.interval;
}

bool take_health_result(const HealthPlan& plan, HealthView& health, HealthLogEntry result, WallTime started_at) {
    const std::string before = health.status;
    if (result.exit_code == 0) {
        health.failing_streak = 0;
        health.status = "healthy";
    } else if (before != "starting" || result.start - started_at >= plan.start_period) {
        // A failure in the start period does not count, as long as no probe has been good.
        ++health.failing_streak;
        if (health.failing_streak >= plan.retries) health.status = "unhealthy";
    }
    health.log.push_back(std::move(result));
    if (health.log.size() > kept_results) health.log.erase(health.log.begin());
    return health.status != before;
}

std::string valid_utf8(std::string_view bytes) {
    std::string text;
    while (!bytes.empty()) {
        const auto first = static_cast<unsigned char>(bytes[0]);
        const std::size_t length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
        if (length <= bytes.size() && supervisor::is_utf8(bytes.substr(0, length))) {
            text += bytes.substr(0, length);
            bytes.remove_prefix(length);
        } else {
            text += "\xef\xbf\xbd";
            bytes.remove_prefix(1);
        }
    }
    return text;
}

std::string duration_text(std::int64_t milliseconds) {
    if (milliseconds < 1000) return std::to_string(milliseconds) + "ms";
    const std::int64_t seconds = milliseconds / 1000;
    std::string text;
    if (seconds >= 3600) text += std::to_string(seconds / 3600) + "h";
    if (seconds >= 60) text += std::to_string(seconds / 60 % 60) + "m";
    text += std::to_string(seconds % 60);
    if (std::int64_t rest = milliseconds % 1000; rest != 0) {
        std::string digits = std::to_string(1000 + rest).substr(1);
        while (digits.ends_with('0')) digits.pop_back();
        text += "." + digits;
    }
    return text + "s";
}

}  // namespace wherry::engine
