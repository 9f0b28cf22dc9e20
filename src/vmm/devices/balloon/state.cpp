#include "vmm/devices/balloon/state.hpp"

#include <algorithm>

namespace wherry::vmm::balloon {

State BalloonDevice::save() {
    return run_locked([&] {
        return State{.config = config_,
                     .device = save_common(),
                     .actual_pages = actual_pages_,
                     .poison = poison_,
                     .held_statistics = held_statistics_,
                     .last = last_,
                     .hint_command = hint_command_,
                     .next_hint_command = next_hint_command_,
                     .guest_hint_command = guest_hint_command_,
                     .acknowledge_on_stop = acknowledge_on_stop_};
    });
}

Result<> BalloonDevice::restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt) {
    return run_locked([&]() -> Result<> {
        actual_pages_ = state.actual_pages;
        poison_ = state.poison;
        last_ = state.last;
        hint_command_ = state.hint_command;
        next_hint_command_ = std::max(state.next_hint_command, 2U);  // 0 and 1 mean "stop" and "done"
        guest_hint_command_ = state.guest_hint_command;
        acknowledge_on_stop_ = state.acknowledge_on_stop;
        TRY(restore_common(state.device, std::move(memory), interrupt));
        // The guest's buffer is named by its head, which must be one of the queue's.
        if (statistics_queue_ && state.held_statistics) {
            if (*state.held_statistics >= queue(*statistics_queue_).state.size)
                return fail(Code::invalid_argument, "the balloon's state names a buffer outside of its queue");
            held_statistics_ = state.held_statistics;
        }
        return {};
    });
}

}  // namespace wherry::vmm::balloon
