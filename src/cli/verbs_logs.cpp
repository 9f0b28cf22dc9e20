// logs, top, port.
#include <algorithm>
#include <array>
#include <map>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/rows.hpp"
#include "cli/session.hpp"
#include "cli/stream.hpp"
#include "cli/table.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

constexpr Option logs_options[] = {
    {"details", 0, {}, "Show extra details provided to logs"},
    {"follow", 'f', {}, "Follow log output"},
    {"since", 0, "string",
     "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)"},
    {"tail", 'n', "string", "Number of lines to show from the end of the logs", nullptr, "\"all\""},
    {"timestamps", 't', {}, "Show timestamps"},
    {"until", 0, "string",
     "Show logs before a timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)"},
};

Result<int> logs(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    const std::string& name = invocation.arguments.front();
    QueryText query;
    query.add("stdout", "1")
        .add("stderr", "1")
        .add_flag("follow", options.flag("follow"))
        .add_flag("timestamps", options.flag("timestamps"))
        .add_flag("details", options.flag("details"));
    WallTime now = wall_now();
    for (std::string_view bound : {"since", "until"}) {
        if (!options.given(bound)) continue;
        auto time = parse_timestamp(options.text(bound), now);
        if (!time)
            return fail(Code::invalid_argument,
                        "invalid value for \"" + std::string(bound) + "\": " + time.error().describe());
        query.add(bound, *time);
    }
    query.add("tail", options.text("tail", "all"));
    // Whether frames or raw bytes come depends on the container's terminal.
    json::value container = TRY(session.get("/containers/" + segment(name) + "/json"));
    auto response = TRY(session.checked(
        {.method = "GET", .target = "/containers/" + segment(text_at(container, "Id")) + "/logs" + query.text()}));
    bool terminal = flag_at(container, "Config.Tty");
    Demultiplexer demultiplexer(write_to_standard_stream);
    std::vector<char> buffer(64U << 10U);
    session.flush();
    while (true) {
        std::size_t count = TRY(response.read_some(std::as_writable_bytes(std::span(buffer))));
        if (count == 0) return 0;
        std::string_view data(buffer.data(), count);
        if (terminal)
            TRY(write_all(1, data));
        else
            TRY(demultiplexer.feed(data));
    }
}

Result<int> top(Session& session, const Invocation& invocation) {
    QueryText query;
    std::string arguments;
    for (std::size_t i = 1; i < invocation.arguments.size(); ++i)
        arguments += (i > 1 ? " " : "") + invocation.arguments[i];
    if (!arguments.empty()) query.add("ps_args", arguments);
    json::value answer =
        TRY(session.get("/containers/" + segment(invocation.arguments.front()) + "/top" + query.text()));
    std::string text;
    auto line = [&](const json::value* cells) {
        if (cells == nullptr || !cells->is_array()) return;
        bool first = true;
        for (const json::value& cell : cells->get_array()) {
            text += (first ? "" : "\t") + print_text(cell);
            first = false;
        }
        text += "\n";
    };
    line(value_at(answer, "Titles"));
    if (const json::value* processes = value_at(answer, "Processes"); processes != nullptr && processes->is_array())
        for (const json::value& process : processes->get_array()) line(&process);
    session.out(align(text, {.minimum_width = 20, .padding = 3}));
    return 0;
}

Result<int> port(Session& session, const Invocation& invocation) {
    const std::string& name = invocation.arguments[0];
    json::value container = TRY(session.get("/containers/" + segment(name) + "/json"));
    const json::value* ports = value_at(container, "NetworkSettings.Ports");
    auto address = [](const json::value& binding) {
        std::string ip = text_at(binding, "HostIp");
        if (ip.find(':') != std::string::npos) ip = "[" + ip + "]";
        return ip + ":" + text_at(binding, "HostPort");
    };
    std::string wanted = invocation.arguments.size() > 1 ? invocation.arguments[1] : "";
    if (!wanted.empty() && wanted.find('/') == std::string::npos) wanted += "/tcp";
    struct Line {
        long number;
        std::string protocol;
        std::string text;
    };
    std::vector<Line> lines;
    if (ports != nullptr && ports->is_object())
        for (const auto& member : ports->get_object()) {
            std::string key(member.key());
            if ((!wanted.empty() && key != wanted) || !member.value().is_array()) continue;
            auto slash = key.find('/');
            for (const json::value& binding : member.value().get_array())
                lines.push_back({std::strtol(key.c_str(), nullptr, 10), key.substr(slash + 1),
                                 wanted.empty() ? key + " -> " + address(binding) : address(binding)});
        }
    if (lines.empty() && !wanted.empty())
        return fail(Code::not_found, "Error: No public port '" + invocation.arguments[1] + "' published for " + name);
    std::ranges::sort(lines, [](const Line& a, const Line& b) {
        return std::tie(a.number, a.protocol, a.text) < std::tie(b.number, b.protocol, b.text);
    });
    for (const Line& one : lines) session.out(one.text + "\n");
    return 0;
}

}  // namespace

void add_log_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"logs", "container logs"},
         .usage = "[OPTIONS] CONTAINER",
         .summary = "Fetch the logs of a container",
         .example = "wherry logs -f --tail 20 web",
         .options = logs_options,
         .minimum = 1,
         .maximum = 1,
         .run = logs},
        {.names = {"top", "container top"},
         .usage = "CONTAINER [ps OPTIONS]",
         .summary = "Display the running processes of a container",
         .example = "wherry top web",
         .minimum = 1,
         .stop_at_argument = true,
         .run = top},
        {.names = {"port", "container port"},
         .usage = "CONTAINER [PRIVATE_PORT[/PROTO]]",
         .summary = "List port mappings or a specific mapping for the container",
         .example = "wherry port web 80",
         .minimum = 1,
         .maximum = 2,
         .run = port},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
