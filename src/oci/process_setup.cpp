#include "oci/process_setup.hpp"

#include <fcntl.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/log.hpp"
#include "confine/process_attributes.hpp"
#include "oci/channel.hpp"
#include "oci/mount_calls.hpp"

namespace wherry::oci {

namespace {

// <linux/sched/types.h> can't be included beside <sched.h>.
struct SchedulerAttributes {
    std::uint32_t size = sizeof(SchedulerAttributes);
    std::uint32_t policy = 0;
    std::uint64_t flags = 0;
    std::int32_t nice = 0;
    std::uint32_t priority = 0;
    std::uint64_t runtime = 0, deadline = 0, period = 0;
};

// <linux/ioprio.h> of Debian's kernel headers is no C++ (a parameter called "class").
constexpr int io_class_realtime = 1;
constexpr int io_class_best_effort = 2;
constexpr int io_class_idle = 3;
constexpr int io_class_shift = 13;
constexpr int io_who_process = 1;

// What the runtime may not give it does not promise: the specification wants a warning, not a failure.
confine::CapabilitySet known(const std::vector<std::string>& names) {
    confine::CapabilitySet set;
    for (const std::string& name : names) {
        if (auto number = confine::capability_number(name)) {
            set.add(*number);
        } else {
            log_warn("capability.unknown", {{"name", name}});
        }
    }
    return set;
}

const confine::CapabilitySet& available_capabilities() {
    static const confine::CapabilitySet set = [] {
        auto bounding = confine::bounding_set();
        return bounding ? *bounding : confine::all_capabilities();
    }();
    return set;
}

std::string quote(const std::string& text) {
    return "\"" + text + "\"";
}

std::optional<std::string> environment_value(const std::vector<std::string>& env, std::string_view name) {
    for (const std::string& entry : env) {
        if (entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=')
            return entry.substr(name.size() + 1);
    }
    return std::nullopt;
}

// 0, or why `path` can't be executed by this process as it is now.
int not_executable(const std::string& path) {
    struct stat info{};
    if (::stat(path.c_str(), &info) < 0) return errno;
    if (S_ISDIR(info.st_mode)) return EISDIR;
    if (::faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) < 0) return errno;
    return 0;
}

Result<int> scheduler_policy(const std::string& name) {
    static constexpr std::pair<std::string_view, int> policies[] = {
        {"SCHED_OTHER", SCHED_OTHER}, {"SCHED_FIFO", SCHED_FIFO}, {"SCHED_RR", SCHED_RR},
        {"SCHED_BATCH", SCHED_BATCH}, {"SCHED_ISO", 4},           {"SCHED_IDLE", SCHED_IDLE},
        {"SCHED_DEADLINE", 6}};
    for (const auto& [known_name, number] : policies) {
        if (known_name == name) return number;
    }
    return fail(Code::invalid_argument, "process.scheduler.policy: unknown " + name);
}

Result<std::uint64_t> scheduler_flag(const std::string& name) {
    static constexpr std::pair<std::string_view, std::uint64_t> flags[] = {
        {"SCHED_FLAG_RESET_ON_FORK", 0x01}, {"SCHED_FLAG_RECLAIM", 0x02},     {"SCHED_FLAG_DL_OVERRUN", 0x04},
        {"SCHED_FLAG_KEEP_POLICY", 0x08},   {"SCHED_FLAG_KEEP_PARAMS", 0x10}, {"SCHED_FLAG_UTIL_CLAMP_MIN", 0x20},
        {"SCHED_FLAG_UTIL_CLAMP_MAX", 0x40}};
    for (const auto& [known_name, flag] : flags) {
        if (known_name == name) return flag;
    }
    return fail(Code::invalid_argument, "process.scheduler.flags: unknown " + name);
}

Result<int> io_class(const std::string& name) {
    if (name == "IOPRIO_CLASS_RT") return io_class_realtime;
    if (name == "IOPRIO_CLASS_BE") return io_class_best_effort;
    if (name == "IOPRIO_CLASS_IDLE") return io_class_idle;
    return fail(Code::invalid_argument, "process.ioPriority.class: unknown " + name);
}

Result<> set_affinity(const std::vector<int>& processors) {
    if (processors.empty()) return {};
    constexpr int limit = 8192;
    cpu_set_t* set = CPU_ALLOC(limit);
    std::size_t size = CPU_ALLOC_SIZE(limit);
    CPU_ZERO_S(size, set);
    for (int processor : processors) CPU_SET_S(static_cast<std::size_t>(processor), size, set);
    int result = ::sched_setaffinity(0, size, set);
    int saved = errno;
    CPU_FREE(set);
    if (result < 0) return fail_errno(saved, "process.execCPUAffinity");
    return {};
}

}  // namespace

std::unexpected<Error> program_error(FailureKind kind, std::string message, int os_errno) {
    return fail(kind == FailureKind::executable_not_found ? Code::not_found : Code::permission_denied,
                std::move(message), os_errno);
}

KeptDescriptors descriptors_of(const ProcessPlan& plan, const std::optional<confine::CgroupJoin>& cgroup,
                               const std::optional<confine::ResctrlJoin>& resctrl) {
    KeptDescriptors kept;
    kept.keep = {0, 1, 2};
    if (cgroup) {
        kept.keep.insert(kept.keep.end(), cgroup->task_files().begin(), cgroup->task_files().end());
        kept.keep.push_back(cgroup->unified_procs());
    }
    if (resctrl) {
        std::vector<int> files = resctrl->descriptors();
        kept.keep.insert(kept.keep.end(), files.begin(), files.end());
    }
    kept.keep.insert(kept.keep.end(), plan.stdio.begin(), plan.stdio.end());
    for (const ExtraFd& extra : plan.extra_fds) {
        kept.keep.push_back(extra.fd);
        kept.highest_target = std::max(kept.highest_target, extra.number);
    }
    kept.keep.push_back(plan.init_binary.get());
    return kept;
}

Result<Fd> close_foreign_descriptors(KeptDescriptors kept, std::span<const int> more, Fd& channel) {
    std::vector<int>& keep = kept.keep;
    keep.insert(keep.end(), more.begin(), more.end());
    keep.push_back(channel.get());
    std::erase(keep, -1);
    std::ranges::sort(keep);
    keep.erase(std::ranges::unique(keep).begin(), keep.end());
    if (int error = confine::post_fork::close_all_but(keep); error != 0) return fail_errno(error, "close descriptors");
    Fd moved(::fcntl(channel.get(), F_DUPFD_CLOEXEC, kept.highest_target + 1));
    if (!moved) return fail_errno("channel");
    channel.reset();
    return moved;
}

Result<ProcessPlan> plan_process(const ProcessSpec& process, confine::SeccompProgram seccomp,
                                 std::array<int, 3> stdio) {
    ProcessPlan plan;
    plan.stdio = stdio;
    for (int& fd : plan.stdio) {
        if (fd >= 0 || process.terminal) continue;
        // The host's, proven: what a container has under that name is the container's to choose.
        if (!plan.null_device) {
            TRY(open_null_device());
            plan.null_device = TRY(open_file("/dev/null", O_RDWR));
        }
        fd = plan.null_device.get();
    }
    plan.process = process;
    plan.seccomp = std::move(seccomp);
    if (process.args.empty() || process.args.front().empty())
        return fail(Code::invalid_argument, "process.args: no command");
    if (process.capabilities) {
        const confine::CapabilitySet& available = available_capabilities();
        plan.capabilities.bounding = known(process.capabilities->bounding) & available;
        plan.capabilities.permitted = known(process.capabilities->permitted) & available;
        plan.capabilities.effective = known(process.capabilities->effective) & plan.capabilities.permitted;
        plan.capabilities.inheritable = known(process.capabilities->inheritable) & available;
        plan.capabilities.ambient =
            known(process.capabilities->ambient) & plan.capabilities.permitted & plan.capabilities.inheritable;
    }
    for (const Rlimit& limit : process.rlimits) {
        auto number = confine::resource_number(limit.type);
        if (!number) return fail(Code::invalid_argument, "process.rlimits: unknown " + limit.type);
        plan.limits.push_back({*number, limit.soft, limit.hard});
    }
    TRY(confine::check_resource_limits(plan.limits));
    if (process.scheduler) {
        TRY(scheduler_policy(process.scheduler->policy));
        for (const std::string& flag : process.scheduler->flags) TRY(scheduler_flag(flag));
    }
    if (process.io_priority) TRY(io_class(process.io_priority->class_name));
    return plan;
}

Result<> ProcessSetup::early() {
    for (int number = 1; number < NSIG; ++number) {
        // Ignored signals stay ignored over execve: a container starts with none.
        struct sigaction action{};
        if (::sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) {
            action.sa_handler = SIG_DFL;
            ::sigaction(number, &action, nullptr);
        }
    }
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    if (plan_.process.oom_score_adj && !plan_.parent_sets_oom_score) {
        int error = confine::post_fork::set_oom_score_adj(*plan_.process.oom_score_adj);
        if (error != 0) return fail_errno(error, "process.oomScoreAdj");
    }
    TRY(set_affinity(plan_.process.exec_cpu_affinity_initial));
    TRY(scheduling());
    unsigned failed = 0;
    if (int error = confine::post_fork::set_resource_limits(plan_.limits, &failed); error != 0) {
        // A limit above what this process may set; the name helps.
        return fail_errno(error, "process.rlimits: " + plan_.process.rlimits[failed].type);
    }
    return {};
}

Result<> ProcessSetup::scheduling() {
    if (plan_.process.scheduler) {
        const Scheduler& wish = *plan_.process.scheduler;
        SchedulerAttributes attributes;
        attributes.policy = static_cast<std::uint32_t>(TRY(scheduler_policy(wish.policy)));
        for (const std::string& flag : wish.flags) attributes.flags |= TRY(scheduler_flag(flag));
        attributes.nice = wish.nice;
        attributes.priority = static_cast<std::uint32_t>(wish.priority);
        attributes.runtime = wish.runtime;
        attributes.deadline = wish.deadline;
        attributes.period = wish.period;
        // SAFETY: sched_setattr(2) reads `size` bytes.
        if (::syscall(SYS_sched_setattr, 0, &attributes, 0) < 0) return fail_errno("process.scheduler");
    }
    if (plan_.process.io_priority) {
        int kind = TRY(io_class(plan_.process.io_priority->class_name));
        int value = (kind << io_class_shift) | plan_.process.io_priority->priority;
        if (::syscall(SYS_ioprio_set, io_who_process, 0, value) < 0) return fail_errno("process.ioPriority");
    }
    if (plan_.personality) {
        unsigned long persona = TRY(confine::parse_personality(plan_.personality->domain));
        if (int error = confine::post_fork::set_personality(persona); error != 0)
            return fail_errno(error, "linux.personality");
    }
    return {};
}

Result<ResolvedUser> ProcessSetup::resolve() {
    const User& wish = plan_.process.user;
    bool has_home = environment_value(plan_.process.env, "HOME").has_value();
    if (wish.username.empty() && wish.additional_group_names.empty() && has_home) {
        user_.user = wish;
        return user_;
    }
    Fd root = TRY(open_file("/", O_PATH | O_DIRECTORY));
    if (wish.username.empty() && wish.additional_group_names.empty()) {
        user_.user = wish;
        auto found = resolve_user(root.get(), std::to_string(wish.uid));
        user_.home = found ? found->home : "/";
    } else {
        std::string name =
            wish.username.empty() ? std::to_string(wish.uid) + ":" + std::to_string(wish.gid) : wish.username;
        user_ = TRY(resolve_user(root.get(), name, wish.additional_group_names));
        user_.user.umask = wish.umask;
        for (gid_t gid : wish.additional_gids) user_.user.additional_gids.push_back(gid);
    }
    if (!has_home) plan_.process.env.push_back("HOME=" + (user_.home.empty() ? "/" : user_.home));
    return user_;
}

Result<> ProcessSetup::attach_stdio(int terminal_slave) {
    std::vector<Fd> copies;  // of sources among 0-2 that would be overwritten before their turn
    for (int number = 0; number < 3; ++number) {
        int& source = plan_.stdio[static_cast<std::size_t>(number)];
        if (source < 0 || source > 2 || source == number || terminal_slave >= 0) continue;
        copies.emplace_back(::fcntl(source, F_DUPFD_CLOEXEC, 3));
        if (!copies.back()) return fail_errno("standard stream");
        source = copies.back().get();
    }
    for (int number = 0; number < 3; ++number) {
        int source = terminal_slave >= 0 ? terminal_slave : plan_.stdio[static_cast<std::size_t>(number)];
        if (source == number) {
            if (::fcntl(number, F_SETFD, 0) < 0) return fail_errno("standard stream");
        } else if (::dup3(source, number, 0) < 0) {
            return fail_errno("standard stream");
        }
        // The user may open /dev/stdout again: the stream is his. Not what is not ours to give away.
        struct stat info{};
        if (::fstat(number, &info) == 0 && info.st_uid != user_.user.uid &&
            (S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode) || terminal_slave >= 0)) {
            if (::fchown(number, user_.user.uid, info.st_gid) < 0 && errno != EPERM && errno != EINVAL &&
                errno != EROFS && errno != ENOSYS)
                return fail_errno("owner of a standard stream");
        }
    }
    return {};
}

Result<> ProcessSetup::take_terminal() {
    // SAFETY: TIOCSCTTY takes an int.
    if (::ioctl(0, TIOCSCTTY, 0) < 0) return fail_errno("controlling terminal");
    return {};
}

Result<> ProcessSetup::label() {
    const ProcessSpec& process = plan_.process;
    if (process.apparmor_profile.empty() && process.selinux_label.empty()) return {};
    Fd proc = TRY(open_file("/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW));
    TRY(prove_procfs_root(proc.get()));
    std::string thread = std::to_string(::getpid()) + "/task/" + std::to_string(::gettid()) + "/attr/";
    if (!process.apparmor_profile.empty()) {
        auto written = write_below_procfs(proc.get(), thread + "apparmor/exec", "exec " + process.apparmor_profile);
        if (!written) written = write_below_procfs(proc.get(), thread + "exec", "exec " + process.apparmor_profile);
        if (!written) return fail(Code::unimplemented, "process.apparmorProfile: AppArmor is not available", EINVAL);
    }
    if (!process.selinux_label.empty()) {
        auto written = write_below_procfs(proc.get(), thread + "exec", process.selinux_label);
        if (!written) return fail(Code::unimplemented, "process.selinuxLabel: SELinux is not available", EINVAL);
    }
    return {};
}

Result<> ProcessSetup::enter_directory() {
    Fd root = TRY(open_file("/", O_PATH | O_DIRECTORY));
    const std::string& cwd = plan_.process.cwd;
    // Never by a magic link (CVE-2024-21626: /proc/self/fd/7 of a runtime that left a host directory open).
    auto directory = open_in_root(root.get(), cwd, O_PATH | O_DIRECTORY);
    if (!directory) return fail_errno(directory.error().os_errno(), "chdir to cwd (" + quote(cwd) + ")");
    if (::fchdir(directory->get()) < 0) return fail_errno("chdir to cwd (" + quote(cwd) + ")");
    // The kernel says "(unreachable)..." for a place outside of the root.
    std::array<char, 4097> name{};
    long length = ::syscall(SYS_getcwd, name.data(), name.size() - 1);
    if (length <= 0 || name[0] != '/')
        return fail(Code::permission_denied, "current working directory is outside of the container's root");
    return {};
}

// A listener is told of by a message: the parent hands it to whoever answers.
Result<> ProcessSetup::install_seccomp(int reply) {
    int listener = -1;
    int error = confine::post_fork::install_seccomp(plan_.seccomp.instructions, plan_.seccomp.flags, &listener);
    if (error != 0) return fail_errno(error, "seccomp");
    if (!plan_.seccomp_notifies) return {};
    Fd owned(listener);
    Message message;
    message.kind = MessageKind::listener;
    return send_message(reply, message, owned.get());
}

Result<> ProcessSetup::confine(std::span<const int> keep, int reply) {
    if (plan_.new_session_keyring) {
        std::string keyring = "_ses." + plan_.name;
        if (::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, keyring.c_str()) < 0 && errno != ENOSYS &&
            errno != EDQUOT && errno != EPERM && errno != EACCES)
            return fail_errno("session keyring");
    }
    if (plan_.create_cwd) {
        Fd root = TRY(open_file("/", O_PATH | O_DIRECTORY));
        // Docker makes a missing working directory. Should it fail, entering says why.
        [[maybe_unused]] auto made = make_path_in_root(root.get(), plan_.process.cwd, PathKind::directory);
    }
    TRY(set_affinity(plan_.process.exec_cpu_affinity_final));

    // Descriptors: the wanted numbers, then nothing else. `keep` and the init binary move out of their way.
    int highest = 2;
    for (const ExtraFd& extra : plan_.extra_fds) highest = std::max(highest, extra.number);
    std::vector<int> stay{0, 1, 2};
    std::vector<std::pair<int, int>> moved;
    for (const ExtraFd& extra : plan_.extra_fds) {
        int copy = ::fcntl(extra.fd, F_DUPFD_CLOEXEC, highest + 1);
        if (copy < 0) return fail_errno("passed descriptor");
        moved.emplace_back(copy, extra.number);
    }
    if (plan_.init_binary) {
        init_fd_ = ::fcntl(plan_.init_binary.get(), F_DUPFD_CLOEXEC, highest + 1);
        if (init_fd_ < 0) return fail_errno("init binary");
        stay.push_back(init_fd_);
    }
    for (const auto& [copy, number] : moved) {
        if (::dup3(copy, number, 0) < 0) return fail_errno("passed descriptor");
        stay.push_back(number);
    }
    for (int fd : keep) {
        if (fd >= 0) stay.push_back(fd);
    }
    std::ranges::sort(stay);
    stay.erase(std::ranges::unique(stay).begin(), stay.end());
    if (int error = confine::post_fork::close_all_but(stay); error != 0) return fail_errno(error, "close descriptors");

    ::umask(user_.user.umask.value_or(022));
    auto entered = enter_directory();
    if (!entered && entered.error().os_errno() != EACCES && entered.error().os_errno() != EPERM) return entered;
    if (plan_.process.no_new_privileges) {
        if (int error = confine::post_fork::set_no_new_privileges(); error != 0)
            return fail_errno(error, "no_new_privs");
    } else if (!plan_.seccomp.empty()) {
        // Without no_new_privs installing takes CAP_SYS_ADMIN: before the capabilities go.
        TRY(install_seccomp(reply));
    }
    if (int error = confine::post_fork::become_user(
            user_.user.uid, user_.user.gid, user_.user.additional_gids, plan_.capabilities,
            plan_.setgroups_denied ? confine::post_fork::Setgroups::denied : confine::post_fork::Setgroups::ask_proc);
        error != 0)
        return fail_errno(error, "user " + std::to_string(user_.user.uid) + ":" + std::to_string(user_.user.gid) +
                                     " and capabilities");
    // A directory only the user may enter (not root without CAP_DAC_OVERRIDE).
    if (!entered) TRY(enter_directory());
    program_ = TRY(find_program());
    if (plan_.process.no_new_privileges && plan_.seccomp_notifies) TRY(install_seccomp(reply));
    return {};
}

Result<std::string> ProcessSetup::find_program() const {
    const std::string& name = plan_.process.args.front();
    auto problem = [&](int error, const std::string& detail) {
        bool missing = error == ENOENT || error == ENOTDIR || error == ELOOP || error == ENAMETOOLONG;
        return program_error(missing ? FailureKind::executable_not_found : FailureKind::executable_not_runnable,
                             "exec: " + quote(name) + ": " + detail, error);
    };
    auto words = [](int error) -> std::string {
        switch (error) {
            case EACCES:
                return "permission denied";
            case EISDIR:
                return "is a directory";
            case ENOTDIR:
                return "not a directory";
            case ENOENT:
                return "no such file or directory";
            default:
                return std::string(fail_errno(error, "").error().message().substr(2));
        }
    };
    if (name.find('/') != std::string::npos) {
        int error = not_executable(name);
        if (error == 0) return name;
        if (error == ENOENT || error == ENOTDIR) return problem(error, "stat " + name + ": " + words(error));
        return problem(error, words(error));
    }
    std::string path = environment_value(plan_.process.env, "PATH").value_or("");
    int best = ENOENT;
    std::size_t at = 0;
    while (at <= path.size() && !path.empty()) {
        std::size_t end = std::min(path.find(':', at), path.size());
        std::string folder = path.substr(at, end - at);
        std::string candidate = (folder.empty() ? std::string(".") : folder) + "/" + name;
        int error = not_executable(candidate);
        if (error == 0) return candidate;
        if (error == EACCES) best = EACCES;
        at = end + 1;
    }
    if (best == EACCES) return problem(EACCES, "permission denied");
    return problem(ENOENT, "executable file not found in $PATH");
}

Result<> ProcessSetup::execute() {
    std::vector<char*> arguments;
    std::vector<char*> environment;
    std::string separator = "--";
    std::string init_name = "docker-init";
    if (plan_.init) {
        arguments = {init_name.data(), separator.data(), program_.data()};
    }
    arguments.reserve(plan_.process.args.size() + 4);
    environment.reserve(plan_.process.env.size() + 1);
    for (std::string& argument : plan_.process.args) arguments.push_back(argument.data());
    arguments.push_back(nullptr);
    for (std::string& entry : plan_.process.env) environment.push_back(entry.data());
    environment.push_back(nullptr);
    if (plan_.process.no_new_privileges && !plan_.seccomp.empty() && !plan_.seccomp_notifies) {
        if (int error = confine::post_fork::install_seccomp(plan_.seccomp.instructions, plan_.seccomp.flags);
            error != 0)
            return fail_errno(error, "seccomp");
    }
    if (plan_.init) {
        ::execveat(init_fd_, "", arguments.data(), environment.data(), AT_EMPTY_PATH);
        return fail_errno("exec of the init");
    }
    ::execve(program_.c_str(), arguments.data(), environment.data());
    int error = errno;
    std::string what = "exec: " + quote(plan_.process.args.front()) + ": ";
    if (error == ENOENT)  // the file was there a moment ago
        return program_error(FailureKind::executable_not_found,
                             what + "no such file or directory (its interpreter or loader is missing)", error);
    if (error == ENOEXEC) return program_error(FailureKind::executable_not_runnable, what + "exec format error", error);
    if (error == EACCES) return program_error(FailureKind::executable_not_runnable, what + "permission denied", error);
    return program_error(FailureKind::executable_not_runnable, fail_errno(error, what).error().message(), error);
}

}  // namespace wherry::oci
