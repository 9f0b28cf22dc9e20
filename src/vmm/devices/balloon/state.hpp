// What the balloon keeps over a snapshot.
#pragma once

#include <cstdint>
#include <optional>

#include "vmm/devices/balloon/device.hpp"

namespace wherry::vmm::balloon {

struct State {
    Config config;
    DeviceState device;
    std::uint32_t actual_pages = 0;
    std::uint32_t poison = 0;
    std::optional<std::uint16_t> held_statistics;
    Statistics last;
    std::uint32_t hint_command = 0;
    std::uint32_t next_hint_command = 2;
    std::optional<std::uint32_t> guest_hint_command;
    bool acknowledge_on_stop = true;

    void fields(this auto& self, auto&& f) {
        f(self.config, self.device, self.actual_pages, self.poison, self.held_statistics, self.last, self.hint_command,
          self.next_hint_command, self.guest_hint_command, self.acknowledge_on_stop);
    }
};

}  // namespace wherry::vmm::balloon
