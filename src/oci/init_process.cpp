#include "oci/init_process.hpp"

#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/clock.hpp"
#include "confine/process_attributes.hpp"
#include "oci/channel.hpp"
#include "oci/hooks.hpp"

namespace wherry::oci {

namespace {

class Init {
  public:
    explicit Init(InitPlan& plan) : plan_(plan), rootfs_(plan.rootfs), setup_(plan.process) {}

    Result<> prepare();
    Result<> wait_and_execute();
    int reply_socket() const { return reply_.get(); }

  private:
    Result<> forget_foreign_descriptors();
    Result<std::int64_t> wait_for(MessageKind kind, const char* what);  // -> the message's pid
    Result<> enter_namespaces();
    Result<> enter_late_cgroup();
    Result<> become_root_of_user_namespace();
    Result<> time_namespace();
    Result<> loopback_up();
    Result<> names();
    Result<> file_system();
    HookState hook_state(const char* status, std::int64_t pid) const;
    const Spec& spec() const { return plan_.request->spec; }
    Timeline& timeline() { return plan_.timeline; }

    InitPlan& plan_;
    Rootfs rootfs_;
    ProcessSetup setup_;
    Fd reply_;  // the channel, out of the way of the container's descriptors
    Fd master_, slave_;
};

Result<> Init::forget_foreign_descriptors() {
    KeptDescriptors kept = descriptors_of(plan_.process, plan_.cgroup, plan_.resctrl);
    int highest = kept.highest_target;
    std::vector<int> more{plan_.listener.get(), plan_.mount_namespace.get()};
    for (const auto& entry : plan_.join) more.push_back(entry.first.get());
    for (const PlannedMount& mount : plan_.rootfs.mounts) more.push_back(mount.tree.get());
    reply_ = TRY(close_foreign_descriptors(std::move(kept), more, plan_.channel));
    if (plan_.listener) {
        Fd moved(::fcntl(plan_.listener.get(), F_DUPFD_CLOEXEC, highest + 1));
        if (!moved) return fail_errno("start socket");
        plan_.listener = std::move(moved);
    }
    return {};
}

Result<std::int64_t> Init::wait_for(MessageKind kind, const char* what) {
    auto message = TRY(receive_message(reply_.get()));
    if (!message || message->kind != kind) return fail(Code::cancelled, std::string("parent gave up: ") + what);
    return message->pid;
}

Result<> Init::become_root_of_user_namespace() {
    // Maps without an id 0 leave nothing to become.
    if (::setresgid(0, 0, 0) < 0 && errno != EINVAL) return fail_errno("gid 0 of the user namespace");
    if (::setgroups(0, nullptr) < 0 && errno != EPERM) return fail_errno("groups of the user namespace");
    if (::setresuid(0, 0, 0) < 0 && errno != EINVAL) return fail_errno("uid 0 of the user namespace");
    return {};
}

Result<> Init::time_namespace() {
    if (::unshare(CLONE_NEWTIME) < 0) return fail_errno("new time namespace");
    if (!spec().linux_spec.time_offsets.empty()) {
        std::string text;
        for (const auto& [clock, offset] : spec().linux_spec.time_offsets)
            text += clock + " " + std::to_string(offset.seconds) + " " + std::to_string(offset.nanoseconds) + "\n";
        TRY(write_control_file("/proc/self/timens_offsets", text), "linux.timeOffsets");
    }
    // Unsharing is for children; this process enters it too.
    Fd entered = TRY(open_file("/proc/self/ns/time_for_children", O_RDONLY));
    if (::setns(entered.get(), CLONE_NEWTIME) < 0) return fail_errno("enter the new time namespace");
    return {};
}

Result<> Init::loopback_up() {
    Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!socket) return fail_errno("socket");
    ifreq request{};
    std::memcpy(request.ifr_name, "lo", 3);
    // SAFETY: SIOCGIFFLAGS and SIOCSIFFLAGS read and write an ifreq.
    if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) < 0) return fail_errno("loopback");
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) < 0) return fail_errno("loopback up");
    return {};
}

Result<> Init::names() {
    if (!spec().hostname.empty()) {
        if (!plan_.own_uts_namespace) return fail(Code::invalid_argument, "hostname without a uts namespace");
        if (::sethostname(spec().hostname.data(), spec().hostname.size()) < 0) return fail_errno("hostname");
    }
    if (!spec().domainname.empty()) {
        if (!plan_.own_uts_namespace) return fail(Code::invalid_argument, "domainname without a uts namespace");
        if (::setdomainname(spec().domainname.data(), spec().domainname.size()) < 0) return fail_errno("domainname");
    }
    return {};
}

// A cgroup that the parent has completed while this process made its namespaces and mounts. Its namespace has the
// present cgroup as its root, so that comes after.
Result<> Init::enter_late_cgroup() {
    if (!plan_.cgroup_is_late) return {};
    plan_.cgroup_is_late = false;
    TRY(wait_for(MessageKind::proceed, "cgroup"));
    for (const std::string& path : plan_.late_tasks) {
        Fd tasks = TRY(open_file(path, O_WRONLY), "join cgroup");
        const int file = tasks.get();
        if (int error = confine::post_fork::join_cgroups(std::span(&file, 1)); error != 0)
            return fail_errno(error, "join cgroup " + path);
    }
    timeline().cgroup_joined = monotonic_ns();
    if (plan_.new_cgroup_namespace && ::unshare(CLONE_NEWCGROUP) < 0) return fail_errno("new cgroup namespace");
    return {};
}

Result<> Init::enter_namespaces() {
    if (plan_.resctrl) {
        TRY(plan_.resctrl->enter(), "linux.intelRdt");
        plan_.resctrl.reset();
    }
    // The cgroup first: its namespace has the present cgroup as its root.
    if (plan_.cgroup) {
        if (int error = confine::post_fork::join_cgroups(plan_.cgroup->task_files()); error != 0)
            return fail_errno(error, "join cgroup");
        if (!plan_.born_in_unified && plan_.cgroup->unified_procs() >= 0)
            TRY(write_all(plan_.cgroup->unified_procs(), "0"), "join cgroup");
    }
    if (!plan_.cgroup_is_late) timeline().cgroup_joined = monotonic_ns();
    if (plan_.new_user_namespace) {
        TRY(wait_for(MessageKind::proceed, "id maps"));
        TRY(become_root_of_user_namespace());
        // A user's runtime had to stay dumpable until its maps were written.
        if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return fail_errno("PR_SET_DUMPABLE");
    } else if (plan_.joined_user_namespace) {
        TRY(become_root_of_user_namespace());
    }
    TRY(setup_.early());
    for (const auto& [fd, kind] : plan_.join) {
        if (int error = confine::post_fork::join_namespace(fd.get(), kind); error != 0)
            return fail_errno(error, "join " + std::string(confine::to_string(kind)) + " namespace");
    }
    plan_.join.clear();
    if (plan_.cgroup_is_late) {
        // What the clone would have done on the parent's time.
        if (plan_.new_network_namespace && ::unshare(CLONE_NEWNET) < 0) return fail_errno("new network namespace");
    } else if (plan_.new_cgroup_namespace && ::unshare(CLONE_NEWCGROUP) < 0) {
        return fail_errno("new cgroup namespace");
    }
    if (plan_.new_time_namespace) TRY(time_namespace());
    if (plan_.new_network_namespace && plan_.request->loopback_up) TRY(loopback_up());
    if (::setsid() < 0) return fail_errno("setsid");
    if (plan_.mount_namespace) {
        if (::setns(plan_.mount_namespace.get(), CLONE_NEWNS) < 0) return fail_errno("join mount namespace");
        plan_.mount_namespace.reset();
    }
    TRY(names());
    timeline().namespaces_joined = monotonic_ns();
    return {};
}

HookState Init::hook_state(const char* status, std::int64_t pid) const {
    HookState state;
    state.id = plan_.request->id;
    state.status = status;
    state.pid = static_cast<pid_t>(pid);
    state.bundle = plan_.request->bundle;
    state.annotations = spec().annotations;
    return state;
}

Result<> Init::file_system() {
    TRY(rootfs_.detach_from_host());
    TRY(rootfs_.attach_root());
    timeline().rootfs_mounted = monotonic_ns();
    plan_.rootfs.before_cgroups = [this] { return enter_late_cgroup(); };
    TRY(rootfs_.make_mounts());
    TRY(enter_late_cgroup());
    timeline().mounts_done = monotonic_ns();
    TRY(rootfs_.make_devices());
    if (plan_.rootfs.terminal) {
        Terminal terminal = TRY(rootfs_.open_terminal(), "terminal");
        TRY(rootfs_.bind_console(terminal.slave.get()), "console");
        if (plan_.process.rows != 0 || plan_.process.columns != 0) {
            winsize size{};
            size.ws_row = plan_.process.rows;
            size.ws_col = plan_.process.columns;
            // SAFETY: TIOCSWINSZ reads a winsize.
            if (::ioctl(terminal.master.get(), TIOCSWINSZ, &size) < 0) return fail_errno("terminal size");
        }
        master_ = std::move(terminal.master);
        slave_ = std::move(terminal.slave);
    }
    timeline().devices_done = monotonic_ns();
    TRY(rootfs_.write_sysctls());
    const Hooks& hooks = spec().hooks;
    if (!hooks.prestart.empty() || !hooks.create_runtime.empty() || !hooks.create_container.empty()) {
        Message message;
        message.kind = MessageKind::wants_hooks;
        TRY(send_message(reply_.get(), message));
        // The answer tells which process this is outside: its own pid namespace says 1.
        std::int64_t pid = TRY(wait_for(MessageKind::proceed, "hooks"));
        TRY(run_hooks(hooks.create_container, "createContainer", hook_state("creating", pid)));
    }
    TRY(rootfs_.protect());
    timeline().masks_done = monotonic_ns();
    TRY(rootfs_.pivot());
    timeline().pivoted = monotonic_ns();
    return {};
}

Result<> Init::prepare() {
    TRY(forget_foreign_descriptors());
    TRY(enter_namespaces());
    TRY(file_system());
    Message ready;
    ready.user = TRY(setup_.resolve());
    TRY(setup_.attach_stdio(slave_ ? slave_.get() : -1));
    if (slave_) TRY(setup_.take_terminal());
    if (master_) {
        Message terminal;
        terminal.kind = MessageKind::terminal;
        TRY(send_message(reply_.get(), terminal, master_.get()));
        master_.reset();
    }
    TRY(setup_.label());
    const int runtime_fds[] = {reply_.get(), plan_.listener.get()};
    TRY(setup_.confine(runtime_fds, reply_.get()));
    timeline().confined = monotonic_ns();
    ready.kind = MessageKind::ready;
    timeline().ready = monotonic_ns();
    ready.timeline = timeline();
    return send_message(reply_.get(), ready);
}

Result<> Init::wait_and_execute() {
    if (plan_.listener) {
        reply_.reset();  // create has its answer; from here on `start` is who is told
        reply_.reset(::accept4(plan_.listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!reply_) return fail_errno("wait for start");
    }
    auto message = receive_message(reply_.get());
    // Nobody left to start it.
    if (!message || !*message || (*message)->kind != MessageKind::start) ::_exit(1);
    const Hooks& hooks = spec().hooks;
    if (!hooks.start_container.empty())
        TRY(run_hooks(hooks.start_container, "startContainer", hook_state("created", (*message)->pid)));
    return setup_.execute();
}

}  // namespace

void run_init(void* argument) {
    InitPlan& plan = *static_cast<InitPlan*>(argument);
    plan.timeline.cloned = monotonic_ns();
    Init init(plan);
    auto result = init.prepare();
    if (result) result = init.wait_and_execute();
    if (!result) {
        // Before the channel was moved the plan still has it.
        int socket = init.reply_socket() >= 0 ? init.reply_socket() : plan.channel.get();
        [[maybe_unused]] auto told = send_message(socket, failure_message(result.error()));
        int code = failure_exit_code(result.error());
        ::_exit(code == 128 ? 1 : code);
    }
    ::_exit(255);
}

}  // namespace wherry::oci
