#include "oci/spawn.hpp"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/single_threaded.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace wherry::oci {

namespace {

struct Cloned {
    long pid = -1;
    int pidfd = -1;
};

Cloned clone_process(const SpawnRequest& request, std::uint64_t more_flags) {
    Cloned cloned;
    clone_args arguments{};
    arguments.flags = request.flags | more_flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
    // SAFETY: clone3(2) writes the pidfd there before it returns.
    arguments.pidfd = reinterpret_cast<std::uint64_t>(&cloned.pidfd);
    arguments.exit_signal = (more_flags & CLONE_PARENT) != 0 ? 0 : SIGCHLD;  // CLONE_PARENT: as the caller's
    if (request.cgroup >= 0) {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = static_cast<std::uint64_t>(request.cgroup);
    }
    // SAFETY: without CLONE_VM this is fork: the child goes on with its own copy of a single-threaded process.
    cloned.pid = ::syscall(SYS_clone3, &arguments, sizeof arguments);
    return cloned;
}

Result<> enter_pid_namespace_for_children(int fd) {
    if (::setns(fd, CLONE_NEWPID) < 0) return fail_errno("join pid namespace");
    return {};
}

// The process in between: joins the user namespace, then clones a sibling of itself.
[[noreturn]] void run_between(const SpawnRequest& request, void (*entry)(void*), void* argument, int report) {
    struct {
        int error;
        int pid;
    } answer{0, -1};
    if (::setns(request.user_namespace, CLONE_NEWUSER) < 0 ||
        (request.pid_namespace >= 0 && ::setns(request.pid_namespace, CLONE_NEWPID) < 0)) {
        answer.error = errno;
    } else {
        Cloned cloned = clone_process(request, CLONE_PARENT);
        if (cloned.pid == 0) {
            entry(argument);
            ::_exit(255);
        }
        answer.error = cloned.pid < 0 ? errno : 0;
        answer.pid = static_cast<int>(cloned.pid);
    }
    // SAFETY: plain bytes to our own parent.
    [[maybe_unused]] ssize_t written = ::write(report, &answer, sizeof answer);
    ::_exit(0);
}

Result<Spawned> spawn_by_helper(const SpawnRequest& request, void (*entry)(void*), void* argument) {
    Pipe report = TRY(make_pipe());
    pid_t between = ::fork();
    if (between < 0) return fail_errno("fork");
    if (between == 0) run_between(request, entry, argument, report.write.get());
    report.write.reset();
    struct {
        int error;
        int pid;
    } answer{};
    auto got = read_exact(report.read.get(), std::as_writable_bytes(std::span(&answer, 1)));
    while (::waitpid(between, nullptr, 0) < 0 && errno == EINTR) {
    }
    if (!got) return std::unexpected<Error>(std::move(got).error().context("join user namespace"));
    if (answer.error != 0) return fail_errno(answer.error, "join user namespace");
    Spawned spawned;
    spawned.pid = answer.pid;
    // Our own child that nobody has reaped: the pid can't have been reused.
    spawned.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, answer.pid, 0)));
    if (!spawned.pidfd) {
        int error = errno;
        ::kill(answer.pid, SIGKILL);
        ::waitpid(answer.pid, nullptr, 0);
        return fail_errno(error, "pidfd_open");
    }
    return spawned;
}

}  // namespace

Result<Spawned> spawn(const SpawnRequest& request, void (*entry)(void*), void* argument) {
    if (__libc_single_threaded == 0)
        return fail(Code::internal, "containers are made by single-threaded processes only");
    TRY(require_protected_binary());
    if (request.user_namespace >= 0) return spawn_by_helper(request, entry, argument);
    Fd own;
    if (request.pid_namespace >= 0) {
        own = TRY(open_file("/proc/self/ns/pid", O_RDONLY));
        TRY(enter_pid_namespace_for_children(request.pid_namespace));
    }
    Cloned cloned = clone_process(request, 0);
    if (cloned.pid == 0) {
        entry(argument);
        ::_exit(255);
    }
    int error = cloned.pid < 0 ? errno : 0;
    Spawned spawned;
    spawned.pid = static_cast<pid_t>(cloned.pid);
    spawned.pidfd.reset(cloned.pidfd);
    if (own) {
        if (auto back = enter_pid_namespace_for_children(own.get()); !back) {
            if (cloned.pid > 0) {
                ::kill(spawned.pid, SIGKILL);
                ::waitpid(spawned.pid, nullptr, 0);
            }
            return std::unexpected<Error>(std::move(back).error());
        }
    }
    if (error != 0) return fail_errno(error, "clone3");
    return spawned;
}

}  // namespace wherry::oci
