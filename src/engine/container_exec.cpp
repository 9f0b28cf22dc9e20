// exec: further processes in a running container.
#include <algorithm>

#include "base/id.hpp"
#include "base/log.hpp"
#include "engine/container_service.hpp"
#include "engine/streams.hpp"
#include "oci/container.hpp"
#include "oci/spec.hpp"

namespace wherry::engine {
namespace {

constexpr std::chrono::seconds start_patience{10};  // of a resize that comes before the start
constexpr std::size_t kept_execs = 64;              // ended ones that inspect still knows, for each container

std::string command_line(const ExecSpec& spec) {
    std::string text;
    for (const std::string& word : spec.cmd) text += (text.empty() ? "" : " ") + word;
    return text;
}

}  // namespace

asio::awaitable<Result<std::string>> ContainerService::exec_create(std::string reference, ExecSpec spec) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    if (container->phase == Phase::paused)
        co_return fail(Code::conflict, "container " + reference + " is paused, unpause the container before exec");
    if (container->phase == Phase::restarting)
        co_return fail(Code::conflict,
                       "Container " + container->id + " is restarting, wait until the container is running");
    if (!container->is_running()) co_return fail(Code::conflict, "container " + container->id + " is not running");
    if (spec.cmd.empty() || spec.cmd.front().empty())
        co_return fail(Code::invalid_argument, "No exec command specified");
    if (!spec.working_dir.empty() && spec.working_dir.front() != '/')
        co_return fail(Code::invalid_argument,
                       "the working directory '" + spec.working_dir + "' is invalid, it needs to be an absolute path");
    CO_CHECK(parse_detach_keys(spec.detach_keys));
    // Of the ended ones only the latest are kept.
    std::size_t ended = 0;
    for (const auto& [id, exec] : container->execs) ended += exec->exit_code.has_value() ? 1 : 0;
    while (ended >= kept_execs) {
        auto oldest = container->execs.end();
        for (auto it = container->execs.begin(); it != container->execs.end(); ++it) {
            if (!it->second->exit_code) continue;
            if (oldest == container->execs.end() || it->second->ended_at < oldest->second->ended_at) oldest = it;
        }
        core_.containers.execs.erase(oldest->first);
        container->execs.erase(oldest);
        --ended;
    }
    auto exec = std::make_shared<Exec>();
    exec->id = make_id();
    exec->spec = std::move(spec);
    container->execs[exec->id] = exec;
    core_.containers.execs[exec->id] = container->id;
    core_.publish(*container, "exec_create: " + command_line(exec->spec), {{"execID", exec->id}});
    co_return exec->id;
}

Result<std::pair<ContainerPtr, std::shared_ptr<Exec>>> ContainerService::find_exec(const std::string& id) const {
    const auto owner = core_.containers.execs.find(id);
    const ContainerPtr container =
        owner == core_.containers.execs.end() ? nullptr : core_.containers.by_id(owner->second);
    if (container) {
        const auto exec = container->execs.find(id);
        if (exec != container->execs.end()) return std::pair(container, exec->second);
    }
    return fail(Code::not_found, "No such exec instance: " + id);
}

asio::awaitable<void> ContainerService::watch_exec(ContainerPtr container, std::shared_ptr<Exec> exec,
                                                   std::shared_ptr<supervisor::ShimClient> shim) {
    const Result<supervisor::ExitStatus> status = co_await shim->wait(container->id, exec->id);
    if (closing_) co_return;
    exec->running = false;  // its number stays to be seen, as with dockerd
    if (!exec->exit_code) exec->exit_code = status ? status->code : 137;
    exec->ended_at = wall_now();
    core_.publish(*container, "exec_die", {{"execID", exec->id}, {"exitCode", std::to_string(*exec->exit_code)}});
    exec->changed.notify_all();
    container->changed.notify_all();
    // Its streams may still be read: the shim forgets it when the session is over, or at once when there is none.
    while (exec->sessions > 0 && shim->alive() && !closing_) co_await exec->changed.wait();
    if (shim->alive()) std::ignore = co_await shim->remove_exec(container->id, exec->id);
}

asio::awaitable<Result<std::unique_ptr<StdioSession>>> ContainerService::exec_start(std::string id,
                                                                                    ExecStartOptions options) {
    CO_TRY(auto found, find_exec(id));
    const ContainerPtr container = found.first;
    const std::shared_ptr<Exec> exec = found.second;
    if (exec->exit_code) co_return fail(Code::conflict, "Error: Exec command " + id + " has already run");
    if (exec->started) co_return fail(Code::conflict, "Error: Exec command " + id + " is already running");
    if (container->phase == Phase::paused)
        co_return fail(Code::conflict, "Container " + container->id + " is paused, unpause the container before exec");
    const std::shared_ptr<supervisor::ShimClient> shim = container->shim;
    if (!container->is_running() || !shim)
        co_return fail(Code::conflict, "Container " + container->id + " is not running");
    exec->started = true;

    const SpecInput input = spec_input(*container);
    const std::string user = exec->spec.user.empty() ? container->config().user : exec->spec.user;
    Result<oci::ProcessSpec> process = build_exec_process(
        input, exec->spec.cmd, exec->spec.env, user, exec->spec.working_dir, exec->spec.tty, exec->spec.privileged);
    if (!process) {
        exec->started = false;
        co_return std::unexpected(std::move(process).error());
    }
    const unsigned height = options.console_height > 0 ? options.console_height : exec->spec.console_height;
    const unsigned width = options.console_width > 0 ? options.console_width : exec->spec.console_width;
    if (height > 0 && width > 0 && height <= 65535 && width <= 65535) {
        process->console_size =
            oci::ConsoleSize{.height = static_cast<std::uint16_t>(height), .width = static_cast<std::uint16_t>(width)};
    }
    const bool attached =
        !options.detach && (exec->spec.attach_stdin || exec->spec.attach_stdout || exec->spec.attach_stderr);
    supervisor::ExecRequest request;
    request.container_id = container->id;
    request.exec_id = exec->id;
    request.process = oci::to_json(*process);
    request.stdin_open = exec->spec.attach_stdin && attached;
    request.discard_output = !attached;
    request.privileged = exec->spec.privileged;
    core_.publish(*container, "exec_start: " + command_line(exec->spec), {{"execID", exec->id}});
    Result<supervisor::ExecState> running = co_await shim->exec(std::move(request));
    if (!running) {
        exec->exit_code = oci::failure_exit_code(running.error());
        exec->ended_at = wall_now();
        exec->changed.notify_all();
        Code code = running.error().code();
        if (oci::failure_kind(running.error()) != oci::FailureKind::other) code = Code::invalid_argument;
        co_return std::unexpected(std::move(running).error().context("exec failed").with_code(code));
    }
    exec->running = true;
    exec->pid = running->pid;
    exec->changed.notify_all();
    if (attached) ++exec->sessions;
    core_.gate.spawn(watch_exec(container, exec, shim));
    if (!attached) co_return std::unique_ptr<StdioSession>();
    StreamSessionOptions session;
    session.terminal = exec->spec.tty;
    CO_TRY(session.detach_keys,
           parse_detach_keys(exec->spec.detach_keys.empty() ? "ctrl-p,ctrl-q" : exec->spec.detach_keys));
    if (!session.terminal) session.detach_keys.clear();
    session.request.container_id = container->id;
    session.request.exec_id = exec->id;
    session.request.want_stdin = exec->spec.attach_stdin;
    session.request.want_stdout = exec->spec.attach_stdout || exec->spec.tty;
    session.request.want_stderr = exec->spec.attach_stderr && !exec->spec.tty;
    session.request.stdout_offset = 0;
    session.request.stderr_offset = 0;
    session.exec = exec;
    session.closed = [exec] {
        --exec->sessions;
        exec->changed.notify_all();
    };
    co_return make_stream_session(container, std::move(session));
}

asio::awaitable<Result<ExecView>> ContainerService::exec_inspect(std::string id) {
    CO_TRY(auto found, find_exec(id));
    const std::shared_ptr<Exec> exec = found.second;
    co_return ExecView{.id = exec->id,
                       .container_id = found.first->id,
                       .running = exec->running,
                       .exit_code = exec->exit_code,
                       .pid = exec->pid,
                       .spec = exec->spec};
}

asio::awaitable<Result<>> ContainerService::exec_resize(std::string id, unsigned height, unsigned width) {
    CO_TRY(auto found, find_exec(id));
    if (height > 65535 || width > 65535) co_return fail(Code::invalid_argument, "invalid terminal size");
    // Clients that start a terminal resize it at once, on another connection.
    const ContainerPtr container = found.first;
    const std::shared_ptr<Exec> exec = found.second;
    const Signal::Clock::time_point deadline = Signal::Clock::now() + start_patience;
    while (!exec->running && !exec->exit_code && container->is_running() && Signal::Clock::now() < deadline)
        co_await exec->changed.wait(deadline);
    const std::shared_ptr<supervisor::ShimClient> shim = container->shim;
    if (exec->exit_code || !container->is_running() || !shim) co_return fail(Code::not_found, "no such exec");
    if (!exec->running) co_return fail(Code::deadline_exceeded, "timeout waiting for exec session ready");
    if (!exec->spec.tty) co_return Result<>{};  // nothing to resize, and nothing wrong with asking
    co_return co_await shim->resize({.container_id = found.first->id,
                                     .exec_id = id,
                                     .width = static_cast<std::uint16_t>(width),
                                     .height = static_cast<std::uint16_t>(height)});
}

}  // namespace wherry::engine
