#include "fs/jail.hpp"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "base/fd.hpp"
#include "confine/jail.hpp"
#include "confine/namespaces.hpp"
#include "vmm/core/seccomp_filter.hpp"

namespace wherry::fs {
namespace {

void add_all(std::vector<vmm::AllowedCall>& to, std::initializer_list<int> numbers) {
    for (int number : numbers) to.push_back({number, {}});
}

// A user without rights makes mounts only where it is root of a user namespace; files keep its own id.
Result<> enter_user_namespace() {
    const uid_t uid = geteuid();
    const gid_t gid = getegid();
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return fail_errno("user namespace");
    TRY(write_control_file("/proc/self/setgroups", "deny"));
    TRY(write_control_file("/proc/self/uid_map", std::to_string(uid) + " " + std::to_string(uid) + " 1"));
    return write_control_file("/proc/self/gid_map", std::to_string(gid) + " " + std::to_string(gid) + " 1");
}

}  // namespace

confine::SeccompProgram allowed_system_calls() {
    std::vector<vmm::AllowedCall> calls;
    // The most frequent first.
    add_all(calls, {SYS_epoll_wait, SYS_epoll_pwait, SYS_read, SYS_write, SYS_preadv, SYS_pwritev, SYS_statx,
                    SYS_openat2, SYS_openat, SYS_close, SYS_fstat, SYS_newfstatat, SYS_getdents64, SYS_lseek});
    // What requests do.
    add_all(calls, {SYS_mkdirat,   SYS_mknodat,    SYS_symlinkat,    SYS_linkat,   SYS_unlinkat,       SYS_renameat,
                    SYS_renameat2, SYS_readlinkat, SYS_fchownat,     SYS_fchmodat, SYS_utimensat,      SYS_ftruncate,
                    SYS_fallocate, SYS_fsync,      SYS_fdatasync,    SYS_syncfs,   SYS_fstatfs,        SYS_fsetxattr,
                    SYS_fgetxattr, SYS_flistxattr, SYS_fremovexattr, SYS_flock,    SYS_copy_file_range});
    // As whom: within what the process may anyway.
    add_all(calls, {SYS_setfsuid, SYS_setfsgid, SYS_capset});
    for (int command : {F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_DUPFD_CLOEXEC, F_GETFL, F_SETFL, F_ADD_SEALS})
        calls.push_back({SYS_fcntl, {{.index = 1, .mask = 0xffffffff, .value = static_cast<std::uint64_t>(command)}}});
    // The monitor's socket and eventfds.
    add_all(calls, {SYS_recvmsg, SYS_recvfrom, SYS_sendmsg, SYS_epoll_ctl, SYS_timerfd_settime});
    // Once, at the beginning.
    add_all(calls, {SYS_epoll_create1, SYS_eventfd2, SYS_timerfd_create, SYS_rt_sigaction, SYS_capget, SYS_geteuid});
    // Requests in flight, for monitors that do not bring the memory along.
    add_all(calls, {SYS_memfd_create});
    // Memory, never executable; threads that wait for locks, and their signal; time.
    calls.push_back({SYS_mmap, {{.index = 2, .mask = PROT_EXEC, .value = 0}}});
    calls.push_back({SYS_mprotect, {{.index = 2, .mask = PROT_EXEC, .value = 0}}});
    calls.push_back({SYS_clone, {{.index = 0, .mask = CLONE_THREAD, .value = CLONE_THREAD}}});
    add_all(calls, {SYS_munmap,          SYS_mremap,    SYS_madvise,         SYS_brk,          SYS_futex,
                    SYS_set_robust_list, SYS_rseq,      SYS_rt_sigprocmask,  SYS_rt_sigreturn, SYS_tgkill,
                    SYS_getpid,          SYS_gettid,    SYS_sched_yield,     SYS_getrandom,    SYS_clock_gettime,
                    SYS_clock_nanosleep, SYS_nanosleep, SYS_restart_syscall, SYS_exit,         SYS_exit_group});
    confine::SeccompProgram program = vmm::make_filter(calls, SECCOMP_RET_KILL_PROCESS);
    // clone3 hides its flags in memory: refused, so that glibc falls back to clone. Behind the first four
    // instructions, which check the architecture and load the call's number.
    constexpr std::size_t behind_the_head = 4;
    const std::vector<sock_filter> refusal = {BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
                                              BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS)};
    program.instructions.insert(program.instructions.begin() + behind_the_head, refusal.begin(), refusal.end());
    return program;
}

Result<> enter_jail(const Options& options, std::vector<int> keep) {
    confine::Jail jail;
    const bool is_root = geteuid() == 0;
    if (is_root) {
        if (setgroups(0, nullptr) != 0) return fail_errno("setgroups");
    } else {
        if (options.uid || options.gid) return fail(Code::permission_denied, "--uid and --gid are for root");
        TRY(enter_user_namespace());
    }
    const Fd directory = TRY(open_file(options.shared_directory, O_PATH | O_DIRECTORY), "shared directory");
    jail.root_kind = confine::JailRoot::pivot;
    jail.root = directory.get();
    jail.root_attributes = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW;
    if (options.is_read_only) jail.root_attributes |= MOUNT_ATTR_RDONLY;
    jail.namespaces = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
    jail.uid = options.uid;
    jail.gid = options.gid;
    if (is_root && !options.uid) {
        // Owners and modes of files, files of any user, and making them as their owners.
        for (auto capability :
             {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID, CAP_SETUID, CAP_SETGID})
            jail.keep_capabilities.add(capability);
        // A read-only folder is read by root alone.
        if (options.is_read_only) {
            jail.keep_capabilities = {};
            for (auto capability : {CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH}) jail.keep_capabilities.add(capability);
        }
    }
    jail.limits = {{RLIMIT_CORE, 0, 0}, {RLIMIT_NOFILE, options.descriptors, options.descriptors}};
    jail.keep_fds = std::move(keep);
#if !defined(__SANITIZE_ADDRESS__) && !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer)
    jail.seccomp = allowed_system_calls();
#endif
    return confine::enter_jail(std::move(jail));
}

}  // namespace wherry::fs
