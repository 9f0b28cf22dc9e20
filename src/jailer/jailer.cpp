#include "jailer/jailer.hpp"

#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): clearenv is no part of <cstdlib>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "base/fd.hpp"
#include "confine/capabilities.hpp"
#include "confine/cgroup.hpp"
#include "confine/namespaces.hpp"
#include "jailer/cgroups.hpp"
#include "jailer/chroot.hpp"

namespace wherry::jailer {
namespace {

std::int64_t clock_us(clockid_t clock) {
    timespec time{};
    ::clock_gettime(clock, &time);
    return static_cast<std::int64_t>(time.tv_sec) * 1'000'000 + time.tv_nsec / 1000;
}

// A process that ends for its child: waits until the child has become the monitor (the pipe closes on exec), then
// leaves with 0; passes on the child's error otherwise.
[[noreturn]] void leave_when_executed(Fd report) {
    auto text = read_to_end(report.get(), 64U << 10U);
    if (text && text->empty()) ::_exit(0);
    // The error has been printed by the child where it has a standard error of its own; a daemon's is /dev/null.
    if (text) (void)write_all(STDERR_FILENO, *text);
    ::_exit(1);
}

class Launch {
  public:
    Launch(const Options& options, const StartTimes& started) : options_(options), started_(started) {}

    Result<> go() {
        const confine::CgroupSystem* cgroup_system = nullptr;
        std::vector<CgroupPlan> plans;
        bool wants_cgroup = !options_.cgroups.empty() || !options_.parent_cgroup.empty();
        if (wants_cgroup) {
            cgroup_system = TRY(confine::CgroupSystem::of_this_host());
            plans = TRY(plan_cgroups(options_, *cgroup_system));
        }
        TRY(confine::check_resource_limits(options_.limits), "--resource-limit");
        Fd network;
        if (!options_.network_namespace.empty())
            network = TRY(confine::open_namespace(options_.network_namespace, confine::Namespace::network), "--netns");
        // What is read from the host is read before its files are out of reach.
        auto misc = read_file("/proc/misc", 64U << 10U);
        auto faults = misc ? userfaultfd_minor(*misc) : std::nullopt;
        Fd null;
        if (options_.daemonize) null = TRY(open_file("/dev/null", O_RDWR));
        ::umask(0022);

        Chroot root = TRY(Chroot::create(options_));
        if (network && ::setns(network.get(), CLONE_NEWNET) != 0) return fail_errno("joining the network namespace");
        network.reset();
        for (const auto& limit : options_.limits) TRY(confine::set_resource_limit(limit), "--resource-limit");
        TRY(enter_cgroups(plans));
        TRY(root.enter());
        TRY(root.populate(options_.uid, options_.gid, faults));
        if (options_.daemonize) TRY(daemonize(null));
        if (options_.new_pid_namespace) {
            TRY(enter_pid_namespace(root));
        } else {
            TRY(root.write_pid(::getpid()));
        }
        return execute(root);
    }

    // What a process that has left others behind tells them; the process that was called prints it.
    bool report(const Error& error) {
        if (!report_) return false;
        (void)write_all(report_.get(), "wherry-jailer: " + error.describe() + "\n");
        return true;
    }

  private:
    // Continues in a child; the process that called waits for the monitor's exec and leaves.
    Result<> continue_in_child() {
        Fd report_read;
        if (!report_) {
            Pipe pipe = TRY(make_pipe());
            report_ = std::move(pipe.write);
            report_read = std::move(pipe.read);
        }
        std::int64_t used = clock_us(CLOCK_PROCESS_CPUTIME_ID) - started_.cpu_us;
        pid_t child = ::fork();
        if (child < 0) return fail_errno("fork");
        if (child > 0) {
            report_.reset();
            if (report_read) leave_when_executed(std::move(report_read));
            ::_exit(0);
        }
        report_read.reset();
        // The child's clock of CPU time begins at zero.
        parent_cpu_us_ += used;
        started_.cpu_us = 0;
        return {};
    }

    Result<> daemonize(const Fd& null) {
        TRY(continue_in_child());
        if (::setsid() < 0) return fail_errno("setsid");
        // Twice, so that the monitor leads no session and no terminal can become its own.
        TRY(continue_in_child());
        for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
            if (::dup2(null.get(), fd) < 0) return fail_errno("redirecting to /dev/null");
        return {};
    }

    Result<> enter_pid_namespace(Chroot& root) {
        Fd report_read;
        if (!report_) {
            Pipe pipe = TRY(make_pipe());
            report_ = std::move(pipe.write);
            report_read = std::move(pipe.read);
        }
        Pipe go = TRY(make_pipe());
        std::int64_t used = clock_us(CLOCK_PROCESS_CPUTIME_ID) - started_.cpu_us;
        if (::unshare(CLONE_NEWPID) != 0) return fail_errno("new pid namespace");
        pid_t child = ::fork();
        if (child < 0) return fail_errno("fork");
        if (child > 0) {
            // Only outside is the monitor's number known. It waits until the file is there.
            if (auto written = root.write_pid(child); !written) {
                ::kill(child, SIGKILL);
                ::waitpid(child, nullptr, 0);
                return written;
            }
            go.write.reset();
            report_.reset();
            if (report_read) leave_when_executed(std::move(report_read));
            ::_exit(0);
        }
        report_read.reset();
        go.write.reset();
        TRY(read_to_end(go.read.get(), 1));
        parent_cpu_us_ += used;
        started_.cpu_us = 0;
        return {};
    }

    Result<> execute(const Chroot& root) {
        std::vector<std::string> words{"/" + root.exec_name(),
                                       "--id",
                                       options_.id,
                                       "--start-time-us",
                                       std::to_string(started_.monotonic_us),
                                       "--start-time-cpu-us",
                                       std::to_string(started_.cpu_us),
                                       "--parent-cpu-time-us",
                                       std::to_string(parent_cpu_us_)};
        words.insert(words.end(), options_.monitor_arguments.begin(), options_.monitor_arguments.end());
        std::vector<char*> pointers;
        pointers.reserve(words.size() + 1);
        for (std::string& word : words) pointers.push_back(word.data());
        pointers.push_back(nullptr);
        char* empty_environment[] = {nullptr};

        // Root stays what it is (it may have been asked for to configure taps); anybody else keeps no capability at
        // all.
        if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return fail_errno("no_new_privs");
        if (options_.uid == 0) {
            if (::setgroups(0, nullptr) != 0 || ::setresgid(options_.gid, options_.gid, options_.gid) != 0)
                return fail_errno("--gid");
        } else {
            int error = confine::post_fork::become_user(options_.uid, options_.gid, {}, {});
            if (error != 0) return fail_errno(error, "--uid, --gid");
        }
        // SAFETY: pointers into `words`, which lives until the image is replaced.
        ::execve(pointers.front(), pointers.data(), empty_environment);
        return fail_errno("executing " + words.front());
    }

    const Options& options_;
    StartTimes started_;
    std::int64_t parent_cpu_us_ = 0;
    Fd report_;  // to the process that was called; closed by exec
};

}  // namespace

StartTimes StartTimes::now() {
    return {.monotonic_us = clock_us(CLOCK_MONOTONIC), .cpu_us = clock_us(CLOCK_PROCESS_CPUTIME_ID)};
}

Result<> clean_process() {
    // SAFETY: close_range(2) takes plain integers.
    if (::syscall(SYS_close_range, 3U, ~0U, 0U) != 0) return fail_errno("closing descriptors");
    for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
        // A missing standard stream would be taken by the next file opened: what the monitor prints would go into it.
        if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) != fd)  // NOLINT(cppcoreguidelines-pro-type-vararg)
            return fail(Code::internal, "no /dev/null for a closed standard stream");
    if (::clearenv() != 0) return fail(Code::internal, "emptying the environment");
    return {};
}

Error run(const Options& options, const StartTimes& started) {
    Launch launch(options, started);
    auto failed = launch.go();
    Error error = std::move(failed).error();
    if (launch.report(error)) ::_exit(1);
    return error;
}

}  // namespace wherry::jailer
