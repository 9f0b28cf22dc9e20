// What a network card keeps over a snapshot. Packets on their way are lost, as on any network.
#pragma once

#include <cstdint>

#include "vmm/devices/net/device.hpp"

namespace wherry::vmm::net {

struct State {
    Config config;
    DeviceState device;
    std::uint16_t active_pairs = 1;
    RateLimiterState rx_limiter;
    RateLimiterState tx_limiter;

    void fields(this auto& self, auto&& f) {
        f(self.config, self.device, self.active_pairs, self.rx_limiter, self.tx_limiter);
    }
};

}  // namespace wherry::vmm::net
