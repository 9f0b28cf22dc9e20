#include "supervisor/shim.hpp"

#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/log.hpp"
#include "supervisor/event_loop.hpp"
#include "supervisor/server.hpp"

namespace wherry::supervisor {

namespace {

constexpr std::size_t scratch_bytes = 64U << 10U;
constexpr std::chrono::milliseconds idle_delay{500};

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

struct Arguments {
    int control_fd = -1;
    std::string directory;
    std::string sandbox_id;
};

Result<Arguments> parse_arguments(std::span<char*> arguments) {
    Arguments parsed;
    for (std::size_t i = 1; i < arguments.size(); i += 2) {
        std::string_view name = arguments[i];
        if (i + 1 >= arguments.size()) return fail(Code::invalid_argument, "value missing after " + std::string(name));
        std::string_view value = arguments[i + 1];
        if (name == "--control-fd") {
            auto [rest, error] = std::from_chars(value.data(), value.data() + value.size(), parsed.control_fd);
            if (error != std::errc() || rest != value.data() + value.size() || parsed.control_fd < 0)
                return fail(Code::invalid_argument, "--control-fd: not a descriptor");
        } else if (name == "--directory") {
            parsed.directory = value;
        } else if (name == "--sandbox-id") {
            parsed.sandbox_id = value;
        } else {
            return fail(Code::invalid_argument, "unknown option: " + std::string(name));
        }
    }
    if (parsed.control_fd < 0 && parsed.directory.empty())
        return fail(Code::invalid_argument, "--control-fd or --directory is needed");
    return parsed;
}

// Memory for reads that everything on the loop shares; its pages are given back when idle.
Result<std::span<char>> map_scratch() {
    void* memory = ::mmap(nullptr, scratch_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return fail_errno("mmap");
    return std::span<char>(static_cast<char*>(memory), scratch_bytes);
}

// Gives back what an idle shim does not need: buffers, freed heap, the stack that calls left behind, and the pages of
// the program itself, which stay in the page cache and come back when they are touched. Hundreds of idle shims then
// hold next to nothing.
class MemoryReturner {
  public:
    explicit MemoryReturner(std::span<char> scratch) : scratch_(scratch) {
        ::dl_iterate_phdr(&MemoryReturner::remember, this);
    }

    void run() const {
        ::madvise(scratch_.data(), scratch_.size(), MADV_DONTNEED);
        ::malloc_trim(0);
        // Not what this frame and those it calls use.
        std::uintptr_t here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));  // SAFETY: only as a number
        std::uintptr_t end = (here - 2 * page) & ~(page - 1);
        // SAFETY: the stack grows down: nothing lives below; holes in the range are skipped.
        ::madvise(reinterpret_cast<void*>(end - 32 * page), 32 * page, MADV_DONTNEED);
        for (std::span<char> segment : segments_) ::madvise(segment.data(), segment.size(), MADV_DONTNEED);
    }

  private:
    static constexpr std::uintptr_t page = 4096;

    static int remember(dl_phdr_info* info, std::size_t, void* self) {
        for (const ElfW(Phdr) & segment : std::span(info->dlpi_phdr, info->dlpi_phnum)) {
            // Only what is never written: dropping a changed private page would lose the change.
            if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
            std::uintptr_t begin = (info->dlpi_addr + segment.p_vaddr + page - 1) & ~(page - 1);
            std::uintptr_t end = (info->dlpi_addr + segment.p_vaddr + segment.p_memsz) & ~(page - 1);
            // SAFETY: whole pages of a read-only file mapping; the kernel reads them again from the file.
            if (begin < end)
                static_cast<MemoryReturner*>(self)->segments_.emplace_back(reinterpret_cast<char*>(begin), end - begin);
        }
        return 0;
    }

    std::span<char> scratch_;
    std::vector<std::span<char>> segments_;
};

Result<> serve(const Arguments& arguments, std::string_view software) {
    // Not fatal where it fails: it may have the session already, and an OOM score can only be lowered by some.
    ::setsid();
    if (::prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) return fail_errno("become sub-reaper");
    ::prctl(PR_SET_NAME, "wherry-shim");
    static_cast<void>(write_control_file("/proc/self/oom_score_adj", "-998"));
    if (::chdir("/") < 0) return fail_errno("chdir");
    ::umask(0022);
    // A few small threads' worth of arenas are of no use here; freed memory goes back soon.
    ::mallopt(M_ARENA_MAX, 1);
    ::mallopt(M_TRIM_THRESHOLD, 64 << 10);
    ::mallopt(M_MMAP_THRESHOLD, 64 << 10);

    Fd child_events(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!child_events) return fail_errno("eventfd");
    child_event = child_events.get();
    TRY(install_signal_handlers());
    std::span<char> scratch = TRY(map_scratch());
    std::unique_ptr<EventLoop> loop = TRY(EventLoop::create());
    ServerOptions options{std::string(software), arguments.sandbox_id, arguments.directory};
    Server server(*loop, scratch, std::move(options));
    if (!arguments.directory.empty()) TRY(server.listen());
    if (arguments.control_fd >= 0) {
        if (::fcntl(arguments.control_fd, F_SETFD, FD_CLOEXEC) < 0) return fail_errno("control descriptor");
        TRY(server.adopt_connection(Fd(arguments.control_fd)));
    }
    Watch children = TRY(loop->watch(child_events.get(), EPOLLIN, [&](std::uint32_t) {
        std::uint64_t count = 0;
        [[maybe_unused]] ssize_t got = ::read(child_events.get(), &count, sizeof count);
        server.reap_children();
    }));
    MemoryReturner memory(scratch);
    loop->set_idle_callback(idle_delay, [&memory] { memory.run(); });
    loop->run();
    return {};
}

}  // namespace

int run_shim(std::span<char*> arguments, std::string_view software) {
    auto parsed = parse_arguments(arguments);
    if (!parsed) {
        log_error("shim.usage", {{"error", parsed.error()}});
        return 2;
    }
    if (auto served = serve(*parsed, software); !served) {
        log_error("shim.failed", {{"error", served.error()}});
        return 1;
    }
    return 0;
}

}  // namespace wherry::supervisor
