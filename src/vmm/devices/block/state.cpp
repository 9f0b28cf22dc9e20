#include "vmm/devices/block/state.hpp"

#include <fmt/format.h>

#include "base/clock.hpp"

namespace wherry::vmm::block {

Result<State> BlockDevice::save() {
    return run_locked([&]() -> Result<State> {
        TRY(finish_requests());
        return State{.config = config_, .sectors = sectors_, .device = save_common(), .limiter = limiter_.save()};
    });
}

Result<> BlockDevice::restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt) {
    return run_locked([&]() -> Result<> {
        if (sectors_ != state.sectors)
            return fail(Code::invalid_argument, fmt::format("the disk {} has {} sectors, and had {} in the snapshot",
                                                            config_.path, sectors_, state.sectors));
        limiter_ = RateLimiter(state.limiter, monotonic_ns());
        return restore_common(state.device, std::move(memory), interrupt);
    });
}

}  // namespace wherry::vmm::block
