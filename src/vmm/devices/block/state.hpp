// What a disk keeps over a snapshot; its contents stay in its file, which must be the same when it is restored.
#pragma once

#include <cstdint>

#include "vmm/devices/block/device.hpp"

namespace wherry::vmm::block {

struct State {
    Config config;
    std::uint64_t sectors = 0;  // the guest's idea of its size
    DeviceState device;
    RateLimiterState limiter;

    void fields(this auto& self, auto&& f) { f(self.config, self.sectors, self.device, self.limiter); }
};

}  // namespace wherry::vmm::block
