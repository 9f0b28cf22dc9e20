#include "supervisor/surroundings.hpp"

#include <link.h>
#include <malloc.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>

namespace wherry::supervisor {

namespace {

constexpr std::size_t scratch_bytes = 64U << 10U;

int child_event = -1;  // an eventfd; written by the signal handler

void on_child(int) {
    // Async-signal-safe: write(2) and errno only.
    int saved = errno;
    std::uint64_t one = 1;
    [[maybe_unused]] ssize_t written = ::write(child_event, &one, sizeof one);
    errno = saved;
}

void on_ignored(int) {}

// Handlers, not SIG_IGN: execve resets a handler to the default, so that containers start with clean dispositions.
Result<> install_signal_handlers() {
    struct sigaction action{};
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    action.sa_handler = on_ignored;
    for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2}) {
        if (::sigaction(signal, &action, nullptr) < 0) return fail_errno("sigaction");
    }
    action.sa_handler = on_child;
    action.sa_flags = SA_RESTART | SA_NOCLDSTOP;
    if (::sigaction(SIGCHLD, &action, nullptr) < 0) return fail_errno("sigaction");
    // The spawner may have blocked what we, or the containers, need.
    sigset_t none;
    sigemptyset(&none);
    if (::sigprocmask(SIG_SETMASK, &none, nullptr) < 0) return fail_errno("sigprocmask");
    return {};
}

constexpr std::uintptr_t page = MemoryReturner::page;

int remember_segment(dl_phdr_info* info, std::size_t, void* list) {
    for (const ElfW(Phdr) & segment : std::span(info->dlpi_phdr, info->dlpi_phnum)) {
        // Only what is never written: dropping a changed private page would lose the change.
        if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
        std::uintptr_t begin = (info->dlpi_addr + segment.p_vaddr + page - 1) & ~(page - 1);
        std::uintptr_t end = (info->dlpi_addr + segment.p_vaddr + segment.p_memsz) & ~(page - 1);
        // SAFETY: whole pages of a read-only file mapping; the kernel reads them again from the file.
        if (begin < end)
            // NOLINTNEXTLINE(performance-no-int-to-ptr): the dynamic linker tells addresses as numbers
            static_cast<std::vector<std::span<char>>*>(list)->emplace_back(reinterpret_cast<char*>(begin), end - begin);
    }
    return 0;
}

}  // namespace

Result<> become_supervisor(const std::string& process_name) {
    // Not fatal where it fails: it may have the session already, and an OOM score can only be lowered by some.
    ::setsid();
    if (::prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) return fail_errno("become sub-reaper");
    ::prctl(PR_SET_NAME, process_name.c_str());
    static_cast<void>(write_control_file("/proc/self/oom_score_adj", "-998"));
    if (::chdir("/") < 0) return fail_errno("chdir");
    ::umask(0022);
    // A few small threads' worth of arenas are of no use here; freed memory goes back soon.
    ::mallopt(M_ARENA_MAX, 1);
    ::mallopt(M_TRIM_THRESHOLD, 64 << 10);
    ::mallopt(M_MMAP_THRESHOLD, 64 << 10);
    return {};
}

Result<> ChildWatch::begin(EventLoop& loop, std::function<void()> callback) {
    events_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!events_) return fail_errno("eventfd");
    child_event = events_.get();
    TRY(install_signal_handlers());
    watch_ = TRY(loop.watch(events_.get(), EPOLLIN, [this, callback = std::move(callback)](std::uint32_t) {
        std::uint64_t count = 0;
        [[maybe_unused]] ssize_t got = ::read(events_.get(), &count, sizeof count);
        callback();
    }));
    return {};
}

Result<std::span<char>> map_scratch() {
    void* memory = ::mmap(nullptr, scratch_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return fail_errno("mmap");
    return std::span<char>(static_cast<char*>(memory), scratch_bytes);
}

MemoryReturner::MemoryReturner(std::span<char> scratch) : scratch_(scratch) {
    ::dl_iterate_phdr(remember_segment, &segments_);
}

}  // namespace wherry::supervisor
