// exec: a further process in a running container.
#include <signal.h>
#include <unistd.h>

#include <cstdio>

#include "base/log.hpp"
#include "commands.hpp"
#include "context.hpp"
#include "foreground.hpp"
#include "seccomp.hpp"

namespace wherry::runtime {

namespace {

Result<oci::ProcessSpec> exec_process(const CommandLine& line, const Known& known) {
    const Options& options = line.local;
    if (options.has("process")) {
        std::string text = TRY(read_file(options.value("process"), config_limit));
        json::object object = TRY(parse_json_object(text), "process");
        return oci::process_from_json(object);
    }
    if (options.arguments.size() < 2) return fail(Code::invalid_argument, "exec: process args cannot be empty");
    const json::value* described = known.state.if_contains("process");
    if (described == nullptr || !described->is_object()) return fail(Code::data_loss, "state: process is missing");
    oci::ProcessSpec process = TRY(oci::process_from_json(described->get_object()));
    process.terminal = options.has("tty");
    process.console_size.reset();
    process.args.assign(options.arguments.begin() + 1, options.arguments.end());
    for (const std::string& entry : options.all("env")) process.env.push_back(entry);
    if (options.has("cwd")) process.cwd = options.value("cwd");
    if (options.has("user")) {
        process.user.username = options.value("user");
        process.user.additional_gids.clear();
    }
    if (options.has("no-new-privs")) process.no_new_privileges = true;
    if (options.has("apparmor")) process.apparmor_profile = options.value("apparmor");
    if (options.has("process-label")) process.selinux_label = options.value("process-label");
    for (const std::string& name : options.all("additional-gids")) process.user.additional_group_names.push_back(name);
    for (const std::string& name : options.all("cap")) {
        if (!process.capabilities) process.capabilities.emplace();
        for (auto* set :
             {&process.capabilities->bounding, &process.capabilities->effective, &process.capabilities->permitted})
            set->push_back(name);
    }
    return process;
}

// --cgroup: one below the container's; absolute and relative mean the same, as the container sees them.
Result<std::optional<confine::Cgroup>> cgroup_for(const CommandLine& line, const Known& known) {
    auto own = TRY(known.cgroup());
    std::string below = line.local.value("cgroup");
    while (!below.empty() && below.front() == '/') below.erase(0, 1);
    if (below.empty()) return own;
    if (!own) return fail(Code::conflict, "--cgroup: the container has no cgroup");
    if (below.find(':') != std::string::npos)
        return fail(Code::unimplemented, "--cgroup: a cgroup of one controller alone is not supported");
    const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
    return TRY(confine::Cgroup::open(*system, own->path() + "/" + below), "--cgroup");
}

}  // namespace

Result<int> exec_command(const CommandLine& line) {
    if (line.local.arguments.empty()) return fail(Code::invalid_argument, "exec: expected a container id");
    Known known = TRY(find(line, line.local.arguments.front()));
    std::string_view status = status_of(known);
    if (status == "stopped" || status == "created")
        return fail(Code::conflict, "cannot exec in a " + std::string(status) + " container");
    if (status == "paused" && !line.local.has("ignore-paused"))
        return fail(Code::conflict, "cannot exec in a paused container (use --ignore-paused to override)");
    oci::ExecRequest request;
    request.process = TRY(exec_process(line, known));
    bool terminal = request.process.terminal;
    bool detach = line.local.has("detach");
    if (terminal && detach && !line.local.has("console-socket"))
        return fail(Code::invalid_argument, "cannot allocate tty if runc will detach without setting console socket");
    request.stdio = {0, 1, 2};
    request.extra_fds = TRY(preserved_fds(line.local));
    auto cgroup = TRY(cgroup_for(line, known));
    if (cgroup) request.cgroup = &*cgroup;
    JsonReader reader(known.state, "state");
    if (auto profile = TRY(reader.child("seccomp"))) {
        std::string bundle = TRY(JsonReader(known.state.at("container").as_object(), "state").string_or("bundle", ""));
        PreparedSeccomp seccomp = TRY(prepare_seccomp(profile->object(), root_of(line), bundle));
        request.seccomp = std::move(seccomp.program);
        request.seccomp_listener = std::move(seccomp.listener);
    }
    auto made = known.container->exec(std::move(request));
    if (!made) return std::unexpected<Error>(std::move(made).error().context("exec failed"));
    oci::ExecProcess process = std::move(*made);
    auto told = write_pid_file(line.local, process.pid);
    if (told) told = send_pidfd(line.local, process.pidfd.get(), "setns");
    if (!told) {
        // Nobody knows of it.
        ::kill(process.pid, SIGKILL);
        [[maybe_unused]] auto reaped = oci::wait_exit(process.pidfd.get());
        return std::unexpected<Error>(std::move(told).error());
    }
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

}  // namespace wherry::runtime
