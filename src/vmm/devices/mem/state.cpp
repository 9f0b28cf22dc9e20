#include "vmm/devices/mem/state.hpp"

namespace wherry::vmm::mem {

State MemDevice::save() {
    return run_locked([&] {
        return State{.config = config_,
                     .start = start_,
                     .requested_bytes = requested_bytes_,
                     .plugged = extra().plugged_ranges(),
                     .device = save_common()};
    });
}

Result<> MemDevice::restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt) {
    return run_locked([&]() -> Result<> {
        if (state.start != start_ || state.requested_bytes > total_bytes() ||
            state.requested_bytes % block_bytes() != 0)
            return fail(Code::invalid_argument, "the state of memory hotplug does not fit its range");
        requested_bytes_ = state.requested_bytes;
        for (const GuestRange& range : state.plugged) {
            if (range.start < start_ || range.start.value - start_.value >= total_bytes() || range.bytes == 0 ||
                range.bytes > total_bytes() - (range.start.value - start_.value) ||
                (range.start.value - start_.value) % block_bytes() != 0 || range.bytes % block_bytes() != 0)
                return fail(Code::invalid_argument, "the state of memory hotplug has blocks outside of its range");
            const std::uint64_t first = (range.start.value - start_.value) / block_bytes();
            const std::uint64_t count = range.bytes / block_bytes();
            if (extra().state(first, count) != DeviceMemory::BlockState::unplugged)
                return fail(Code::invalid_argument, "the state of memory hotplug has a block twice");
            TRY(extra().plug(first, count), "plugging the memory of the snapshot");
        }
        return restore_common(state.device, std::move(memory), interrupt);
    });
}

}  // namespace wherry::vmm::mem
