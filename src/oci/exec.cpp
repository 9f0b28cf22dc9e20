// Adding a process to a running container. What the container can see of it is one of its own from birth on:
//
//   1. A helper is cloned outside of the container's pid namespace, in its cgroup. It closes what is not needed, joins
//   all
//      namespaces by one setns of the container's pidfd (the pid namespace counts for its children only), and takes on
//      user, capabilities, seccomp, directory and descriptors of the new process.
//   2. The helper clones the process itself as a sibling (CLONE_PARENT), inside the pid namespace, and ends. That one
//   has
//      nothing left to lose when the container's processes look into it (CVE-2016-9962), not even to those with
//      CAP_SYS_PTRACE. It becomes the program.
#include <fcntl.h>
#include <grp.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.hpp"
#include "confine/cgroup.hpp"
#include "confine/namespaces.hpp"
#include "confine/process_attributes.hpp"
#include "confine/resctrl.hpp"
#include "oci/channel.hpp"
#include "oci/container_impl.hpp"
#include "oci/mount_calls.hpp"
#include "oci/process_setup.hpp"
#include "oci/seccomp_listener.hpp"
#include "oci/spawn.hpp"

namespace wherry::oci {

namespace {

struct ExecPlan {
    ProcessPlan process;
    std::optional<confine::CgroupJoin> cgroup;
    std::optional<confine::ResctrlJoin> resctrl;
    bool born_in_unified = false;
    int pidfd = -1;
    int namespaces = 0;  // CLONE_NEW... but pid
    bool user_namespace = false;
    Fd channel;
    Timeline timeline;
};

class Exec {
  public:
    explicit Exec(ExecPlan& plan) : plan_(plan), setup_(plan.process) {}
    Result<> run();
    int reply_socket() const { return reply_.get(); }

  private:
    Result<> forget_foreign_descriptors();
    Result<> enter();
    Result<> open_terminal();
    Result<> clone_sibling();

    ExecPlan& plan_;
    ProcessSetup setup_;
    Fd reply_, pidfd_;
    Fd master_, slave_;
};

Result<> Exec::forget_foreign_descriptors() {
    const int more[] = {plan_.pidfd};
    KeptDescriptors kept = descriptors_of(plan_.process, plan_.cgroup, plan_.resctrl);
    reply_ = TRY(close_foreign_descriptors(std::move(kept), more, plan_.channel));
    return {};
}

Result<> Exec::enter() {
    if (plan_.resctrl) {
        TRY(plan_.resctrl->enter(), "linux.intelRdt");
        plan_.resctrl.reset();
    }
    if (plan_.cgroup) {
        if (int error = confine::post_fork::join_cgroups(plan_.cgroup->task_files()); error != 0)
            return fail_errno(error, "join cgroup");
        if (!plan_.born_in_unified && plan_.cgroup->unified_procs() >= 0)
            TRY(write_all(plan_.cgroup->unified_procs(), "0"), "join cgroup");
    }
    plan_.timeline.cgroup_joined = monotonic_ns();
    TRY(setup_.early());
    if (::setns(plan_.pidfd, plan_.namespaces) < 0) return fail_errno("join the container's namespaces");
    if (plan_.user_namespace) {
        if (::setresgid(0, 0, 0) < 0 && errno != EINVAL) return fail_errno("gid 0 of the user namespace");
        if (::setgroups(0, nullptr) < 0 && errno != EPERM) return fail_errno("groups of the user namespace");
        if (::setresuid(0, 0, 0) < 0 && errno != EINVAL) return fail_errno("uid 0 of the user namespace");
    }
    plan_.timeline.namespaces_joined = monotonic_ns();
    return {};
}

// In the parent of both this returns not at all: it tells the caller and ends.
Result<> Exec::clone_sibling() {
    int pidfd = -1;
    // SAFETY: without CLONE_VM and a stack this is fork; the kernel writes the pidfd. clone, not clone3: Docker's
    // seccomp profile, which is in force by now, refuses the latter.
    long pid = ::syscall(SYS_clone, CLONE_PARENT | CLONE_PIDFD, nullptr, &pidfd, nullptr, nullptr);
    if (pid < 0) return fail_errno("clone");
    if (pid == 0) return {};
    Message message;
    message.kind = MessageKind::spawned;
    message.pid = pid;
    auto told = send_message(reply_.get(), message, pidfd);
    ::_exit(told ? 0 : 1);
}

// The container's own devpts, proven to be one: its files are the container's to change.
Result<> Exec::open_terminal() {
    Fd root = TRY(open_file("/", O_PATH | O_DIRECTORY));
    Fd path = TRY(open_path_in_root_nofollow(root.get(), "/dev/pts/ptmx"), "terminal");
    struct stat info{};
    if (::fstat(path.get(), &info) < 0) return fail_errno("terminal");
    if (!is_file_system(path.get(), DEVPTS_SUPER_MAGIC) || !S_ISCHR(info.st_mode) || info.st_rdev != makedev(5, 2))
        return fail(Code::permission_denied, "/dev/pts/ptmx is not a terminal multiplexer of devpts");
    constexpr int flags = O_RDWR | O_NOCTTY | O_CLOEXEC;
    // The proven object itself, opened anew for reading and writing.
    Fd folder = TRY(open_path_in_root_nofollow(root.get(), "/dev/pts"), "terminal");
    if (!is_file_system(folder.get(), DEVPTS_SUPER_MAGIC))
        return fail(Code::permission_denied, "/dev/pts is not devpts");
    master_ = TRY(open_at(folder.get(), "ptmx", flags | O_NOFOLLOW), "terminal");
    if (::fstat(master_.get(), &info) < 0 || !S_ISCHR(info.st_mode) || info.st_rdev != makedev(5, 2) ||
        !is_file_system(master_.get(), DEVPTS_SUPER_MAGIC))
        return fail(Code::permission_denied, "/dev/pts/ptmx changed while it was opened");
    int unlock = 0;
    // SAFETY: TIOCSPTLCK reads an int; TIOCGPTPEER takes open flags; TIOCSWINSZ reads a winsize.
    if (::ioctl(master_.get(), TIOCSPTLCK, &unlock) < 0) return fail_errno("unlock terminal");
    slave_.reset(::ioctl(master_.get(), TIOCGPTPEER, flags));
    if (!slave_) return fail_errno("TIOCGPTPEER");
    if (plan_.process.rows != 0 || plan_.process.columns != 0) {
        winsize size{};
        size.ws_row = plan_.process.rows;
        size.ws_col = plan_.process.columns;
        if (::ioctl(master_.get(), TIOCSWINSZ, &size) < 0) return fail_errno("terminal size");
    }
    return {};
}

Result<> Exec::run() {
    TRY(forget_foreign_descriptors());
    TRY(enter());
    Message ready;
    ready.kind = MessageKind::ready;
    ready.user = TRY(setup_.resolve());
    if (plan_.process.process.terminal) TRY(open_terminal());
    TRY(setup_.attach_stdio(slave_ ? slave_.get() : -1));
    if (master_) {
        Message terminal;
        terminal.kind = MessageKind::terminal;
        TRY(send_message(reply_.get(), terminal, master_.get()));
        master_.reset();
    }
    const int runtime_fds[] = {reply_.get()};
    TRY(setup_.confine(runtime_fds, reply_.get()));
    plan_.timeline.confined = monotonic_ns();
    ready.timeline = plan_.timeline;
    TRY(send_message(reply_.get(), ready));
    TRY(clone_sibling());
    if (::setsid() < 0) return fail_errno("setsid");
    if (plan_.process.process.terminal) TRY(setup_.take_terminal());
    TRY(setup_.label());
    return setup_.execute();
}

void run_exec(void* argument) {
    ExecPlan& plan = *static_cast<ExecPlan*>(argument);
    plan.timeline.cloned = monotonic_ns();
    Exec exec(plan);
    auto result = exec.run();
    if (!result) {
        int socket = exec.reply_socket() >= 0 ? exec.reply_socket() : plan.channel.get();
        [[maybe_unused]] auto told = send_message(socket, failure_message(result.error()));
    }
    ::_exit(255);
}

int flag_of(const std::string& kind) {
    auto parsed = confine::parse_namespace(kind);
    return parsed ? static_cast<int>(confine::clone_flag(*parsed)) : 0;
}

}  // namespace

Result<ExecProcess> Container::exec(ExecRequest request) {
    std::int64_t begin = monotonic_ns();
    ExecPlan plan;
    plan.process = TRY(plan_process(request.process, std::move(request.seccomp), request.stdio));
    plan.process.extra_fds = request.extra_fds;
    plan.process.seccomp_notifies = request.seccomp_listener.has_value();
    plan.process.name = impl_->id;
    plan.process.rows = request.rows;
    plan.process.columns = request.columns;
    if (request.process.console_size && request.rows == 0 && request.columns == 0) {
        plan.process.rows = request.process.console_size->height;
        plan.process.columns = request.process.console_size->width;
    }
    plan.pidfd = impl_->pidfd.get();
    if (request.cgroup != nullptr) plan.cgroup = TRY(request.cgroup->prepare_join(), "cgroup");
    if (impl_->intel_rdt) {
        auto join = impl_->intel_rdt->prepare_join();
        // A group that somebody has removed has left the container to the default one: there it stays together.
        if (!join && join.error().code() != Code::not_found)
            return std::unexpected<Error>(std::move(join).error().context("linux.intelRdt"));
        if (join) plan.resctrl = std::move(*join);
    }

    SpawnRequest spawn_request;
    for (const std::string& kind : impl_->namespaces) {
        plan.namespaces |= flag_of(kind);
        plan.user_namespace = plan.user_namespace || kind == "user";
    }
    if (plan.user_namespace) {
        auto setgroups = read_file("/proc/" + std::to_string(impl_->pid) + "/setgroups", 64);
        plan.process.setgroups_denied = setgroups && setgroups->starts_with("deny");
    }
    if (plan.cgroup && plan.cgroup->unified_directory() >= 0) {
        spawn_request.cgroup = plan.cgroup->unified_directory();
        plan.born_in_unified = true;
    }
    auto [ours, theirs] = TRY(make_socket_pair(SOCK_SEQPACKET));
    plan.channel = std::move(theirs);
    Spawned helper = TRY(spawn(spawn_request, run_exec, &plan), "exec");
    plan.channel.reset();

    ExecProcess process;
    auto outcome = [&]() -> Result<> {
        for (;;) {
            auto message = TRY(receive_message(ours.get()));
            if (!message) {
                // Both ends of the others are closed: the helper has ended, the process has become its program.
                if (process.pidfd) return {};
                return fail(Code::internal, "the process ended while it was being set up");
            }
            switch (message->kind) {
                case MessageKind::failed:
                    return std::unexpected<Error>(error_of(*message));
                case MessageKind::terminal:
                    process.terminal = std::move(message->descriptor);
                    break;
                case MessageKind::listener:
                    TRY(send_listener(request.seccomp_listener, std::move(message->descriptor),
                                      impl_->hook_state("running"), helper.pid));
                    break;
                case MessageKind::ready:
                    process.timeline = message->timeline;
                    break;
                case MessageKind::spawned:
                    process.pid = static_cast<pid_t>(message->pid);
                    process.pidfd = std::move(message->descriptor);
                    break;
                default:
                    return fail(Code::internal, "unexpected message of the process");
            }
        }
    }();
    if (!outcome) {
        kill_and_reap(helper);
        // The process may have failed before the helper could tell of it.
        while (!process.pidfd) {
            auto message = receive_message(ours.get());
            if (!message || !*message) break;
            if ((*message)->kind == MessageKind::spawned) process.pidfd = std::move((*message)->descriptor);
        }
        if (process.pidfd) kill_and_reap(Spawned{process.pid, std::move(process.pidfd)});
        return std::unexpected<Error>(std::move(outcome).error());
    }
    TRY(wait_exit(helper.pidfd.get()), "exec helper");
    process.timeline.begin = begin;
    process.timeline.executed = monotonic_ns();
    return process;
}

}  // namespace wherry::oci
