// start stop kill restart rm rename pause unpause wait attach.
#include <unistd.h>

#include "base/json.hpp"
#include "cli/attach.hpp"
#include "cli/command.hpp"
#include "cli/each.hpp"
#include "cli/session.hpp"

namespace wherry::cli {

namespace {

constexpr Option start_options[] = {
    {"attach", 'a', {}, "Attach STDOUT/STDERR and forward signals"},
    {"checkpoint", 0, "string", "Restore from this checkpoint", nullptr, {}, true, "checkpoints are not supported"},
    {"checkpoint-dir",
     0,
     "string",
     "Use a custom checkpoint storage directory",
     nullptr,
     {},
     true,
     "checkpoints are not supported"},
    {"detach-keys", 0, "string", "Override the key sequence for detaching a container"},
    {"interactive", 'i', {}, "Attach container's STDIN"},
    {"sig-proxy", 0, {}, "Proxy received signals to the process", nullptr, "true", true},
};
constexpr Option stop_options[] = {
    {"signal", 's', "string", "Signal to send to the container"},
    {"time", 0, "int", "Seconds to wait before killing the container", check_integer, {}, true},
    {"timeout", 't', "int", "Seconds to wait before killing the container", check_integer},
};
constexpr Option kill_options[] = {{"signal", 's', "string", "Signal to send to the container", nullptr, "\"KILL\""}};
constexpr Option rm_options[] = {
    {"force", 'f', {}, "Force the removal of a running container (uses SIGKILL)"},
    {"link", 'l', {}, "Remove the specified link"},
    {"volumes", 'v', {}, "Remove anonymous volumes associated with the container"},
};
constexpr Option attach_options[] = {
    {"detach-keys", 0, "string", "Override the key sequence for detaching a container"},
    {"no-stdin", 0, {}, "Do not attach STDIN"},
    {"sig-proxy", 0, {}, "Proxy all received signals to the process", nullptr, "true"},
};

Result<> plain_post(Session& session, std::string target) {
    TRY(session.checked({.method = "POST", .target = std::move(target)}));
    return {};
}

// The container's state, then its streams, until it ends or is detached from.
Result<int> attach_and_wait(Session& session, const std::string& name, AttachPlan plan, const DetachKeys& keys,
                            const json::value& container, bool start) {
    std::string id = text_at(container, "Id");
    bool input = plan.input;
    plan.resize = [&session, id](WindowSize size) { resize_container(session, id, size); };
    plan.signal = [&session, id](std::string_view signal) { signal_container(session, id, signal); };
    plan.detach_keys = keys.bytes;
    AttachedTerminal terminal = TRY(AttachedTerminal::prepare(plan));
    TRY(terminal.catch_signals());
    QueryText query;
    query.add("stream", "1").add_flag("stdin", input).add("stdout", "1").add("stderr", "1");
    if (!keys.text.empty()) query.add("detachKeys", keys.text);
    bool removed = flag_at(container, "HostConfig.AutoRemove");
    auto open_wait = [&] {
        return session.checked({.method = "POST",
                                .target = "/containers/" + id + "/wait?condition=" +
                                          (start     ? removed ? "removed" : "next-exit"
                                           : removed ? "removed"
                                                     : "not-running")});
    };
    std::optional<http::ClientResponse> stream;
    if (start) stream.emplace(TRY(open_stream(session, "/containers/" + id + "/attach" + query.text())));
    auto wait = TRY(open_wait());
    if (start) {
        auto started = plain_post(session, "/containers/" + segment(name) + "/start");
        if (!started) {
            session.report(started.error());
            return 1;
        }
    } else {
        stream.emplace(TRY(open_stream(session, "/containers/" + id + "/attach" + query.text())));
    }
    TRY(terminal.enter_raw_mode());
    // Another size for a moment makes programs on the terminal draw themselves anew.
    if (auto size = window_size(); size && plan.terminal && !start) plan.resize({size->rows + 1, size->columns + 1});
    PumpEnd end = TRY(pump_attached(session, *stream, plan, terminal));
    terminal.restore();
    if (end == PumpEnd::detached) {
        if (!start) session.error("read escape sequence");
        return 0;
    }
    json::value document = TRY(Session::read_json(wait));
    return static_cast<int>(integer_at(document, "StatusCode"));
}

Result<int> start(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    if (!options.flag("attach") && !options.flag("interactive")) {
        int code = TRY(for_each_argument(session, invocation, [&](const std::string& name) {
            return plain_post(session, "/containers/" + segment(name) + "/start");
        }));
        if (code != 0) {
            std::string names;
            for (const std::string& name : invocation.arguments) names += (names.empty() ? "" : ", ") + name;
            session.error("failed to start containers: " + names);
        }
        return code;
    }
    if (invocation.arguments.size() > 1)
        return fail(Code::invalid_argument, "you cannot start and attach multiple containers at once");
    const std::string& name = invocation.arguments.front();
    json::value container = TRY(session.get("/containers/" + segment(name) + "/json"));
    DetachKeys keys = TRY(detach_keys(session, options));
    AttachPlan plan;
    plan.terminal = flag_at(container, "Config.Tty");
    plan.input = options.flag("interactive") && flag_at(container, "Config.OpenStdin");
    plan.proxy_signals = options.flag("sig-proxy", true);
    return attach_and_wait(session, name, std::move(plan), keys, container, /*start=*/true);
}

Result<int> attach(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    const std::string& name = invocation.arguments.front();
    json::value container = TRY(session.get("/containers/" + segment(name) + "/json"));
    if (!flag_at(container, "State.Running"))
        return fail(Code::conflict, "cannot attach to a stopped container, start it first");
    if (flag_at(container, "State.Paused"))
        return fail(Code::conflict, "cannot attach to a paused container, unpause it first");
    if (flag_at(container, "State.Restarting"))
        return fail(Code::conflict, "cannot attach to a restarting container, wait until it is running");
    DetachKeys keys = TRY(detach_keys(session, options));
    AttachPlan plan;
    plan.terminal = flag_at(container, "Config.Tty");
    plan.input = !options.flag("no-stdin") && flag_at(container, "Config.OpenStdin");
    plan.proxy_signals = options.flag("sig-proxy", true);
    return attach_and_wait(session, name, std::move(plan), keys, container, /*start=*/false);
}

QueryText stop_query(const ParsedOptions& options) {
    QueryText query;
    for (std::string_view option : {"timeout", "time"})
        if (options.given(option)) query.add("t", std::to_string(options.integer(option)));
    if (options.given("signal")) query.add("signal", options.text("signal"));
    return query;
}

Result<int> stop(Session& session, const Invocation& invocation) {
    std::string query = stop_query(invocation.options).text();
    return for_each_argument(session, invocation, [&](const std::string& name) {
        return plain_post(session, "/containers/" + segment(name) + "/stop" + query);
    });
}

Result<int> restart(Session& session, const Invocation& invocation) {
    std::string query = stop_query(invocation.options).text();
    return for_each_argument(session, invocation, [&](const std::string& name) {
        return plain_post(session, "/containers/" + segment(name) + "/restart" + query);
    });
}

Result<int> kill(Session& session, const Invocation& invocation) {
    QueryText query;
    if (invocation.options.given("signal")) query.add("signal", invocation.options.text("signal"));
    return for_each_argument(session, invocation, [&](const std::string& name) {
        return plain_post(session, "/containers/" + segment(name) + "/kill" + query.text());
    });
}

Result<int> pause(Session& session, const Invocation& invocation) {
    return for_each_argument(session, invocation, [&](const std::string& name) {
        return plain_post(session, "/containers/" + segment(name) + "/pause");
    });
}

Result<int> unpause(Session& session, const Invocation& invocation) {
    return for_each_argument(session, invocation, [&](const std::string& name) {
        return plain_post(session, "/containers/" + segment(name) + "/unpause");
    });
}

Result<int> remove(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    QueryText query;
    query.add_flag("force", options.flag("force"))
        .add_flag("link", options.flag("link"))
        .add_flag("v", options.flag("volumes"));
    return for_each_argument(session, invocation, [&](const std::string& name) -> Result<> {
        std::string bare = name;
        while (bare.starts_with('/')) bare.erase(0, 1);
        if (bare.empty()) return fail(Code::invalid_argument, "Container name cannot be empty");
        auto removed = session.checked({.method = "DELETE", .target = "/containers/" + segment(bare) + query.text()});
        if (removed) return {};
        // With --force, what is not there is as wished; Docker says so and goes on.
        if (options.flag("force") && removed.error().code() == Code::not_found) {
            session.report(removed.error());
            return {};
        }
        return std::unexpected(std::move(removed).error());
    });
}

Result<int> rename(Session& session, const Invocation& invocation) {
    std::string old_name = invocation.arguments[0];
    std::string new_name = invocation.arguments[1];
    if (old_name.empty() || new_name.empty())
        return fail(Code::invalid_argument, "Error: Neither old nor new names may be empty");
    auto renamed =
        session.post("/containers/" + segment(old_name) + "/rename" + QueryText().add("name", new_name).text());
    if (!renamed) return std::unexpected(std::move(renamed).error());
    return 0;
}

Result<int> wait(Session& session, const Invocation& invocation) {
    int code = 0;
    for (const std::string& name : invocation.arguments) {
        auto answer = session.post("/containers/" + segment(name) + "/wait");
        if (!answer) {
            session.report(answer.error());
            code = 1;
            continue;
        }
        std::string problem = text_at(*answer, "Error.Message");
        if (!problem.empty()) {
            session.error(problem);
            code = 1;
        }
        session.out(std::to_string(integer_at(*answer, "StatusCode")) + "\n");
        session.flush();
    }
    return code;
}

}  // namespace

void add_life_cycle_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"start", "container start"},
         .usage = "[OPTIONS] CONTAINER [CONTAINER...]",
         .summary = "Start one or more stopped containers",
         .example = "wherry start -a job",
         .options = start_options,
         .minimum = 1,
         .run = start},
        {.names = {"stop", "container stop"},
         .usage = "[OPTIONS] CONTAINER [CONTAINER...]",
         .summary = "Stop one or more running containers",
         .example = "wherry stop -t 3 web",
         .options = stop_options,
         .minimum = 1,
         .run = stop},
        {.names = {"restart", "container restart"},
         .usage = "[OPTIONS] CONTAINER [CONTAINER...]",
         .summary = "Restart one or more containers",
         .example = "wherry restart web",
         .options = stop_options,
         .minimum = 1,
         .run = restart},
        {.names = {"kill", "container kill"},
         .usage = "[OPTIONS] CONTAINER [CONTAINER...]",
         .summary = "Kill one or more running containers",
         .example = "wherry kill -s HUP web",
         .options = kill_options,
         .minimum = 1,
         .run = kill},
        {.names = {"rm", "container rm", "container remove"},
         .usage = "[OPTIONS] CONTAINER [CONTAINER...]",
         .summary = "Remove one or more containers",
         .example = "wherry rm -f $(wherry ps -aq)",
         .options = rm_options,
         .minimum = 1,
         .run = remove},
        {.names = {"rename", "container rename"},
         .usage = "CONTAINER NEW_NAME",
         .summary = "Rename a container",
         .example = "wherry rename web old-web",
         .minimum = 2,
         .maximum = 2,
         .run = rename},
        {.names = {"pause", "container pause"},
         .usage = "CONTAINER [CONTAINER...]",
         .summary = "Pause all processes within one or more containers",
         .example = "wherry pause web",
         .minimum = 1,
         .run = pause},
        {.names = {"unpause", "container unpause"},
         .usage = "CONTAINER [CONTAINER...]",
         .summary = "Unpause all processes within one or more containers",
         .example = "wherry unpause web",
         .minimum = 1,
         .run = unpause},
        {.names = {"wait", "container wait"},
         .usage = "CONTAINER [CONTAINER...]",
         .summary = "Block until one or more containers stop, then print their exit codes",
         .example = "wherry wait job",
         .minimum = 1,
         .run = wait},
        {.names = {"attach", "container attach"},
         .usage = "[OPTIONS] CONTAINER",
         .summary = "Attach local standard input, output, and error streams to a running container",
         .example = "wherry attach --no-stdin web",
         .options = attach_options,
         .minimum = 1,
         .maximum = 1,
         .run = attach},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
