#include "vmm/devices/i8042/state.hpp"

#include "vmm/core/event_loop.hpp"

namespace wherry::vmm::i8042 {

State I8042Device::save() {
    const std::lock_guard lock(mutex_);
    return {.output = {output_.begin(), output_.end()},
            .control = control_,
            .pending_command = pending_command_,
            .keyboard_command = keyboard_command_};
}

Result<> I8042Device::restore(const State& state) {
    const std::lock_guard lock(mutex_);
    if (state.output.size() > output_bytes)
        return fail(Code::invalid_argument, "the keyboard's state has more bytes than there is room for");
    output_.assign(state.output.begin(), state.output.end());
    control_ = state.control;
    pending_command_ = state.pending_command;
    keyboard_command_ = state.keyboard_command;
    return {};
}

void I8042Device::raise_pending() {
    const std::lock_guard lock(mutex_);
    if (!output_.empty() && (control_ & control_keyboard_interrupt) != 0) signal_eventfd(interrupt_.get());
}

}  // namespace wherry::vmm::i8042
