#include "vmm/devices/vsock/state.hpp"

#include <vector>

namespace wherry::vmm::vsock {

State VsockDevice::save() {
    return run_locked([&] {
        return State{.config = config_,
                     .device = save_common(),
                     .next_host_port = next_host_port_,
                     .reset_pending = reset_pending_};
    });
}

Result<> VsockDevice::restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt) {
    return run_locked([&]() -> Result<> {
        if (state.next_host_port < first_host_port)
            return fail(Code::invalid_argument, "the state of vsock has a port that is not the host's to choose");
        TRY(restore_common(state.device, std::move(memory), interrupt));
        next_host_port_ = state.next_host_port;
        announce_reset(state.reset_pending);
        return {};
    });
}

// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, if the driver has a buffer for it; drivers keep some there.
void VsockDevice::announce_reset(bool was_pending) {
    constexpr std::uint32_t transport_reset = 0;
    if (!working() || !queue(event_queue).started()) return;
    Queue& events = queue(event_queue);
    const auto popped = events.pop(chain_);
    if (!popped) {  // the guest's fault, as at any other time
        break_device(popped.error());
        return;
    }
    // Without a buffer a guest hears of nothing new; what it was told before may still wait for it.
    reset_pending_ = *popped || was_pending;
    event_buffers_ = events.pending();
    events.want_notification();
    if (!*popped) return;
    const bool told = chain_.writable.write(0, transport_reset);
    events.push(chain_.head, told ? sizeof transport_reset : 0);
    signal(event_queue);
}

void VsockDevice::resumed(std::chrono::nanoseconds patience) {
    run_locked([&] {
        if (reset_pending_) reset_timer_->arm(patience);
    });
}

// The guest has ended its connections without a word to their other ends, also those that it made itself meanwhile:
// whatever it still believes of those, they end now.
void VsockDevice::notice_reset_taken() {
    if (!reset_pending_ || queue(event_queue).pending() <= event_buffers_) return;
    std::vector<PortPair> ended;
    for (const auto& [ports, connection] : connections_)
        if (!connection.wants_request) ended.push_back(ports);
    for (const PortPair& ports : ended) remove(ports, true);
    release_requests();
}

void VsockDevice::release_requests() {
    reset_timer_->disarm();
    reset_pending_ = false;
    expect_answers();
}

}  // namespace wherry::vmm::vsock
