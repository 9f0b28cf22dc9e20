#include "vmm/devices/boot_timer/device.hpp"

#include <fmt/format.h>
#include <time.h>

#include "vmm/core/logger.hpp"

namespace wherry::vmm::boot_timer {
namespace {

std::int64_t now_us(clockid_t clock) {
    timespec time = {};
    clock_gettime(clock, &time);
    return time.tv_sec * 1'000'000 + time.tv_nsec / 1000;
}

}  // namespace

void BootTimerDevice::write(std::uint64_t offset, std::span<const std::byte> data) {
    constexpr std::byte magic{123};
    if (offset != 0 || data.size() != 1 || data[0] != magic) return;
    const std::int64_t wall = now_us(CLOCK_MONOTONIC) - start_us_;
    const std::int64_t cpu = now_us(CLOCK_PROCESS_CPUTIME_ID) - start_cpu_us_;
    log_line(LogLevel::info,
             fmt::format("Guest-boot-time = {:6} us {} ms, {:6} CPU us {} CPU ms", wall, wall / 1000, cpu, cpu / 1000));
}

}  // namespace wherry::vmm::boot_timer
