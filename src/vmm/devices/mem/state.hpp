// What memory hotplug keeps over a snapshot. The contents of plugged blocks are guest memory like any other.
#pragma once

#include <vector>

#include "vmm/devices/mem/device.hpp"

namespace wherry::vmm::mem {

struct State {
    Config config;
    GuestAddress start;
    std::uint64_t requested_bytes = 0;
    std::vector<GuestRange> plugged;  // in order, not touching
    DeviceState device;

    void fields(this auto& self, auto&& f) {
        f(self.config, self.start, self.requested_bytes, self.plugged, self.device);
    }
};

}  // namespace wherry::vmm::mem
