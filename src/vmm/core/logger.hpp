// The monitor's log, in Firecracker's shape: "2026-01-01T00:00:00.000000000 [id:thread:LEVEL] message". Goes to
// stdout until a file or pipe is configured. Thread-safe; a full pipe loses lines, never blocks the guest.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/log.hpp"
#include "base/result.hpp"
#include "vmm/core/counter.hpp"

namespace wherry::vmm {

struct LoggerConfig {
    std::optional<std::string> path;
    std::optional<LogLevel> level;
    std::optional<bool> show_level;
    std::optional<bool> show_origin;
    std::optional<std::string> module;
};

struct LoggerMetrics {
    Counter missed_log_count;
    Counter missed_metrics_count;
};
LoggerMetrics& logger_metrics();

// Names the instance in every line, and makes the project's log_... functions write here.
void initialize_logger(std::string_view instance_id);
Result<> configure_logger(const LoggerConfig& config);
// "Off", "Trace", "Debug", "Info", "Warning" ("Warn"), "Error", in any case.
Result<LogLevel> parse_logger_level(std::string_view name);
void log_line(LogLevel level, std::string_view message);
// A line as it is, to the log's file when there is one. Async-signal-safe.
void log_from_signal(std::string_view line);

}  // namespace wherry::vmm
