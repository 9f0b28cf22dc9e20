#include "base/log.hpp"

#include <unistd.h>

#include <atomic>

#include "base/clock.hpp"

namespace wherry {

namespace {

std::atomic<LogLevel> current_level{LogLevel::info};

void stderr_sink(LogLevel level, std::string_view line) {
    std::string text = format_rfc3339(wall_now());
    text += " ";
    text += to_string(level);
    text += " ";
    text += line;
    text += "\n";
    // One write a line, so that lines of several processes do not mix; nothing to do when it fails.
    [[maybe_unused]] auto written = ::write(STDERR_FILENO, text.data(), text.size());
}

std::atomic<LogSink> current_sink{stderr_sink};

// logfmt: quotes where a value has spaces, quotes or control characters.
void append_value(std::string& line, std::string_view value) {
    bool plain = !value.empty();
    for (char c : value)
        if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 127) plain = false;
    if (plain) {
        line += value;
        return;
    }
    constexpr std::string_view digits = "0123456789abcdef";
    line += '"';
    for (char c : value) {
        auto byte = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') {
            line += '\\';
            line += c;
        } else if (c == '\n') {
            line += "\\n";
        } else if (byte < 32 || byte == 127) {
            line += "\\x";
            line += digits[byte >> 4U];
            line += digits[byte & 15U];
        } else {
            line += c;
        }
    }
    line += '"';
}

}  // namespace

Result<LogLevel> parse_log_level(std::string_view name) {
    if (name == "trace") return LogLevel::trace;
    if (name == "debug") return LogLevel::debug;
    if (name == "info") return LogLevel::info;
    if (name == "warn" || name == "warning") return LogLevel::warn;
    if (name == "error") return LogLevel::error;
    if (name == "fatal") return LogLevel::fatal;
    return fail(Code::invalid_argument,
                "unknown log level \"" + std::string(name) + "\" (debug, info, warn, error or fatal)");
}

std::string_view to_string(LogLevel level) {
    switch (level) {
        case LogLevel::trace:
            return "trace";
        case LogLevel::debug:
            return "debug";
        case LogLevel::info:
            return "info";
        case LogLevel::warn:
            return "warn";
        case LogLevel::error:
            return "error";
        case LogLevel::fatal:
            return "fatal";
        case LogLevel::off:
            return "off";
    }
    return "off";
}

void set_log_level(LogLevel level) {
    current_level = level;
}
bool log_enabled(LogLevel level) {
    return level >= current_level.load(std::memory_order_relaxed);
}
void set_log_sink(LogSink sink) {
    current_sink = sink == nullptr ? stderr_sink : sink;
}

void log_event(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
    if (!log_enabled(level)) return;
    std::string line(event);
    for (const LogField& field : fields) {
        line += ' ';
        line += field.key;
        line += '=';
        append_value(line, field.value);
    }
    current_sink.load()(level, line);
}

}  // namespace wherry
