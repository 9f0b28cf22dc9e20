// What the vsock device keeps over a snapshot: no connection, as their other ends stay with the first machine.
#pragma once

#include "vmm/devices/vsock/device.hpp"

namespace wherry::vmm::vsock {

struct State {
    Config config;
    DeviceState device;
    std::uint32_t next_host_port = 0;  // the guest may still hold the ports before it
    bool reset_pending = false;        // told of the last restore, and has not taken it yet

    void fields(this auto& self, auto&& f) { f(self.config, self.device, self.next_host_port, self.reset_pending); }
};

}  // namespace wherry::vmm::vsock
