#include "vmm/devices/entropy/device.hpp"

#include <array>

#include "base/clock.hpp"

namespace wherry::vmm::entropy {
namespace {
constexpr std::array<std::uint16_t, 1> queue_sizes = {256};
}

EntropyDevice::EntropyDevice(EventLoop& loop, const Config& config)
    : Device(loop, "rng", queue_sizes), limiter_(config.limits, monotonic_ns()) {}

Result<std::shared_ptr<EntropyDevice>> EntropyDevice::create(EventLoop& loop, const Config& config) {
    std::shared_ptr<EntropyDevice> device(new EntropyDevice(loop, config));
    EntropyDevice& self = *device;
    device->timer_ = TRY(self.make_timer([&self]() -> Result<> {
        self.throttled_ = false;
        self.metrics.rate_limiter_event_count.add();
        return self.working() ? self.process() : Result<>{};
    }));
    return device;
}

void EntropyDevice::on_reset() {
    timer_->disarm();
    throttled_ = false;
}

}  // namespace wherry::vmm::entropy
