// The system calls a container may make without any --security-opt: the same rules as Docker's default profile, written
// down as facts. docs/confinement.md tells where the two differ.
#include <linux/capability.h>
#include <sched.h>
#include <sys/socket.h>

#include <cerrno>

#include "confine/seccomp_profile.hpp"

namespace wherry::confine {
namespace {

// Allowed to everyone, on every architecture. Names that an architecture lacks are without effect there.
constexpr std::string_view always =
    // files
    "access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 "
    "fadvise64 "
    "fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync "
    "fgetxattr flistxattr "
    "flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat "
    "getcwd "
    "getdents getdents64 getxattr getxattrat ioctl lchown lchown32 lgetxattr link linkat listmount listxattr "
    "listxattrat llistxattr "
    "_llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open "
    "openat "
    "openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv "
    "removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat "
    "stat64 statfs "
    "statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink "
    "unlinkat utime "
    "utimensat utimensat_time64 utimes vmsplice write writev cachestat "
    // waiting and events
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd "
    "eventfd2 "
    "fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents "
    "io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect pause poll ppoll ppoll_time64 pselect6 "
    "pselect6_time64 select "
    "signalfd signalfd4 "
    // memory
    "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 "
    "mprotect mremap mseal "
    "msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease remap_file_pages "
    // processes, threads, signals
    "arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait "
    "futex_waitv "
    "futex_wake getcpu getpgid getpgrp getpid getppid getpriority get_robust_list getrlimit getrusage getsid "
    "get_thread_area gettid "
    "ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self pidfd_open "
    "pidfd_send_signal prctl "
    "prlimit64 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn "
    "rt_sigsuspend "
    "rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam "
    "sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval "
    "sched_rr_get_interval_time64 "
    "sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp setpgid setpriority "
    "setrlimit "
    "set_robust_list setsid set_thread_area set_tid_address sigaltstack sigprocmask sigreturn sysinfo tgkill times "
    "tkill "
    "ugetrlimit uname uretprobe vfork wait4 waitid waitpid "
    // users
    "getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 getresuid "
    "getresuid32 getuid "
    "getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 "
    "setresgid "
    "setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32 "
    // time
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 "
    "clock_nanosleep "
    "clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete timer_getoverrun "
    "timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 "
    "timerfd_settime timerfd_settime64 "
    // sockets (socket itself: below)
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 "
    "recvmsg send "
    "sendmmsg sendmsg sendto setsockopt shutdown socketpair "
    // System V and POSIX queues, semaphores, shared memory
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 "
    "mq_unlink msgctl "
    "msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget "
    // the rest
    "getrandom process_vm_readv process_vm_writev ptrace "
#if defined(__x86_64__)
    "modify_ldt "
#elif defined(__aarch64__)
    "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls "
#endif
    ;

struct ByCapability {
    int capability;
    std::string_view names;
};
// Allowed to containers that hold the capability.
constexpr ByCapability by_capability[] = {
    {CAP_DAC_READ_SEARCH, "open_by_handle_at"},
    {CAP_SYS_ADMIN,
     "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules "
     "lsm_set_self_attr mount mount_setattr move_mount "
     "open_tree "
     "perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare"},
    {CAP_SYS_BOOT, "reboot"},
    {CAP_SYS_CHROOT, "chroot"},
    {CAP_SYS_MODULE, "delete_module init_module finit_module"},
    {CAP_SYS_PACCT, "acct"},
    {CAP_SYS_PTRACE, "kcmp pidfd_getfd process_madvise"},
    {CAP_SYS_RAWIO, "iopl ioperm"},
    {CAP_SYS_TIME, "settimeofday stime clock_settime clock_settime64"},
    {CAP_SYS_TTY_CONFIG, "vhangup"},
    {CAP_SYS_NICE, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"},
    {CAP_SYSLOG, "syslog"},
    {CAP_BPF, "bpf"},
    {CAP_PERFMON, "perf_event_open"},
};

SeccompRule allow(std::string_view names) {
    SeccompRule rule;
    while (!names.empty()) {
        auto end = names.find(' ');
        if (end != 0) rule.names.emplace_back(names.substr(0, end));
        if (end == std::string_view::npos) break;
        names.remove_prefix(end + 1);
    }
    return rule;
}

SeccompRule allow_when(std::string_view name, SeccompArgument argument) {
    SeccompRule rule = allow(name);
    rule.arguments.push_back(argument);
    return rule;
}

// Every family but AF_ALG (the kernel's crypto, a rich attack surface) and AF_VSOCK (it would reach the hypervisor's
// host past the network namespace). A filter cannot say "neither of two" of one argument, so: below, between, above.
void allow_sockets(SeccompProfile& profile) {
    static_assert(AF_VSOCK == AF_ALG + 2);
    profile.rules.push_back(allow_when("socket", {.index = 0, .value = AF_ALG, .op = SeccompOperator::less}));
    profile.rules.push_back(allow_when("socket", {.index = 0, .value = AF_ALG + 1, .op = SeccompOperator::equal}));
    profile.rules.push_back(allow_when("socket", {.index = 0, .value = AF_VSOCK, .op = SeccompOperator::greater}));
}

}  // namespace

SeccompProfile default_seccomp_profile(const SeccompConditions& conditions) {
    SeccompProfile profile;
    profile.default_action = SeccompAction::error_number;
    profile.default_error_number = EPERM;
#if defined(__x86_64__)
    profile.architectures = {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"};
#else
    profile.architectures = {"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"};
#endif
    profile.rules.push_back(allow(always));
    allow_sockets(profile);
    // Linux, its 32-bit face, each with and without the short names of old programs; and asking what it is.
    for (std::uint64_t personality : {0x0U, 0x8U, 0x20000U, 0x20008U, 0xffffffffU})
        profile.rules.push_back(allow_when("personality", {.index = 0, .value = personality}));
    for (const ByCapability& rule : by_capability)
        if (conditions.capabilities.contains(rule.capability)) profile.rules.push_back(allow(rule.names));
    if (!conditions.capabilities.contains(CAP_SYS_ADMIN)) {
        constexpr std::uint64_t namespaces =
            CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP;
        profile.rules.push_back(allow_when(
            "clone", {.index = 0, .value = namespaces, .value_two = 0, .op = SeccompOperator::masked_equal}));
        // Its flags lie in memory, where no filter sees them. C libraries go on with clone.
        SeccompRule clone3 = allow("clone3");
        clone3.action = SeccompAction::error_number;
        clone3.error_number = ENOSYS;
        profile.rules.push_back(std::move(clone3));
    }
    return profile;
}

}  // namespace wherry::confine
