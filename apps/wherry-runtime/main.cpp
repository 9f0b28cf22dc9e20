// wherry-runtime: the runtime library behind the OCI runtime command line.
#include <fcntl.h>

#include <cstdio>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/json.hpp"
#include "command_line.hpp"
#include "commands.hpp"
#include "oci/container.hpp"

namespace {

using namespace wherry;

// runc's log format, which containerd and podman read the last error from.
void write_log(const runtime::Options& global, const std::string& message) {
    std::string path = global.value("log");
    if (path.empty()) return;
    auto file = open_file(path, O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (!file) return;
    std::string line;
    if (global.value("log-format") == "json") {
        json::object entry;
        entry["level"] = "error";
        entry["msg"] = message;
        entry["time"] = format_rfc3339(wall_now());
        line = to_json(json::value(std::move(entry))) + "\n";
    } else {
        line = "time=\"" + format_rfc3339(wall_now()) + "\" level=error msg=\"" + message + "\"\n";
    }
    [[maybe_unused]] auto written = write_all(file->get(), line);
}

int report(const runtime::Options& global, const Error& error, int code) {
    std::string message = error.describe();
    write_log(global, message);
    std::fprintf(stderr, "wherry-runtime: %s\n", message.c_str());
    return code;
}

}  // namespace

int main(int argc, char** argv) {
    if (auto guarded = oci::protect_own_binary(argv); !guarded) return report({}, guarded.error(), 1);
    std::vector<std::string> words(argv + 1, argv + argc);
    auto line = runtime::parse_command_line(words);
    if (!line) {
        std::fprintf(stderr, "%s", runtime::usage().c_str());
        return report({}, line.error(), 1);
    }
    if (line->global.has("version")) {
        std::printf("wherry-runtime version %s\nspec: 1.2.0\n", WHERRY_VERSION);
        return 0;
    }
    if (line->global.has("help") || line->command.empty()) {
        std::printf("%s", runtime::usage().c_str());
        return 0;
    }
    auto code = runtime::run_command(*line);
    if (!code) return report(line->global, code.error(), line->command == "exec" ? 255 : 1);
    return *code;
}
