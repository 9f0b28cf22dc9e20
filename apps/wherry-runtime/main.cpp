// wherry-runtime: the runtime library behind the OCI runtime command line.
#include <fcntl.h>
#include <malloc.h>

#include <cstdio>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/log.hpp"
#include "command_line.hpp"
#include "commands.hpp"
#include "oci/container.hpp"

namespace {

using namespace wherry;

// Where log lines go: --log, in runc's two formats, which containerd, CRI-O and podman read the last error from.
struct LogFile {
    Fd file;
    bool json = false;
};

LogFile& log_file() {
    static LogFile log;
    return log;
}

std::string quoted(std::string_view text) {
    std::string out = "\"";
    for (char letter : text) {
        if (letter == '"' || letter == '\\') out += '\\';
        if (letter == '\n') {
            out += "\\n";
        } else {
            out += letter;
        }
    }
    return out + '"';
}

void write_log(LogLevel level, std::string_view message) {
    LogFile& log = log_file();
    std::string_view name = level == LogLevel::warn ? "warning" : to_string(level);
    std::string line;
    if (log.json) {
        json::object entry;
        entry["level"] = name;
        entry["msg"] = message;
        entry["time"] = format_rfc3339(wall_now());
        line = to_json(json::value(std::move(entry))) + "\n";
    } else {
        line = "time=" + quoted(format_rfc3339(wall_now())) + " level=" + std::string(name) +
               " msg=" + quoted(message) + "\n";
    }
    // One write a line: several commands append to one file. Nothing can be done when it fails.
    [[maybe_unused]] auto written = write_all(log.file ? log.file.get() : 2, line);
}

Result<> open_log(const runtime::Options& global) {
    std::string format = global.value("log-format", "text");
    if (format != "text" && format != "json") return fail(Code::invalid_argument, "invalid log-format: " + format);
    log_file().json = format == "json";
    if (global.has("log"))
        log_file().file = TRY(open_file(global.value("log"), O_WRONLY | O_APPEND | O_CREAT, 0644), "--log");
    set_log_sink(write_log);
    set_log_level(global.has("debug") ? LogLevel::debug : LogLevel::warn);
    return {};
}

int report(const Error& error, int code) {
    std::string message = error.describe();
    if (log_file().file) write_log(LogLevel::error, message);
    std::fprintf(stderr, "wherry-runtime: %s\n", message.c_str());
    return code;
}

}  // namespace

int main(int argc, char** argv) {
    if (auto guarded = oci::protect_own_binary(argv); !guarded) return report(guarded.error(), 1);
    // Grown and given back piece by piece the heap costs a system call a piece.
    ::mallopt(M_TOP_PAD, 1 << 20);
    ::mallopt(M_TRIM_THRESHOLD, 64 << 20);
    std::vector<std::string> words(argv + 1, argv + argc);
    auto line = runtime::parse_command_line(words);
    if (!line) {
        std::fprintf(stderr, "%s", runtime::usage().c_str());
        return report(line.error(), 1);
    }
    if (line->global.has("version")) {
        std::printf("wherry-runtime version %s\nspec: 1.2.0\n", WHERRY_VERSION);
        return 0;
    }
    if (line->global.has("help") || line->command.empty() || line->command == "help") {
        std::printf("%s", runtime::usage().c_str());
        return 0;
    }
    if (auto opened = open_log(line->global); !opened) return report(opened.error(), 1);
    auto code = runtime::run_command(*line);
    if (!code) return report(code.error(), line->command == "exec" ? 255 : 1);
    return *code;
}
