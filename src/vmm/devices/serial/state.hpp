// What the serial port keeps over a snapshot: its registers and what was typed but not read.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/devices/serial/device.hpp"

namespace wherry::vmm::serial {

struct State {
    std::vector<std::uint8_t> received;
    std::uint8_t interrupt_enable = 0;
    std::uint8_t line_control = 0;
    std::uint8_t modem_control = 0;
    std::uint8_t scratch = 0;
    std::uint16_t divisor = 0;
    bool transmit_pending = false;
    bool fifo_enabled = false;

    friend bool operator==(const State&, const State&) = default;
    void fields(this auto& self, auto&& f) {
        f(self.received, self.interrupt_enable, self.line_control, self.modem_control, self.scratch, self.divisor,
          self.transmit_pending, self.fifo_enabled);
    }
};

}  // namespace wherry::vmm::serial
