// What the entropy device keeps over a snapshot.
#pragma once

#include "vmm/devices/entropy/device.hpp"

namespace wherry::vmm::entropy {

struct State {
    Config config;
    DeviceState device;
    RateLimiterState limiter;

    void fields(this auto& self, auto&& f) { f(self.config, self.device, self.limiter); }
};

}  // namespace wherry::vmm::entropy
