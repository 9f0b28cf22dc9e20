#include "vmm/devices/serial/state.hpp"

namespace wherry::vmm::serial {

State SerialDevice::save() const {
    const std::lock_guard lock(mutex_);
    return {.received = {received_.begin(), received_.end()},
            .interrupt_enable = interrupt_enable_,
            .line_control = line_control_,
            .modem_control = modem_control_,
            .scratch = scratch_,
            .divisor = divisor_,
            .transmit_pending = transmit_pending_,
            .fifo_enabled = fifo_enabled_};
}

Result<> SerialDevice::restore(const State& state) {
    const std::lock_guard lock(mutex_);
    if (state.received.size() > fifo_bytes)
        return fail(Code::invalid_argument, "the serial port's state has more bytes than there is room for");
    received_.assign(state.received.begin(), state.received.end());
    interrupt_enable_ = state.interrupt_enable & 0xfU;
    line_control_ = state.line_control;
    modem_control_ = state.modem_control & 0x1fU;
    scratch_ = state.scratch;
    divisor_ = state.divisor;
    transmit_pending_ = state.transmit_pending;
    fifo_enabled_ = state.fifo_enabled;
    return {};
}

void SerialDevice::raise_pending() {
    const std::lock_guard lock(mutex_);
    update_interrupt(true);
}

}  // namespace wherry::vmm::serial
