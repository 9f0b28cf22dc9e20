// Structured logging: a constant event name and keys.
//
//     log_info("container.start", {{"id", id}, {"duration_ms", ms}});
//
// This file has no dependency, so that the small static binaries can log too: by default lines go to stderr.
// wherryd installs spdlog as the sink (base/log_spdlog.hpp). Thread-safe.
#pragma once

#include <concepts>
#include <initializer_list>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry {

enum class LogLevel : unsigned char { trace, debug, info, warn, error, fatal, off };

Result<LogLevel> parse_log_level(std::string_view name);  // dockerd's names: debug, info, warn, error, fatal
std::string_view to_string(LogLevel level);

struct LogField {
    LogField(std::string_view k, std::string_view v) : key(k), value(v) {}
    LogField(std::string_view k, const std::string& v) : key(k), value(v) {}
    LogField(std::string_view k, const char* v) : key(k), value(v) {}
    LogField(std::string_view k, bool v) : key(k), value(v ? "true" : "false") {}
    template <class T>
        requires std::integral<T> || std::floating_point<T>
    LogField(std::string_view k, T v) : key(k), value(std::to_string(v)) {}
    LogField(std::string_view k, const Error& e) : key(k), value(e.describe()) {}

    std::string_view key;
    std::string value;
};

using LogSink = void (*)(LogLevel level, std::string_view line);

void set_log_level(LogLevel level);
bool log_enabled(LogLevel level);
void set_log_sink(LogSink sink);  // nullptr: back to stderr

void log_event(LogLevel level, std::string_view event, std::initializer_list<LogField> fields);

inline void log_debug(std::string_view event, std::initializer_list<LogField> fields = {}) {
    log_event(LogLevel::debug, event, fields);
}
inline void log_info(std::string_view event, std::initializer_list<LogField> fields = {}) {
    log_event(LogLevel::info, event, fields);
}
inline void log_warn(std::string_view event, std::initializer_list<LogField> fields = {}) {
    log_event(LogLevel::warn, event, fields);
}
inline void log_error(std::string_view event, std::initializer_list<LogField> fields = {}) {
    log_event(LogLevel::error, event, fields);
}

}  // namespace wherry
