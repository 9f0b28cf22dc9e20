// What the keyboard controller keeps over a snapshot.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/devices/i8042/device.hpp"

namespace wherry::vmm::i8042 {

struct State {
    std::vector<std::uint8_t> output;
    std::uint8_t control = 0;
    std::uint8_t pending_command = 0;
    std::uint8_t keyboard_command = 0;

    friend bool operator==(const State&, const State&) = default;
    void fields(this auto& self, auto&& f) {
        f(self.output, self.control, self.pending_command, self.keyboard_command);
    }
};

}  // namespace wherry::vmm::i8042
