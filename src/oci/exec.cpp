// Adding a process to a running container: one clone3 straight into its pid namespace and cgroup, one setns of the
// container's pidfd for all other namespaces, then what every process goes through (process_setup.hpp).
#include <fcntl.h>
#include <grp.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.hpp"
#include "confine/cgroup.hpp"
#include "confine/namespaces.hpp"
#include "confine/process_attributes.hpp"
#include "oci/channel.hpp"
#include "oci/container_impl.hpp"
#include "oci/mount_calls.hpp"
#include "oci/process_setup.hpp"
#include "oci/spawn.hpp"

namespace wherry::oci {

namespace {

struct ExecPlan {
    ProcessPlan process;
    std::optional<confine::CgroupJoin> cgroup;
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

    ExecPlan& plan_;
    ProcessSetup setup_;
    Fd reply_, pidfd_;
    Fd master_, slave_;
};

Result<> Exec::forget_foreign_descriptors() {
    // First of all: from the clone on this process can be seen by the container's.
    std::vector<int> keep{0, 1, 2, plan_.channel.get(), plan_.pidfd};
    if (plan_.cgroup) {
        keep.insert(keep.end(), plan_.cgroup->task_files().begin(), plan_.cgroup->task_files().end());
        if (plan_.cgroup->unified_procs() >= 0) keep.push_back(plan_.cgroup->unified_procs());
    }
    for (int fd : plan_.process.stdio) {
        if (fd >= 0) keep.push_back(fd);
    }
    int highest = 2;
    for (const ExtraFd& extra : plan_.process.extra_fds) {
        keep.push_back(extra.fd);
        highest = std::max(highest, extra.number);
    }
    std::ranges::sort(keep);
    keep.erase(std::ranges::unique(keep).begin(), keep.end());
    if (int error = confine::post_fork::close_all_but(keep); error != 0) return fail_errno(error, "close descriptors");
    reply_.reset(::fcntl(plan_.channel.get(), F_DUPFD_CLOEXEC, highest + 1));
    if (!reply_) return fail_errno("channel");
    plan_.channel.reset();
    return {};
}

Result<> Exec::enter() {
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
    if (::setsid() < 0) return fail_errno("setsid");
    plan_.timeline.namespaces_joined = monotonic_ns();
    return {};
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
    TRY(setup_.confine(runtime_fds));
    plan_.timeline.confined = monotonic_ns();
    ready.timeline = plan_.timeline;
    TRY(send_message(reply_.get(), ready));
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
    plan.process = TRY(plan_process(request.process, std::move(request.seccomp)));
    plan.process.stdio = request.stdio;
    plan.process.extra_fds = request.extra_fds;
    plan.process.name = impl_->id;
    plan.process.rows = request.rows;
    plan.process.columns = request.columns;
    if (request.process.console_size && request.rows == 0 && request.columns == 0) {
        plan.process.rows = request.process.console_size->height;
        plan.process.columns = request.process.console_size->width;
    }
    plan.pidfd = impl_->pidfd.get();
    if (request.cgroup != nullptr) plan.cgroup = TRY(request.cgroup->prepare_join(), "cgroup");

    SpawnRequest spawn_request;
    for (const std::string& kind : impl_->namespaces) {
        if (kind == "pid") {
            spawn_request.pid_namespace = impl_->pidfd.get();
        } else {
            plan.namespaces |= flag_of(kind);
            plan.user_namespace = plan.user_namespace || kind == "user";
        }
    }
    if (plan.cgroup && plan.cgroup->unified_directory() >= 0) {
        spawn_request.cgroup = plan.cgroup->unified_directory();
        plan.born_in_unified = true;
    }
    auto [ours, theirs] = TRY(make_socket_pair(SOCK_SEQPACKET));
    plan.channel = std::move(theirs);
    Spawned child = TRY(spawn(spawn_request, run_exec, &plan), "exec");
    plan.channel.reset();

    ExecProcess process;
    auto outcome = [&]() -> Result<> {
        bool ready = false;
        for (;;) {
            auto message = TRY(receive_message(ours.get()));
            if (!message) {
                if (ready) return {};
                return fail(Code::internal, "the process ended while it was being set up");
            }
            switch (message->kind) {
                case MessageKind::failed:
                    return std::unexpected<Error>(error_of(*message));
                case MessageKind::terminal:
                    process.terminal = std::move(message->descriptor);
                    break;
                case MessageKind::ready:
                    ready = true;
                    process.timeline = message->timeline;
                    break;
                default:
                    return fail(Code::internal, "unexpected message of the process");
            }
        }
    }();
    if (!outcome) {
        kill_and_reap(child);
        return std::unexpected<Error>(std::move(outcome).error());
    }
    process.timeline.begin = begin;
    process.timeline.executed = monotonic_ns();
    process.pid = child.pid;
    process.pidfd = std::move(child.pidfd);
    return process;
}

}  // namespace wherry::oci
