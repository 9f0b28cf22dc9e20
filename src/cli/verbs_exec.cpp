// exec.
#include "base/json.hpp"
#include "cli/attach.hpp"
#include "cli/command.hpp"
#include "cli/container_flags.hpp"
#include "cli/session.hpp"

namespace wherry::cli {

namespace {

constexpr Option exec_options[] = {
    {"detach", 'd', {}, "Detached mode: run command in the background"},
    {"detach-keys", 0, "string", "Override the key sequence for detaching a container"},
    {"env", 'e', "list", "Set environment variables", check_environment},
    {"env-file", 0, "list", "Read in a file of environment variables"},
    {"interactive", 'i', {}, "Keep STDIN open even if not attached"},
    {"privileged", 0, {}, "Give extended privileges to the command"},
    {"tty", 't', {}, "Allocate a pseudo-TTY"},
    {"user", 'u', "string", "Username or UID (format: \"<name|uid>[:<group|gid>]\")"},
    {"workdir", 'w', "string", "Working directory inside the container"},
};

Result<int> exec(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    const std::string& name = invocation.arguments.front();
    bool detached = options.flag("detach");
    bool terminal = options.flag("tty");
    DetachKeys keys = TRY(detach_keys(session, options));
    std::string id;
    AttachPlan plan;
    plan.terminal = terminal;
    plan.input = options.flag("interactive") && !detached;
    plan.proxy_signals = false;
    plan.detach_keys = keys.bytes;
    plan.resize = [&](WindowSize size) {
        [[maybe_unused]] auto resized =
            session.post("/exec/" + id + "/resize" +
                         QueryText().add("h", std::to_string(size.rows)).add("w", std::to_string(size.columns)).text());
    };
    std::optional<AttachedTerminal> screen;
    if (!detached) {
        auto prepared = AttachedTerminal::prepare(plan);
        if (!prepared) {
            session.error(prepared.error().describe());
            return 1;
        }
        screen.emplace(std::move(*prepared));
    }
    json::object body;
    json::array command;
    for (std::size_t i = 1; i < invocation.arguments.size(); ++i) command.emplace_back(invocation.arguments[i]);
    body["Cmd"] = std::move(command);
    body["AttachStdin"] = plan.input;
    body["AttachStdout"] = !detached;
    body["AttachStderr"] = !detached;
    if (terminal) body["Tty"] = true;
    if (options.flag("privileged")) body["Privileged"] = true;
    if (options.given("user")) body["User"] = options.text("user");
    if (options.given("workdir")) body["WorkingDir"] = options.text("workdir");
    if (!keys.text.empty()) body["DetachKeys"] = keys.text;
    if (detached) body["Detach"] = true;
    if (auto environment = TRY(collect_environment(options)); !environment.empty()) {
        json::array list;
        for (const std::string& entry : environment) list.emplace_back(entry);
        body["Env"] = std::move(list);
    }
    if (terminal)
        if (auto size = window_size()) body["ConsoleSize"] = json::array{size->rows, size->columns};
    json::value request(std::move(body));
    json::value created = TRY(session.post("/containers/" + segment(name) + "/exec", &request));
    id = text_at(created, "Id");
    if (id.empty()) return fail(Code::internal, "exec ID empty");

    json::object start;
    start["Detach"] = detached;
    if (terminal) start["Tty"] = true;
    if (const json::value* size = request.get_object().if_contains("ConsoleSize")) start["ConsoleSize"] = *size;
    if (detached) {
        json::value start_request(std::move(start));
        auto started = session.post("/exec/" + id + "/start", &start_request);
        if (!started) {
            session.report(started.error());
            return start_failure_code(started.error());
        }
        return 0;
    }
    auto stream = open_stream(session, "/exec/" + id + "/start", to_json(start));
    if (!stream) {
        session.report(stream.error());
        int code = start_failure_code(stream.error());
        return code == 125 ? 1 : code;
    }
    TRY(screen->catch_signals());
    TRY(screen->enter_raw_mode());
    PumpEnd end = TRY(pump_attached(session, *stream, plan, *screen));
    screen->restore();
    if (end == PumpEnd::detached) return 0;
    json::value finished = TRY(session.get("/exec/" + id + "/json"));
    return static_cast<int>(integer_at(finished, "ExitCode"));
}

}  // namespace

void add_exec_verbs(std::vector<const Command*>& all) {
    static const Command command{.names = {"exec", "container exec"},
                                 .usage = "[OPTIONS] CONTAINER COMMAND [ARG...]",
                                 .summary = "Execute a command in a running container",
                                 .example = "wherry exec -it web sh",
                                 .options = exec_options,
                                 .minimum = 2,
                                 .stop_at_argument = true,
                                 .run = exec};
    all.push_back(&command);
}

}  // namespace wherry::cli
