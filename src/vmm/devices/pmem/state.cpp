#include "vmm/devices/pmem/state.hpp"

#include <unistd.h>

#include "base/clock.hpp"

namespace wherry::vmm::pmem {

// Every flush that was taken from the queue is answered, also one that its limit holds back.
Result<> PmemDevice::finish_requests() {
    while (ring_ && is_flushing_) {
        TRY(ring_->wait());
        drain_eventfd(ring_->completion_event());
        ring_->reap([this](block::Pending&, std::int32_t result) { finish_flush(result >= 0); });
    }
    if (!waiting_.empty()) {
        flushing_.swap(waiting_);
        finish_flush(!file_ || fdatasync(file_.get()) == 0);
    }
    if (working()) signal(0);
    return {};
}

Result<State> PmemDevice::save() {
    return run_locked([&]() -> Result<State> {
        TRY(finish_requests());
        return State{.config = config_, .range = range_, .device = save_common(), .limiter = limiter_.save()};
    });
}

Result<> PmemDevice::restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt) {
    return run_locked([&]() -> Result<> {
        if (range_ != state.range)
            return fail(Code::invalid_argument, "the window of " + config_.id + " lies elsewhere in the snapshot");
        limiter_ = RateLimiter(state.limiter, monotonic_ns());
        return restore_common(state.device, std::move(memory), interrupt);
    });
}

}  // namespace wherry::vmm::pmem
