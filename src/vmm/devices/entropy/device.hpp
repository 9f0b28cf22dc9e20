// virtio-rng (Virtio 1.2, section 5.4): the host's random numbers.
#pragma once

#include <memory>
#include <string>

#include "base/result.hpp"
#include "vmm/core/rate_limiter.hpp"
#include "vmm/devices/entropy/metrics.hpp"
#include "vmm/virtio/device.hpp"

namespace wherry::vmm::entropy {

struct Config {
    RateLimiterConfig limits;

    void fields(this auto& self, auto&& f) { f(self.limits); }
};

struct State;

class EntropyDevice final : public Device {
  public:
    static Result<std::shared_ptr<EntropyDevice>> create(EventLoop& loop, const Config& config);

    DeviceType type() const override { return DeviceType::entropy; }
    std::uint64_t offered_features() const override { return feature_event_index | feature_indirect_descriptors; }
    std::vector<std::byte> configuration() const override { return {}; }

    // While the processors stand still, on the device thread. A state is restored into a device created from its
    // config, before anything else: invalid_argument when it cannot be one of this device.
    State save();
    Result<> restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt);

    Metrics metrics;

  protected:
    void on_reset() override;
    Result<> on_queue(std::uint16_t queue) override;

  private:
    EntropyDevice(EventLoop& loop, const Config& config);
    Result<> process();

    RateLimiter limiter_;
    std::unique_ptr<Timer> timer_;
    bool throttled_ = false;
    Chain chain_;
};

}  // namespace wherry::vmm::entropy
