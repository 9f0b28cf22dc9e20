#include "confinement.hpp"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <pwd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <span>
#include <vector>

#include "base/fd.hpp"
#include "confine/capabilities.hpp"
#include "confine/seccomp.hpp"

namespace wherry {

namespace {

#if defined(__x86_64__)
constexpr std::uint32_t architecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr std::uint32_t architecture = AUDIT_ARCH_AARCH64;
#endif

// Files, memory, time, and messages over descriptors that are there.
constexpr std::array common_calls{
    SYS_read,          SYS_write,           SYS_readv,           SYS_writev,       SYS_pread64,
    SYS_pwrite64,      SYS_openat,          SYS_close,           SYS_fstat,        SYS_newfstatat,
    SYS_statx,         SYS_lseek,           SYS_fcntl,           SYS_getdents64,   SYS_fsync,
    SYS_fdatasync,     SYS_ftruncate,       SYS_renameat,        SYS_renameat2,    SYS_unlinkat,
    SYS_mkdirat,       SYS_fchmod,          SYS_fchmodat,        SYS_faccessat,    SYS_faccessat2,
    SYS_readlinkat,    SYS_utimensat,       SYS_getcwd,          SYS_mmap,         SYS_munmap,
    SYS_mprotect,      SYS_mremap,          SYS_madvise,         SYS_brk,          SYS_futex,
    SYS_clock_gettime, SYS_clock_nanosleep, SYS_nanosleep,       SYS_gettimeofday, SYS_getrandom,
    SYS_recvfrom,      SYS_sendto,          SYS_recvmsg,         SYS_sendmsg,      SYS_ppoll,
    SYS_rt_sigaction,  SYS_rt_sigprocmask,  SYS_rt_sigreturn,    SYS_sigaltstack,  SYS_getpid,
    SYS_gettid,        SYS_tgkill,          SYS_getuid,          SYS_geteuid,      SYS_getgid,
    SYS_getegid,       SYS_sched_yield,     SYS_restart_syscall, SYS_exit,         SYS_exit_group};
#if defined(__x86_64__)
// What C libraries call by their older names where there are two.
constexpr std::array older_calls{SYS_poll,   SYS_open,  SYS_stat,     SYS_lstat,      SYS_access, SYS_rename,
                                 SYS_unlink, SYS_mkdir, SYS_readlink, SYS_epoll_wait, SYS_time};
#else
constexpr std::array<int, 0> older_calls{};
#endif
// Sockets and threads.
constexpr std::array server_calls{SYS_socket,          SYS_connect,        SYS_bind,
                                  SYS_listen,          SYS_accept4,        SYS_getsockname,
                                  SYS_getpeername,     SYS_setsockopt,     SYS_getsockopt,
                                  SYS_shutdown,        SYS_recvmmsg,       SYS_sendmmsg,
                                  SYS_epoll_create1,   SYS_epoll_ctl,      SYS_epoll_pwait,
                                  SYS_eventfd2,        SYS_clone3,         SYS_clone,
                                  SYS_set_robust_list, SYS_rseq,           SYS_sched_getaffinity,
                                  SYS_prlimit64,       SYS_uname,          SYS_prctl,
                                  SYS_membarrier,      SYS_ioctl,          SYS_dup,
                                  SYS_pipe2,           SYS_sysinfo,        SYS_socketpair,
                                  SYS_timerfd_create,  SYS_timerfd_settime};

constexpr sock_filter statement(unsigned code, std::uint32_t value) {
    return {static_cast<std::uint16_t>(code), 0, 0, value};
}

}  // namespace

Result<> confine_system_calls(ConfinedProcess process) {
    std::vector<std::uint32_t> calls;
    auto add = [&](std::span<const int> numbers) {
        for (int number : numbers) calls.push_back(static_cast<std::uint32_t>(number));
    };
    add(common_calls);
    add(older_calls);
    if (process == ConfinedProcess::server) add(server_calls);
    confine::SeccompProgram program;
    std::vector<sock_filter>& code = program.instructions;
    code.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
    code.push_back({BPF_JMP | BPF_JEQ | BPF_K, 1, 0, architecture});
    code.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
    code.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
    for (std::uint32_t number : calls) {
        code.push_back({BPF_JMP | BPF_JEQ | BPF_K, 0, 1, number});
        code.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    }
    code.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM));
    program.flags = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG;
    TRY(confine::install_seccomp(program));
    return {};
}

Result<> leave_privileges(const std::string& user) {
    uid_t uid = ::getuid();
    gid_t gid = ::getgid();
    if (!user.empty()) {
        const passwd* entry = ::getpwnam(user.c_str());
        if (entry == nullptr) return fail(Code::not_found, "no user " + user);
        uid = entry->pw_uid;
        gid = entry->pw_gid;
    }
    // Groups can be set by who may; whoever runs this as an ordinary user has nothing to give up.
    if (::geteuid() != 0) {
        if (uid != ::geteuid()) return fail(Code::permission_denied, "only root can change to user " + user);
        return {};
    }
    confine::Capabilities kept;
    if (uid == 0)
        kept = confine::container_capabilities(TRY(confine::capabilities_of_this_thread()).permitted &
                                               confine::CapabilitySet{CAP_DAC_OVERRIDE});
    if (int problem = confine::post_fork::become_user(uid, gid, {}, kept); problem != 0)
        return fail_errno(problem, user.empty() ? "capabilities" : "change to user " + user);
    return {};
}

Result<> confine_files(const std::vector<std::string>& folders) {
    constexpr std::uint64_t read_access = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
    constexpr std::uint64_t write_access = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG |
                                           LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE;
    constexpr std::uint64_t other_access = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                                           LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_SOCK |
                                           LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
                                           LANDLOCK_ACCESS_FS_MAKE_SYM;
    const landlock_ruleset_attr handled{.handled_access_fs = read_access | write_access | other_access};
    Fd rules(static_cast<int>(::syscall(SYS_landlock_create_ruleset, &handled, sizeof handled.handled_access_fs, 0)));
    if (!rules) {
        if (errno == ENOSYS || errno == EOPNOTSUPP) return {};
        return fail_errno("landlock");
    }
    auto allow = [&](const std::string& path, std::uint64_t access) -> Result<> {
        Fd place(::open(path.c_str(), O_PATH | O_CLOEXEC));
        if (!place) return fail_errno(path);
        const landlock_path_beneath_attr rule{.allowed_access = access, .parent_fd = place.get()};
        if (::syscall(SYS_landlock_add_rule, rules.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
            return fail_errno("landlock: " + path);
        return {};
    };
    for (const std::string& folder : folders) TRY(allow(folder, read_access | write_access));
    for (const char* path : {"/usr", "/etc/ssl"})
        if (path_exists(path)) TRY(allow(path, read_access));
    if (::syscall(SYS_landlock_restrict_self, rules.get(), 0) < 0) return fail_errno("landlock");
    return {};
}

}  // namespace wherry
