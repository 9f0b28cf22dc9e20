#include "vmm/devices/net/state.hpp"

#include "base/clock.hpp"

namespace wherry::vmm::net {

State NetDevice::save() {
    return run_locked([&] {
        State state{.config = config_,
                    .device = save_common(),
                    .active_pairs = active_pairs_,
                    .rx_limiter = rx_limiter_.save(),
                    .tx_limiter = tx_limiter_.save()};
        state.config.tap.reset();
        // Buffers taken from the guest and not filled yet are the last ones taken: whoever is restored takes them
        // again.
        for (std::size_t i = 0; i < pairs_.size(); ++i) {
            QueueState& rx = state.device.queues[i * 2];
            rx.next_available = static_cast<std::uint16_t>(rx.next_available - pairs_[i].waiting.size());
        }
        return state;
    });
}

Result<> NetDevice::restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt) {
    return run_locked([&]() -> Result<> {
        if (state.active_pairs < 1 || state.active_pairs > pairs_.size())
            return fail(Code::invalid_argument, "the state of " + id() + " has more queue pairs than the card");
        rx_limiter_ = RateLimiter(state.rx_limiter, monotonic_ns());
        tx_limiter_ = RateLimiter(state.tx_limiter, monotonic_ns());
        TRY(restore_common(state.device, std::move(memory), interrupt));
        if (active()) use_pairs(state.active_pairs);
        return {};
    });
}

}  // namespace wherry::vmm::net
