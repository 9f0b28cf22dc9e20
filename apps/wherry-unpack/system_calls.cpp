#include "system_calls.hpp"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <cstddef>

namespace wherry {

namespace {

#if defined(__x86_64__)
constexpr std::uint32_t architecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr std::uint32_t architecture = AUDIT_ARCH_AARCH64;
#else
#error "name this architecture's AUDIT_ARCH"
#endif

constexpr std::array allowed{
    // the stream in, files out
    SYS_read,
    SYS_write,
    SYS_writev,
    SYS_pread64,
    SYS_pwrite64,
    SYS_lseek,
    SYS_close,
    SYS_fcntl,
    SYS_openat,
    SYS_openat2,
    SYS_newfstatat,
    SYS_fstat,
    SYS_statx,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_symlinkat,
    SYS_linkat,
    SYS_unlinkat,
    SYS_renameat,
    SYS_renameat2,
    SYS_readlinkat,
    SYS_fchown,
    SYS_fchownat,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_utimensat,
    SYS_ftruncate,
    SYS_fsetxattr,
    SYS_lsetxattr,
    SYS_fchdir,
    SYS_statfs,
    SYS_fstatfs,
    // files read
    SYS_getdents64,
    SYS_flistxattr,
    SYS_fgetxattr,
    // memory, threads, time
    SYS_mmap,
    SYS_munmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_madvise,
    SYS_brk,
    SYS_futex,
    SYS_set_robust_list,
    SYS_rseq,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_getrandom,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_restart_syscall,
    SYS_prlimit64,
    SYS_gettid,
    SYS_getpid,
    SYS_tgkill,
    SYS_exit,
    SYS_exit_group,
#if defined(__x86_64__)
    SYS_rename,
#endif
};

}  // namespace

confine::SeccompProgram allowed_system_calls() {
    confine::SeccompProgram program;
    auto& code = program.instructions;
    auto load = [&](std::size_t offset) {
        code.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset)));
    };
    auto give = [&](std::uint32_t action) { code.push_back(BPF_STMT(BPF_RET | BPF_K, action)); };
    auto equal_else_skip = [&](std::uint32_t value, std::uint8_t skip) {
        code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip));
    };
    load(offsetof(seccomp_data, arch));
    equal_else_skip(architecture, 1);
    code.push_back(BPF_STMT(BPF_JMP | BPF_JA, 1));
    give(SECCOMP_RET_KILL_PROCESS);
    load(offsetof(seccomp_data, nr));
    // clone3 hides its flags in memory: refused, so that glibc falls back to clone, which may make threads only.
    equal_else_skip(SYS_clone3, 1);
    give(SECCOMP_RET_ERRNO | ENOSYS);
    equal_else_skip(SYS_clone, 4);
    load(offsetof(seccomp_data, args));
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 0, 1));
    give(SECCOMP_RET_ALLOW);
    give(SECCOMP_RET_KILL_PROCESS);
    for (long number : allowed) {
        equal_else_skip(static_cast<std::uint32_t>(number), 1);
        give(SECCOMP_RET_ALLOW);
    }
    give(SECCOMP_RET_KILL_PROCESS);
    return program;
}

}  // namespace wherry
