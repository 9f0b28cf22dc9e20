// A register that a guest's init writes 123 to; the monitor logs how long the guest took to get there.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vmm/core/bus.hpp"

namespace wherry::vmm::boot_timer {

class BootTimerDevice final : public BusDevice {
  public:
    // When the process started, by CLOCK_MONOTONIC and by its CPU time.
    BootTimerDevice(std::int64_t start_us, std::int64_t start_cpu_us)
        : start_us_(start_us), start_cpu_us_(start_cpu_us) {}
    void read(std::uint64_t, std::span<std::byte> out) override { std::ranges::fill(out, std::byte{0}); }
    void write(std::uint64_t offset, std::span<const std::byte> data) override;

  private:
    std::int64_t start_us_;
    std::int64_t start_cpu_us_;
};

}  // namespace wherry::vmm::boot_timer
