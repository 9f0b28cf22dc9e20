#include "vmm/virtio/device.hpp"

#include "base/log.hpp"

namespace wherry::vmm {

Device::Device(EventLoop& loop, std::string id, std::span<const std::uint16_t> queue_sizes)
    : loop_(loop), id_(std::move(id)), alive_(std::make_shared<Device*>(this)) {
    for (std::uint16_t size : queue_sizes) queues_.emplace_back(size);
}

Device::~Device() = default;

Result<> Device::activate(std::uint64_t features, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt) {
    features_ = features;
    for (Queue& queue : queues_) {
        if (!queue.state.ready) continue;
        queue.state.event_index = (features & feature_event_index) != 0;
        queue.state.indirect = (features & feature_indirect_descriptors) != 0;
        TRY(queue.start(memory));
    }
    memory_ = std::move(memory);
    interrupt_ = &interrupt;
    broken_ = false;
    if (auto activated = on_activate(); !activated) {
        interrupt_ = nullptr;
        return activated;
    }
    // Drivers may have filled queues, and told us, before they said that they are ready (Linux' balloon does).
    for (std::size_t i = 0; i < queues_.size(); ++i)
        if (queues_[i].started()) again(static_cast<std::uint16_t>(i));
    return {};
}

void Device::reset() {
    if (interrupt_ != nullptr) on_reset();
    for (Queue& queue : queues_) queue.reset();
    interrupt_ = nullptr;
    features_ = 0;
    broken_ = false;
}

DeviceState Device::save_common() const {
    DeviceState state{.active = active(), .broken = broken_, .features = features_, .queues = {}};
    for (const Queue& queue : queues_) state.queues.push_back(queue.state);
    return state;
}

Result<> Device::restore_common(const DeviceState& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt) {
    if (state.queues.size() != queues_.size())
        return fail(Code::invalid_argument, "the state of " + id_ + " is one of another number of queues");
    for (std::size_t i = 0; i < queues_.size(); ++i) queues_[i].state = state.queues[i];
    if (!state.active) return {};
    if ((state.features & ~(offered_features() | feature_version_1)) != 0)
        return fail(Code::invalid_argument, "the state of " + id_ + " has features that this device does not");
    TRY(activate(state.features, std::move(memory), interrupt), "state of " + id_);
    broken_ = state.broken;
    return {};
}

void Device::notify(std::uint16_t index) {
    const std::lock_guard lock(mutex_);
    if (!working() || index >= queues_.size() || !queues_[index].started()) return;
    if (auto done = on_queue(index); !done) break_device(done.error());
}

void Device::signal(std::uint16_t index) {
    if (interrupt_ != nullptr && queues_[index].take_signal()) interrupt_->queue_used(index);
}

void Device::signal_configuration() {
    if (interrupt_ != nullptr) interrupt_->configuration_changed();
}

void Device::break_device(const Error& error) {
    log_error("device.broken", {{"id", id_}, {"error", error}});
    broken_ = true;
    if (interrupt_ != nullptr) interrupt_->needs_reset();
}

void Device::again(std::uint16_t index) {
    loop_.post([alive = std::weak_ptr(alive_), index] {
        if (const auto device = alive.lock()) (*device)->notify(index);
    });
}

Result<Watch> Device::watch(int fd, std::uint32_t events, std::function<Result<>(std::uint32_t events)> f) {
    return loop_.watch(fd, events, [alive = std::weak_ptr(alive_), f = std::move(f)](std::uint32_t happened) {
        const auto device = alive.lock();
        if (!device) return;
        const std::lock_guard lock((*device)->mutex_);
        if (auto done = f(happened); !done) (*device)->break_device(done.error());
    });
}

Result<std::unique_ptr<Timer>> Device::make_timer(std::function<Result<>()> f) {
    return Timer::create(loop_, [alive = std::weak_ptr(alive_), f = std::move(f)] {
        const auto device = alive.lock();
        if (!device) return;
        const std::lock_guard lock((*device)->mutex_);
        if (auto done = f(); !done) (*device)->break_device(done.error());
    });
}

}  // namespace wherry::vmm
