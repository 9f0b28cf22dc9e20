#include "vmm/core/logger.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <optional>

#include "base/clock.hpp"
#include "base/fd.hpp"

namespace wherry::vmm {
namespace {

struct Logger {
    std::mutex mutex;
    std::string instance = "anonymous-instance";
    std::string module;
    Fd file;  // stdout when empty
    std::atomic<LogLevel> level = LogLevel::info;
    bool show_level = false;
    bool show_origin = false;
    LoggerMetrics metrics;
};

Logger& logger() {
    static Logger instance;
    return instance;
}

std::atomic<int> signal_log = -1;

std::string_view level_name(LogLevel level) {
    switch (level) {
        case LogLevel::trace:
            return "TRACE";
        case LogLevel::debug:
            return "DEBUG";
        case LogLevel::info:
            return "INFO";
        case LogLevel::warn:
            return "WARN";
        default:
            return "ERROR";
    }
}

}  // namespace

LoggerMetrics& logger_metrics() {
    return logger().metrics;
}

void initialize_logger(std::string_view instance_id) {
    {
        const std::lock_guard lock(logger().mutex);
        logger().instance = instance_id;
    }
    set_log_sink([](LogLevel level, std::string_view line) { log_line(level, line); });
}

Result<> configure_logger(const LoggerConfig& config) {
    Fd file;
    if (config.path) {
        // A pipe must have its reader already, or opening it would block; a file is appended to.
        file = TRY(open_file(*config.path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, 0644));
    }
    const std::lock_guard lock(logger().mutex);
    if (file) {
        signal_log = file.get();
        logger().file = std::move(file);
    }
    if (config.level) {
        logger().level = *config.level;
        set_log_level(*config.level);
    }
    if (config.show_level) logger().show_level = *config.show_level;
    if (config.show_origin) logger().show_origin = *config.show_origin;
    if (config.module) logger().module = *config.module;
    return {};
}

Result<LogLevel> parse_logger_level(std::string_view name) {
    std::string lower(name);
    std::ranges::transform(lower, lower.begin(),
                           [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    if (lower == "off") return LogLevel::off;
    if (lower == "trace") return LogLevel::trace;
    if (lower == "debug") return LogLevel::debug;
    if (lower == "info") return LogLevel::info;
    if (lower == "warn" || lower == "warning") return LogLevel::warn;
    if (lower == "error") return LogLevel::error;
    return fail(
        Code::invalid_argument,
        fmt::format("unknown variant `{}`, expected one of `Off`, `Trace`, `Debug`, `Info`, `Warn`, `Error`", name));
}

void log_line(LogLevel level, std::string_view message) {
    Logger& log = logger();
    if (level < log.level.load() || log.level.load() == LogLevel::off) return;
    std::array<char, 17> thread = {};
    prctl(PR_GET_NAME, thread.data());
    std::string time = format_rfc3339(wall_now());
    if (time.ends_with('Z')) time.pop_back();
    const std::lock_guard lock(log.mutex);
    const std::string line =
        fmt::format("{} [{}:{}{}{}{}] {}\n", time, log.instance, thread.data(), log.show_level ? ":" : "",
                    log.show_level ? level_name(level) : "", log.show_origin ? ":wherry-vmm" : "", message);
    const ssize_t written = write(log.file ? log.file.get() : STDOUT_FILENO, line.data(), line.size());
    if (written != static_cast<ssize_t>(line.size())) log.metrics.missed_log_count.add();
}

void log_from_signal(std::string_view line) {
    const int file = signal_log;
    if (file >= 0) [[maybe_unused]]
        const ssize_t written = write(file, line.data(), line.size());
}

}  // namespace wherry::vmm
