// Reads, writes and flushes of one file through an io_uring that is restricted to them at registration: fixed file,
// no other operations, whatever becomes of this process.
#pragma once

#include <liburing.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm::block {

enum class Operation : unsigned char { read, write, flush };

// One request on its way; kept until it has completed.
struct Pending {
    std::uint16_t head = 0;
    Operation operation = Operation::read;
    std::uint64_t offset = 0;
    GuestBuffers data;
    GuestBuffers status;
};

class AsyncEngine {
  public:
    static constexpr unsigned depth = 256;

    // unimplemented when the kernel or its policy has no io_uring for us.
    static Result<std::unique_ptr<AsyncEngine>> create(int file);
    ~AsyncEngine();
    AsyncEngine(const AsyncEngine&) = delete;
    AsyncEngine& operator=(const AsyncEngine&) = delete;

    int completion_event() const { return event_.get(); }
    bool full() const { return free_.empty(); }
    std::size_t in_flight() const { return depth - free_.size(); }
    // Takes the request; it starts with the next submit().
    void add(Pending request);
    Result<> submit();
    // For each completed request, with the result of its system call.
    void reap(const std::function<void(Pending&, std::int32_t result)>& f);
    // Blocks until something has completed (at once when nothing is in flight).
    Result<> wait();
    // Blocks until nothing is in flight, and drops the results.
    void drain();
    // Later requests go to another file. Nothing may be in flight.
    Result<> change_file(int file);

  private:
    AsyncEngine() = default;
    io_uring ring_ = {};
    bool ready_ = false;
    Fd event_;
    std::vector<Pending> slots_;
    std::vector<unsigned> free_;
};

}  // namespace wherry::vmm::block
