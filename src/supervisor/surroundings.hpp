// What a supervisor's process is made of besides its loop: its place in the system, its signals, memory for reads, and
// the giving back of memory when idle. For the main() of anything that supervises: wherry-shim, containerd's shim.
#pragma once

#include <malloc.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "supervisor/event_loop.hpp"

namespace wherry::supervisor {

// A session of its own, sub-reaper, hard to kill for lack of memory, working directory /, small heap.
Result<> become_supervisor(const std::string& process_name);

// Calls back from the loop when children have ended. One object a process. Also makes SIGTERM, SIGINT, SIGHUP, SIGPIPE
// and the like do nothing, by handlers, which execve resets: containers start with clean dispositions.
class ChildWatch {
  public:
    Result<> begin(EventLoop& loop, std::function<void()> callback);

  private:
    Fd events_;
    Watch watch_;
};

// Memory for reads that everything on the loop shares; its pages are given back when idle. Never unmapped.
Result<std::span<char>> map_scratch();

// Gives back what an idle supervisor does not need: buffers, freed heap, the stack that calls left behind, and the
// pages of the program itself, which stay in the page cache and come back when they are touched. Hundreds of idle shims
// then hold next to nothing.
class MemoryReturner {
  public:
    static constexpr std::uintptr_t page = 4096;

    explicit MemoryReturner(std::span<char> scratch);
    // Inline, so that it lies beside its caller's loop: the pages it runs on are the ones that stay.
    void run() const {
        ::madvise(scratch_.data(), scratch_.size(), MADV_DONTNEED);
        ::malloc_trim(0);
        // Not what this frame and those it calls use.
        // SAFETY: only as a number.
        std::uintptr_t here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
        std::uintptr_t end = (here - 2 * page) & ~(page - 1);
        // SAFETY: the stack grows down: nothing lives below; holes in the range are skipped.
        // NOLINTNEXTLINE(performance-no-int-to-ptr): only the kernel looks at it
        ::madvise(reinterpret_cast<void*>(end - 32 * page), 32 * page, MADV_DONTNEED);
        for (std::span<char> segment : segments_) ::madvise(segment.data(), segment.size(), MADV_DONTNEED);
    }

  private:
    std::span<char> scratch_;
    std::vector<std::span<char>> segments_;
};

// How long nothing must have happened before the memory is given back.
inline constexpr std::chrono::milliseconds idle_delay{500};

}  // namespace wherry::supervisor
