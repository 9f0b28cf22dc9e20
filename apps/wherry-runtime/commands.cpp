#include "commands.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <map>

#include "base/clock.hpp"
#include "confine/cgroup.hpp"
#include "foreground.hpp"
#include "oci/container.hpp"
#include "oci/default_spec.hpp"
#include "oci/spec.hpp"
#include "seccomp.hpp"
#include "state.hpp"

namespace wherry::runtime {

namespace {

constexpr std::size_t config_limit = 16U << 20U;

std::string root_of(const CommandLine& line) {
    return line.global.value("root", "/run/wherry-runtime");
}

Result<std::string> only_id(const CommandLine& line) {
    if (line.local.arguments.size() != 1)
        return fail(Code::invalid_argument, line.command + ": expected one container id");
    return line.local.arguments.front();
}

Result<std::string> absolute(const std::string& path) {
    if (!path.empty() && path.front() == '/') return path;
    std::array<char, 4096> buffer{};
    if (::getcwd(buffer.data(), buffer.size()) == nullptr) return fail_errno("getcwd");
    return std::string(buffer.data()) + "/" + path;
}

Result<std::vector<oci::ExtraFd>> preserved_fds(const Options& options) {
    std::vector<oci::ExtraFd> fds;
    std::string text = options.value("preserve-fds", "0");
    int count = 0;
    auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), count);
    if (problem != std::errc() || end != text.data() + text.size() || count < 0 || count > 1024)
        return fail(Code::invalid_argument, "--preserve-fds: expected a small number");
    for (int number = 3; number < 3 + count; ++number) fds.push_back({number, number});
    return fds;
}

Result<> write_pid_file(const Options& options, pid_t pid) {
    std::string path = options.value("pid-file");
    if (path.empty()) return {};
    return write_file_atomic(path, std::to_string(pid), 0644, Durability::none);
}

Result<> send_terminal(const Options& options, const Fd& terminal) {
    std::string path = options.value("console-socket");
    if (path.empty() || !terminal) return {};
    Fd socket = TRY(connect_unix(path), "console socket");
    const int fds[] = {terminal.get()};
    return send_with_fds(socket.get(), "/dev/ptmx", fds);
}

void print_timings(const oci::Timeline& timeline) {
    std::int64_t before = timeline.begin;
    for (const auto& phase : timeline.phases()) {
        std::fprintf(stderr, "%-12.*s %8.1f us  %8.1f us\n", static_cast<int>(phase.name.size()), phase.name.data(),
                     static_cast<double>(phase.at_ns - before) / 1000.0,
                     static_cast<double>(phase.at_ns - timeline.begin) / 1000.0);
        before = phase.at_ns;
    }
}

std::string cgroup_path(const oci::Spec& spec, const std::string& id) {
    std::string path = spec.linux_spec.cgroups_path;
    if (path.empty()) return "/wherry-runtime/" + id;
    return path.front() == '/' ? path : "/" + path;
}

struct Made {
    oci::Container container;
    oci::Spec spec;
};

// Makes the container, its cgroup and its state; takes back everything on failure.
Result<Made> make_container(const CommandLine& line, const StateDirectory& directory, const std::string& id,
                            bool by_another_process) {
    const Options& options = line.local;
    std::string bundle = TRY(absolute(options.value("bundle", ".")));
    std::string config = TRY(read_file(bundle + "/config.json", config_limit), "bundle");
    oci::Spec spec = TRY(oci::parse_spec(config), "config.json");

    bool terminal = spec.process && spec.process->terminal;
    if (by_another_process && terminal && !options.has("console-socket"))
        return fail(Code::invalid_argument,
                    "cannot allocate a terminal for a detached container without --console-socket");
    if (!terminal && options.has("console-socket"))
        return fail(Code::invalid_argument, "--console-socket without process.terminal");

    const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
    const std::string path = cgroup_path(spec, id);
    auto created = confine::Cgroup::create(*system, path);
    bool own_cgroup = created.has_value();
    if (!created && created.error().code() == Code::already_exists) created = confine::Cgroup::open(*system, path);
    confine::Cgroup cgroup = TRY(std::move(created), "cgroup");

    auto made = [&]() -> Result<oci::Container> {
        TRY(cgroup.apply(spec.linux_spec.resources), "linux.resources");
        oci::CreateRequest request;
        request.id = id;
        request.spec = spec;
        request.bundle = bundle;
        request.stdio = {0, 1, 2};
        request.extra_fds = TRY(preserved_fds(options));
        request.cgroup = &cgroup;
        request.init = options.has("init");
        request.no_pivot = options.has("no-pivot");
        request.new_session_keyring = !options.has("no-new-keyring");
        if (by_another_process) request.start_socket_path = directory.start_socket();
        if (spec.linux_spec.seccomp) request.seccomp = TRY(compile_seccomp_of(*spec.linux_spec.seccomp, root_of(line)));
        return oci::Container::create(std::move(request));
    }();
    if (!made) {
        if (own_cgroup) [[maybe_unused]]
            auto removed = cgroup.remove();
        return std::unexpected<Error>(std::move(made).error().context("unable to start container process"));
    }
    auto recorded = [&]() -> Result<> {
        json::object state;
        state["container"] = made->state();
        state["cgroup"] = path;
        state["ownCgroup"] = own_cgroup;
        state["created"] = format_rfc3339(wall_now());
        state["rootfs"] = spec.root.path;
        if (spec.process) state["process"] = oci::to_json(*spec.process);
        if (spec.linux_spec.seccomp) state["seccomp"] = *spec.linux_spec.seccomp;
        TRY(directory.save(state));
        return write_pid_file(options, made->pid());
    }();
    if (!recorded) {
        [[maybe_unused]] auto killed = made->signal(SIGKILL);
        [[maybe_unused]] auto reaped = oci::wait_exit(made->pidfd());
        if (own_cgroup) [[maybe_unused]]
            auto removed = cgroup.remove();
        return std::unexpected<Error>(std::move(recorded).error());
    }
    return Made{std::move(*made), std::move(spec)};
}

Result<int> create(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    StateDirectory directory = TRY(StateDirectory::create(root_of(line), id));
    auto made = make_container(line, directory, id, true);
    Result<> sent;
    if (made) {
        if (line.local.has("timings")) print_timings(made->container.timeline());
        sent = send_terminal(line.local, made->container.take_terminal());
        if (!sent) {
            [[maybe_unused]] auto killed = made->container.signal(SIGKILL);
            [[maybe_unused]] auto reaped = oci::wait_exit(made->container.pidfd());
            [[maybe_unused]] auto removed = confine::remove_cgroup_by_path(*TRY(confine::CgroupSystem::of_this_host()),
                                                                           cgroup_path(made->spec, id));
        }
    }
    if (!made || !sent) {
        [[maybe_unused]] auto removed = directory.remove();
        return std::unexpected<Error>(made ? std::move(sent).error() : std::move(made).error());
    }
    return 0;
}

// The state file, and the container when its process still runs.
struct Known {
    StateDirectory directory;
    json::object state;
    std::optional<oci::Container> container;
};

Result<Known> find(const CommandLine& line, const std::string& id) {
    StateDirectory directory = TRY(StateDirectory::open(root_of(line), id));
    json::object state = TRY(directory.load(), "state of " + id);
    JsonReader reader(state, "state");
    auto described = TRY(reader.child("container"));
    if (!described) return fail(Code::data_loss, "state of " + id + " is damaged");
    Known known{std::move(directory), state, std::nullopt};
    auto container = oci::Container::restore(described->object());
    if (container) {
        known.container = std::move(*container);
    } else if (container.error().code() != Code::not_found) {
        return std::unexpected<Error>(std::move(container).error());
    }
    return known;
}

const char* status_of(const Known& known) {
    if (!known.container) return "stopped";
    return known.container->started() ? "running" : "created";
}

Result<int> start(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    Known known = TRY(find(line, id));
    if (std::string_view(status_of(known)) != "created")
        return fail(Code::conflict, "cannot start a container that is " + std::string(status_of(known)));
    TRY(known.container->start());
    known.state["container"] = known.container->state();
    TRY(known.directory.save(known.state));
    return 0;
}

Result<int> state(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    Known known = TRY(find(line, id));
    const json::object& described = known.state.at("container").as_object();
    json::object out;
    out["ociVersion"] = "1.2.0";
    out["id"] = id;
    out["pid"] = known.container ? known.container->pid() : 0;
    out["status"] = status_of(known);
    out["bundle"] = described.at("bundle");
    out["rootfs"] = known.state.at("rootfs");
    out["created"] = known.state.at("created");
    out["annotations"] = described.at("annotations");
    out["owner"] = "";
    std::printf("%s\n", to_json(json::value(std::move(out))).c_str());
    return 0;
}

Result<int> parse_signal(std::string name) {
    int number = 0;
    auto [end, problem] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (problem == std::errc() && end == name.data() + name.size()) {
        if (number >= 0 && number <= 64) return number;
        return fail(Code::invalid_argument, "unknown signal " + name);
    }
    for (char& letter : name) letter = static_cast<char>(letter >= 'a' && letter <= 'z' ? letter - 32 : letter);
    if (name.starts_with("SIG")) name.erase(0, 3);
    for (number = 1; number < NSIG; ++number) {
        const char* known = ::sigabbrev_np(number);
        if (known != nullptr && name == known) return number;
    }
    return fail(Code::invalid_argument, "unknown signal " + name);
}

Result<confine::Cgroup> cgroup_of(const Known& known) {
    const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
    return confine::Cgroup::open(*system, std::string(known.state.at("cgroup").as_string()));
}

Result<int> kill_command(const CommandLine& line) {
    const auto& arguments = line.local.arguments;
    if (arguments.empty() || arguments.size() > 2)
        return fail(Code::invalid_argument, "kill: expected a container id and a signal");
    int number = TRY(parse_signal(arguments.size() == 2 ? arguments[1] : "TERM"));
    Known known = TRY(find(line, arguments.front()));
    if (line.local.has("all")) {
        confine::Cgroup cgroup = TRY(cgroup_of(known));
        TRY(number == SIGKILL ? cgroup.kill_all() : cgroup.signal_all(number));
        return 0;
    }
    if (!known.container) return fail(Code::conflict, "container not running");
    TRY(known.container->signal(number));
    return 0;
}

Result<> remove_container(Known& known) {
    if (known.container) {
        [[maybe_unused]] auto killed = known.container->signal(SIGKILL);
        // Not our child: its end shows in the pidfd.
        pollfd watched{known.container->pidfd(), POLLIN, 0};
        ::poll(&watched, 1, 10'000);
    }
    const json::object& described = known.state.at("container").as_object();
    const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
    JsonReader reader(known.state, "state");
    if (TRY(reader.boolean_or("ownCgroup", false)))
        TRY(confine::remove_cgroup_by_path(*system, TRY(reader.required_string("cgroup"))), "cgroup");
    // The container is gone either way: a failing hook is told, and that is all.
    if (auto ran = oci::run_poststop_hooks(described); !ran)
        std::fprintf(stderr, "wherry-runtime: %s\n", ran.error().describe().c_str());
    return known.directory.remove();
}

Result<int> delete_command(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    bool force = line.local.has("force");
    auto known = find(line, id);
    if (!known) {
        if (force && known.error().code() == Code::not_found) return 0;
        return std::unexpected<Error>(std::move(known).error());
    }
    if (!force && std::string_view(status_of(*known)) == "running")
        return fail(Code::conflict, "cannot delete container " + id + " that is not stopped: running");
    TRY(remove_container(*known));
    return 0;
}

Result<int> run(const CommandLine& line) {
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
        Fd terminal = container.take_terminal();
        if (line.local.has("console-socket")) {
            TRY(send_terminal(line.local, terminal));
            terminal.reset();
        }
        TRY(container.start());
        return terminal;
    }();
    json::object state = TRY(directory.load());
    state["container"] = container.state();
    TRY(directory.save(state));
    if (begun && line.local.has("timings")) print_timings(container.timeline());
    if (begun && detach) return 0;
    std::int64_t running_since = monotonic_ns();

    Result<int> code = 0;
    if (begun) {
        code = attend(container.pidfd(), std::move(*begun));
    } else {
        code = std::unexpected<Error>(std::move(begun).error().context("unable to start container process"));
    }
    std::int64_t ended_at = monotonic_ns();
    if (!line.local.has("keep")) {
        Known known{std::move(directory), std::move(state), std::nullopt};
        TRY(remove_container(known));
    }
    if (line.local.has("timings"))
        std::fprintf(stderr, "%-12s %8.1f us\n%-12s %8.1f us\n", "run",
                     static_cast<double>(ended_at - running_since) / 1000.0, "remove",
                     static_cast<double>(monotonic_ns() - ended_at) / 1000.0);
    return code;
}

Result<oci::ProcessSpec> exec_process(const CommandLine& line, const Known& known) {
    const Options& options = line.local;
    if (options.has("process")) {
        std::string text = TRY(read_file(options.value("process"), config_limit));
        json::object object = TRY(parse_json_object(text), "process");
        return oci::process_from_json(object);
    }
    oci::ProcessSpec process = TRY(oci::process_from_json(known.state.at("process").as_object()));
    process.terminal = options.has("tty");
    process.console_size.reset();
    process.args.assign(options.arguments.begin() + 1, options.arguments.end());
    for (const std::string& entry : options.all("env")) process.env.push_back(entry);
    if (options.has("cwd")) process.cwd = options.value("cwd");
    if (options.has("user")) process.user.username = options.value("user");
    if (options.has("no-new-privs")) process.no_new_privileges = true;
    for (const std::string& name : options.all("additional-gids")) process.user.additional_group_names.push_back(name);
    for (const std::string& name : options.all("cap")) {
        if (!process.capabilities) process.capabilities.emplace();
        for (auto* set :
             {&process.capabilities->bounding, &process.capabilities->effective, &process.capabilities->permitted})
            set->push_back(name);
    }
    return process;
}

Result<int> exec(const CommandLine& line) {
    if (line.local.arguments.empty()) return fail(Code::invalid_argument, "exec: expected a container id");
    Known known = TRY(find(line, line.local.arguments.front()));
    if (!known.container || !known.container->started())
        return fail(Code::conflict, "cannot exec in a container that is " + std::string(status_of(known)));
    oci::ExecRequest request;
    request.process = TRY(exec_process(line, known));
    bool terminal = request.process.terminal;
    bool detach = line.local.has("detach");
    if (terminal && detach && !line.local.has("console-socket"))
        return fail(Code::invalid_argument,
                    "cannot allocate a terminal for a detached process without --console-socket");
    request.stdio = {0, 1, 2};
    request.extra_fds = TRY(preserved_fds(line.local));
    auto cgroup = cgroup_of(known);
    if (cgroup) request.cgroup = &*cgroup;
    JsonReader reader(known.state, "state");
    if (auto profile = TRY(reader.child("seccomp")))
        request.seccomp = TRY(compile_seccomp_of(profile->object(), root_of(line)));
    oci::ExecProcess process = TRY(known.container->exec(std::move(request)), "exec failed");
    TRY(write_pid_file(line.local, process.pid));
    if (line.local.has("timings")) print_timings(process.timeline);
    if (line.local.has("console-socket")) {
        TRY(send_terminal(line.local, process.terminal));
        process.terminal.reset();
    }
    if (detach) return 0;
    // While the process runs others may use the container.
    known.directory.unlock();
    return attend(process.pidfd.get(), std::move(process.terminal));
}

Result<int> spec(const CommandLine& line) {
    std::string path = line.local.value("bundle", ".") + "/config.json";
    if (path_exists(path)) return fail(Code::already_exists, path + " exists");
    oci::Spec defaults = oci::default_spec();
    defaults.root.path = "rootfs";
    defaults.root.readonly = true;
    defaults.hostname = "wherry";
    defaults.process->args = {"sh"};
    defaults.process->terminal = true;
    TRY(write_file_atomic(path, to_json(json::value(oci::to_json(defaults))) + "\n", 0644, Durability::none));
    return 0;
}

}  // namespace

Result<int> run_command(const CommandLine& line) {
    if (line.global.has("systemd-cgroup"))
        return fail(Code::unimplemented, "--systemd-cgroup: systemd's cgroup driver is not supported");
    static const std::map<std::string, Result<int> (*)(const CommandLine&)> table{
        {"create", create},         {"start", start}, {"state", state}, {"kill", kill_command},
        {"delete", delete_command}, {"run", run},     {"exec", exec},   {"spec", spec}};
    auto found = table.find(line.command);
    if (found == table.end()) return fail(Code::invalid_argument, "unknown command " + line.command);
    return found->second(line);
}

}  // namespace wherry::runtime
