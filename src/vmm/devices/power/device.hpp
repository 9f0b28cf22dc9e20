// The sleep and reset registers of hardware-reduced ACPI (ACPI 6.5, sections 4.8.3.6 and 4.8.3.7): how a guest with
// ACPI powers off or resets.
#pragma once

#include <algorithm>
#include <functional>

#include "vmm/core/bus.hpp"

namespace wherry::vmm::power {

class PowerDevice final : public BusDevice {
  public:
    // Called on a processor's thread.
    PowerDevice(std::function<void()> power_off, std::function<void()> reset)
        : power_off_(std::move(power_off)), reset_(std::move(reset)) {}

    void read(std::uint64_t, std::span<std::byte> out) override { std::ranges::fill(out, std::byte{0}); }
    void write(std::uint64_t offset, std::span<const std::byte> data) override {
        if (data.size() != 1) return;
        const auto value = std::to_integer<unsigned>(data[0]);
        constexpr unsigned sleep_enable = 0x20, type_shift = 2, type_mask = 7, type_s5 = 5;
        if (offset == 0 && (value & sleep_enable) != 0 && ((value >> type_shift) & type_mask) == type_s5) power_off_();
        if (offset == 2 && value == 1) reset_();
    }

  private:
    std::function<void()> power_off_;
    std::function<void()> reset_;
};

}  // namespace wherry::vmm::power
