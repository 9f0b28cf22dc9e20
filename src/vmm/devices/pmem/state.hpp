// What a pmem device keeps over a snapshot; its contents stay in its files, which must be the same when it is restored.
#pragma once

#include "vmm/devices/pmem/device.hpp"

namespace wherry::vmm::pmem {

struct State {
    Config config;
    GuestRange range;  // where the window is
    DeviceState device;
    RateLimiterState limiter;

    void fields(this auto& self, auto&& f) { f(self.config, self.range, self.device, self.limiter); }
};

}  // namespace wherry::vmm::pmem
