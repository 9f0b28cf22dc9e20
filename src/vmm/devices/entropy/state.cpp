#include "vmm/devices/entropy/state.hpp"

#include "base/clock.hpp"

namespace wherry::vmm::entropy {

State EntropyDevice::save() {
    return run_locked([&] {
        return State{.config = {.limits = limiter_.config()}, .device = save_common(), .limiter = limiter_.save()};
    });
}

Result<> EntropyDevice::restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt) {
    return run_locked([&]() -> Result<> {
        limiter_ = RateLimiter(state.limiter, monotonic_ns());
        return restore_common(state.device, std::move(memory), interrupt);
    });
}

}  // namespace wherry::vmm::entropy
