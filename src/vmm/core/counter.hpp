// Counters of metrics. Each flush reports what was counted since the one before (Firecracker's shared incremental
// metrics). Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>

namespace wherry::vmm {

class Counter {
  public:
    void add(std::uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
    std::uint64_t total() const { return value_.load(std::memory_order_relaxed); }
    // Since the last take(), and without one.
    std::uint64_t since() const { return total() - reported_.load(std::memory_order_relaxed); }
    std::uint64_t take() {
        const std::uint64_t now = total();
        return now - reported_.exchange(now, std::memory_order_relaxed);
    }

  private:
    std::atomic<std::uint64_t> value_ = 0;
    std::atomic<std::uint64_t> reported_ = 0;
};

// A value that stays what it was last set to.
class Gauge {
  public:
    void set(std::uint64_t value) { value_.store(value, std::memory_order_relaxed); }
    std::uint64_t get() const { return value_.load(std::memory_order_relaxed); }

  private:
    std::atomic<std::uint64_t> value_ = 0;
};

}  // namespace wherry::vmm
