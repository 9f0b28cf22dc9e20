// run and create.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <deque>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/json.hpp"
#include "cli/attach.hpp"
#include "cli/command.hpp"
#include "cli/container_flags.hpp"
#include "cli/credentials.hpp"
#include "cli/progress.hpp"
#include "cli/reference.hpp"
#include "cli/timings.hpp"

namespace wherry::cli {

namespace {

std::vector<Option> run_options() {
    auto shared = container_options();
    std::vector<Option> all(shared.begin(), shared.end());
    all.push_back({"detach", 'd', {}, "Run container in background and print container ID"});
    all.push_back({"detach-keys", 0, "string", "Override the key sequence for detaching a container"});
    all.push_back({"sig-proxy", 0, {}, "Proxy received signals to the process", nullptr, "true"});
    all.push_back({"timings", 0, {}, "Print the phases of the start as a waterfall on stderr"});
    std::ranges::sort(all, {}, &Option::name);
    return all;
}

Result<> pull(Session& session, const Reference& reference, const ContainerRequest& request, bool quiet) {
    QueryText query;
    query.add("fromImage", reference.familiar_name());
    query.add("tag", reference.digest.empty() ? (reference.tag.empty() ? "latest" : reference.tag) : reference.digest);
    if (!request.platform.empty()) query.add("platform", request.platform);
    http::ClientRequest call{.method = "POST", .target = "/images/create" + query.text()};
    TRY(add_registry_auth(call, reference));
    auto response = TRY(session.checked(call));
    return show_progress(session, response, {.quiet = quiet, .to_stderr = true});
}

// The id of the new container.
Result<std::string> create_container(Session& session, const Invocation& invocation, ContainerRequest& request) {
    const ParsedOptions& options = invocation.options;
    std::string policy = options.text("pull", "missing");
    if (policy != "always" && policy != "missing" && policy != "never")
        return fail(Code::invalid_argument,
                    "invalid pull option: '" + policy + "': must be one of \"always\", \"missing\" or \"never\"");
    auto reference = parse_reference(request.image);
    // A 64-digit id is not a reference, but it names an image all the same.
    if (!reference && !reference.error().describe().starts_with("invalid repository name"))
        return std::unexpected(std::move(reference).error());
    std::string cid_path = options.text("cidfile");
    if (!cid_path.empty() && path_exists(cid_path))
        return fail(Code::already_exists,
                    "container ID file found, make sure the other container isn't running or delete " + cid_path);
    if (options.flag("use-api-socket")) {
        if (!session.host().starts_with("unix://"))
            return fail(Code::invalid_argument, "flag --use-api-socket can only be used with a unix socket");
        json::object mount;
        mount["Type"] = "bind";
        mount["Source"] = session.host().substr(7);
        mount["Target"] = "/var/run/docker.sock";
        json::value& mounts = request.body["HostConfig"].as_object()["Mounts"];
        if (!mounts.is_array()) mounts.emplace_array();
        mounts.get_array().emplace_back(std::move(mount));
    }
    if (policy == "always" && reference) TRY(pull(session, *reference, request, options.flag("quiet")));

    http::ClientRequest call{.method = "POST"};
    QueryText query;
    if (!request.name.empty()) query.add("name", request.name);
    if (!request.platform.empty()) query.add("platform", request.platform);
    call.target = "/containers/create" + query.text();
    call.body = to_json(request.body);
    call.content_type = "application/json";
    auto response = TRY(session.send(call));
    if (response.status() == 404 && policy == "missing" && reference) {
        Error missing = Session::response_error(response);
        if (missing.describe().find("image") == std::string::npos) return std::unexpected(std::move(missing));
        if (!options.flag("quiet")) session.error("Unable to find image '" + reference->familiar() + "' locally");
        TRY(pull(session, *reference, request, options.flag("quiet")));
        response = TRY(session.send(call));
    }
    if (response.status() >= 400) return std::unexpected(Session::response_error(response));
    json::value document = TRY(Session::read_json(response));
    if (const json::value* warnings = value_at(document, "Warnings"); warnings != nullptr && warnings->is_array())
        for (const json::value& warning : warnings->get_array())
            if (warning.is_string()) session.error("WARNING: " + std::string(warning.get_string()));
    std::string id = text_at(document, "Id");
    if (id.empty()) return fail(Code::internal, "the daemon's answer to create has no id");
    if (!cid_path.empty())
        TRY(write_file_atomic(cid_path, id, 0644, Durability::none), "failed to write the container ID to the file");
    return id;
}

Result<int> create(Session& session, const Invocation& invocation) {
    ContainerRequest request = TRY(make_container_request(invocation.options, invocation.arguments, false));
    std::string id = TRY(create_container(session, invocation, request));
    session.out(id + "\n");
    return 0;
}

Result<int> exit_code_of(http::ClientResponse& wait) {
    json::value document = TRY(Session::read_json(wait));
    std::string problem = text_at(document, "Error.Message");
    if (!problem.empty()) return fail(Code::internal, "Error waiting for container: " + problem);
    return static_cast<int>(integer_at(document, "StatusCode"));
}

class Runner {
  public:
    Runner(Session& session, const Invocation& invocation)
        : session_(session),
          invocation_(invocation),
          options_(invocation.options),
          timings_(options_.flag("timings")) {}

    Result<int> run() {
        bool detached = options_.flag("detach");
        if (detached && options_.given("attach")) {
            session_.error("conflicting options: cannot specify both --attach and --detach");
            return 1;
        }
        request_ = TRY(make_container_request(options_, invocation_.arguments, detached));
        keys_ = TRY(detach_keys(session_, options_));
        attached_ = !detached && (request_.attach_stdin || request_.attach_stdout || request_.attach_stderr);
        plan_.terminal = request_.terminal;
        plan_.input = request_.attach_stdin;
        plan_.proxy_signals = attached_ && options_.flag("sig-proxy", true);
        plan_.detach_keys = keys_.bytes;
        plan_.resize = [this](WindowSize size) { resize_container(session_, id_, size); };
        plan_.signal = [this](std::string_view name) { signal_container(session_, id_, name); };
        if (attached_) {
            auto terminal = AttachedTerminal::prepare(plan_);
            if (!terminal) {
                session_.error(terminal.error().describe());
                return 1;
            }
            terminal_.emplace(std::move(*terminal));
        }
        // The phases are asked for after the end, so with --timings the removal of --rm is ours to do.
        if (timings_.wanted() && request_.auto_remove && attached_) {
            removes_itself_ = true;
            request_.auto_remove = false;
            request_.body["HostConfig"].as_object()["AutoRemove"] = false;
        }
        if (request_.terminal)
            if (auto size = window_size())
                request_.body["HostConfig"].as_object()["ConsoleSize"] = json::array{size->rows, size->columns};
        timings_.begin("create");
        id_ = TRY(create_container(session_, invocation_, request_));
        if (terminal_) TRY(terminal_->catch_signals());
        return detached ? run_detached() : run_attached();
    }

  private:
    Result<int> run_detached() {
        timings_.begin("start");
        auto started = session_.checked({.method = "POST", .target = "/containers/" + id_ + "/start"});
        if (!started) return failed_start(std::move(started).error());
        timings_.end();
        session_.out(id_ + "\n");
        timings_.show(session_, id_);
        return 0;
    }

    Result<int> run_attached() {
        std::optional<http::ClientResponse> stream;
        if (attached_) {
            timings_.begin("attach");
            QueryText query;
            query.add("stream", "1")
                .add_flag("stdin", request_.attach_stdin)
                .add_flag("stdout", request_.attach_stdout)
                .add_flag("stderr", request_.attach_stderr);
            if (!keys_.text.empty()) query.add("detachKeys", keys_.text);
            stream.emplace(TRY(open_stream(session_, "/containers/" + id_ + "/attach" + query.text())));
        }
        timings_.begin("wait");
        // Asked before the start: an exit however quick is not missed. The daemon sends its headers at once.
        std::string condition = request_.auto_remove ? "removed" : "next-exit";
        auto wait =
            TRY(session_.checked({.method = "POST", .target = "/containers/" + id_ + "/wait?condition=" + condition}));
        timings_.begin("start");
        auto started = session_.checked({.method = "POST", .target = "/containers/" + id_ + "/start"});
        if (!started) return failed_start(std::move(started).error());
        timings_.begin("run");
        PumpEnd end = PumpEnd::finished;
        if (stream) {
            TRY(terminal_->enter_raw_mode());
            end = TRY(pump_attached(session_, *stream, plan_, *terminal_));
            terminal_->restore();
        }
        if (end == PumpEnd::detached) {
            timings_.end();
            timings_.show(session_, id_);
            return 0;
        }
        timings_.begin("exit");
        int code = TRY(exit_code_of(wait));
        timings_.end();
        timings_.fetch(session_, id_);
        if (removes_itself_) {
            timings_.begin("removal");
            TRY(session_.remove("/containers/" + id_ + "?v=1&force=1"));
            timings_.end();
        }
        timings_.print(session_);
        return code;
    }

    // The container stays for inspection unless --rm was given; the daemon removes it then.
    Result<int> failed_start(Error error) {
        if (terminal_) terminal_->restore();
        if (removes_itself_) [[maybe_unused]]
            auto removed = session_.remove("/containers/" + id_ + "?v=1&force=1");
        int code = start_failure_code(error);
        session_.error(session_.program() + ": " + error.describe() + "\n\nRun '" + session_.program() + " " +
                       invocation_.name + " --help' for more information");
        return code;
    }

    Session& session_;
    const Invocation& invocation_;
    const ParsedOptions& options_;
    Timings timings_;
    ContainerRequest request_;
    DetachKeys keys_;
    AttachPlan plan_;
    bool attached_ = false;
    bool removes_itself_ = false;
    std::optional<AttachedTerminal> terminal_;
    std::string id_;
};

Result<int> run(Session& session, const Invocation& invocation) {
    return Runner(session, invocation).run();
}

}  // namespace

void add_run_verbs(std::vector<const Command*>& all) {
    static const std::vector<Option> options_of_run = run_options();
    static const Command run_command{
        .names = {"run", "container run"},
        .usage = "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        .summary = "Create and run a new container from an image",
        .example =
            "wherry run --rm -it -v \"$PWD:/work\" -w /work busybox sh\nwherry run -d --name web -p 8080:80 --restart "
            "unless-stopped web:1\nwherry run --rm --timings busybox true",
        .options = options_of_run,
        .minimum = 1,
        .stop_at_argument = true,
        .failure = 125,
        .quiet_failure_hint = false,
        .run = run};
    static const Command create_command{.names = {"create", "container create"},
                                        .usage = "[OPTIONS] IMAGE [COMMAND] [ARG...]",
                                        .summary = "Create a new container",
                                        .example = "wherry create --name job -m 64m busybox sleep 60",
                                        .options = container_options(),
                                        .minimum = 1,
                                        .stop_at_argument = true,
                                        .failure = 125,
                                        .quiet_failure_hint = false,
                                        .run = create};
    all.push_back(&run_command);
    all.push_back(&create_command);
}

}  // namespace wherry::cli
