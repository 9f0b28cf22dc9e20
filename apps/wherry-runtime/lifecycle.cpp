// create, start, run, kill, delete.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "commands.hpp"
#include "context.hpp"
#include "foreground.hpp"
#include "oci/intel_rdt.hpp"
#include "oci/spec.hpp"
#include "placement.hpp"
#include "seccomp.hpp"

namespace wherry::runtime {

namespace {

struct Made {
    oci::Container container;
    Placement placement;
    json::object state;  // as it is to be saved
};

Result<> check_terminal(const CommandLine& line, const oci::Spec& spec, bool by_another_process) {
    bool terminal = spec.process && spec.process->terminal;
    bool detached = by_another_process || line.local.has("detach");
    if (detached && terminal && !line.local.has("console-socket"))
        return fail(Code::invalid_argument,
                    "cannot allocate tty if runc will detach without setting console socket "
                    "(process.terminal needs --console-socket)");
    // As runc refuses it; an engine that asks for both has mixed something up.
    if (!terminal && line.local.has("console-socket"))
        return fail(Code::invalid_argument, "cannot use console socket if runc will not allocate a tty or detach");
    return {};
}

void give_listen_fds(oci::Spec& spec) {
    int count = listen_fds();
    if (count == 0 || !spec.process) return;
    spec.process->env.push_back("LISTEN_FDS=" + std::to_string(count));
    spec.process->env.emplace_back("LISTEN_PID=1");
    if (const char* names = std::getenv("LISTEN_FDNAMES"))
        spec.process->env.push_back(std::string("LISTEN_FDNAMES=") + names);
}

json::object state_of(const oci::Spec& spec, const Placement& placement, const std::string& bundle) {
    json::object state;
    placement.save(state);
    state["created"] = format_rfc3339(wall_now());
    state["rootfs"] = spec.root.path.starts_with('/') ? spec.root.path : bundle + "/" + spec.root.path;
    state["owner"] = ::geteuid() == 0 ? "root" : std::to_string(::geteuid());
    if (spec.process) state["process"] = oci::to_json(*spec.process);
    if (spec.linux_spec.seccomp) state["seccomp"] = *spec.linux_spec.seccomp;
    return state;
}

// Makes the container and its cgroup; takes back everything on failure.
Result<Made> make_container(const CommandLine& line, const StateDirectory& directory, const std::string& id,
                            bool by_another_process) {
    const Options& options = line.local;
    std::string bundle = TRY(absolute(options.value("bundle", ".")));
    std::string config = TRY(read_file(bundle + "/config.json", config_limit), "bundle");
    oci::CreateRequest request;
    request.spec = TRY(oci::parse_spec(config), "config.json");
    config.clear();
    TRY(check_terminal(line, request.spec, by_another_process));
    give_listen_fds(request.spec);
    request.id = id;
    request.bundle = bundle;
    request.stdio = {0, 1, 2};
    request.extra_fds = TRY(preserved_fds(options));
    request.init = options.has("init");
    request.no_pivot = options.has("no-pivot");
    request.new_session_keyring = !options.has("no-new-keyring");
    request.rootless = is_rootless(line);
    if (by_another_process) request.start_socket_path = directory.start_socket();
    if (request.spec.linux_spec.seccomp) {
        PreparedSeccomp seccomp = TRY(prepare_seccomp(*request.spec.linux_spec.seccomp, root_of(line), bundle));
        request.seccomp = std::move(seccomp.program);
        request.seccomp_listener = std::move(seccomp.listener);
    }

    Placement placement = TRY(Placement::begin(line, request.spec, id));
    request.cgroup = placement.cgroup();
    json::object state;
    auto meanwhile = [&]() -> Result<> {
        state = state_of(request.spec, placement, bundle);
        return {};
    };
    if (placement.unfinished()) {
        request.complete_cgroup = [&]() -> Result<> {
            TRY(placement.finish(request.spec));
            return meanwhile();
        };
    } else {
        TRY(meanwhile());
    }
    auto made = oci::Container::create(request);
    if (!made) {
        placement.remove();
        return std::unexpected<Error>(std::move(made).error());
    }
    placement.settle();
    state["container"] = made->state();
    auto recorded = write_pid_file(options, made->pid());
    if (recorded) recorded = send_pidfd(options, made->pidfd(), "standard");
    if (!recorded) {
        [[maybe_unused]] auto killed = made->signal(SIGKILL);
        [[maybe_unused]] auto reaped = oci::wait_exit(made->pidfd());
        placement.remove();
        oci::drop_intel_rdt(made->intel_rdt());
        return std::unexpected<Error>(std::move(recorded).error());
    }
    return Made{std::move(*made), std::move(placement), std::move(state)};
}

void take_back(Made& made) {
    [[maybe_unused]] auto killed = made.container.signal(SIGKILL);
    [[maybe_unused]] auto reaped = oci::wait_exit(made.container.pidfd());
    made.placement.remove();
    oci::drop_intel_rdt(made.container.intel_rdt());
    if (auto hooks = oci::run_poststop_hooks(made.state.at("container").as_object()); !hooks)
        log_warn("container.poststop", {{"error", hooks.error()}});
}

}  // namespace

Result<int> create_command(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    StateDirectory directory = TRY(StateDirectory::create(root_of(line), id));
    auto done = [&]() -> Result<> {
        Made made = TRY(make_container(line, directory, id, true));
        if (line.local.has("timings")) print_timings(made.container.timeline());
        auto told = [&]() -> Result<> {
            TRY(directory.save(made.state));
            return send_terminal(line.local, made.container.take_terminal());
        }();
        if (!told) take_back(made);
        return told;
    }();
    if (!done) {
        [[maybe_unused]] auto removed = directory.remove();
        return std::unexpected<Error>(std::move(done).error());
    }
    return 0;
}

Result<int> start_command(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    Known known = TRY(find(line, id));
    if (status_of(known) != "created") {
        if (status_of(known) == "stopped") return fail(Code::conflict, "cannot start a container that has stopped");
        return fail(Code::conflict, "cannot start an already running container");
    }
    TRY(known.container->start());
    known.state["container"] = known.container->state();
    TRY(known.directory.save(known.state));
    return 0;
}

Result<int> run_command_of(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    bool detach = line.local.has("detach");
    StateDirectory directory = TRY(StateDirectory::create(root_of(line), id));
    auto made = make_container(line, directory, id, false);
    if (!made) {
        [[maybe_unused]] auto removed = directory.remove();
        return std::unexpected<Error>(std::move(made).error());
    }
    oci::Container& container = made->container;
    auto begun = [&]() -> Result<Fd> {
        // One write for both states: whoever asks before start has returned is answered by the lock.
        made->state["container"].as_object()["started"] = true;
        TRY(directory.save(made->state));
        Fd terminal = container.take_terminal();
        if (line.local.has("console-socket")) {
            TRY(send_terminal(line.local, terminal));
            terminal.reset();
        }
        TRY(container.start());
        return terminal;
    }();
    if (begun && line.local.has("timings")) print_timings(container.timeline());
    if (begun && detach) return 0;
    std::int64_t running_since = monotonic_ns();

    Result<int> code = 0;
    if (begun) {
        directory.unlock();  // others may use the container while it runs
        code = attend(container.pidfd(), std::move(*begun));
    } else {
        code = std::unexpected<Error>(std::move(begun).error().context("unable to start container process"));
    }
    std::int64_t ended_at = monotonic_ns();
    if (!line.local.has("keep") && path_exists(directory.path())) {
        Known known{std::move(directory), std::move(made->state), std::nullopt};
        TRY(remove_container(known));
    }
    if (line.local.has("timings"))
        std::fprintf(stderr, "%-12s %8.1f us\n%-12s %8.1f us\n", "run",
                     static_cast<double>(ended_at - running_since) / 1000.0, "remove",
                     static_cast<double>(monotonic_ns() - ended_at) / 1000.0);
    return code;
}

Result<int> kill_command(const CommandLine& line) {
    const auto& arguments = line.local.arguments;
    if (arguments.empty() || arguments.size() > 2)
        return fail(Code::invalid_argument, "kill: expected a container id and a signal");
    int number = TRY(parse_signal(arguments.size() == 2 ? arguments[1] : "TERM"));
    Known known = TRY(find(line, arguments.front()));
    auto cgroup = TRY(known.cgroup());
    // All processes of the cgroup: also what a container without its own pid namespace has left behind.
    if (line.local.has("all") && cgroup) {
        TRY(number == SIGKILL ? cgroup->kill_all() : cgroup->signal_all(number));
        return 0;
    }
    if (!known.container) return fail(Code::conflict, "container not running");
    TRY(known.container->signal(number));
    // Frozen processes die once thawed.
    if (number == SIGKILL && cgroup) {
        auto frozen = cgroup->frozen();
        if (frozen && *frozen) TRY(cgroup->thaw());
    }
    return 0;
}

Result<int> delete_command(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    bool force = line.local.has("force");
    auto known = find(line, id);
    if (!known) {
        if (force && known.error().code() == Code::not_found) return 0;
        return std::unexpected<Error>(std::move(known).error());
    }
    std::string_view status = status_of(*known);
    if (!force && (status == "running" || status == "paused"))
        return fail(Code::conflict, "cannot delete container " + id + " that is not stopped: " + std::string(status));
    TRY(remove_container(*known));
    return 0;
}

}  // namespace wherry::runtime
