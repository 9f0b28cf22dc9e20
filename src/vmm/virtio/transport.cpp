#include "vmm/virtio/transport.hpp"

#include <sys/epoll.h>

#include "base/log.hpp"

namespace wherry::vmm {

Result<> Transport::watch_queues(EventLoop& loop) {
    const std::size_t count = device_->queues().size();
    for (std::size_t i = 0; i < count; ++i) queue_events_.push_back(TRY(make_eventfd()));
    if (device_->takes_queue_events(queue_events())) return {};
    for (std::size_t i = 0; i < count; ++i) {
        const int fd = queue_events_[i].get();
        watches_.push_back(TRY(loop.watch(fd, EPOLLIN, [fd, i, target = device_](std::uint32_t) {
            drain_eventfd(fd);
            target->notify(static_cast<std::uint16_t>(i));
        })));
    }
    return {};
}

std::vector<int> Transport::queue_events() const {
    std::vector<int> events;
    for (const Fd& event : queue_events_) events.push_back(event.get());
    return events;
}

void Transport::notify_queue(std::uint32_t queue) const {
    if (queue < queue_events_.size()) signal_eventfd(queue_events_[queue].get());
}

Result<> Transport::save_slot(SlotState&) {
    return fail(Code::unimplemented, "devices on this transport cannot be in a snapshot");
}

Result<> Transport::restore_slot(const SlotState&) {
    return fail(Code::unimplemented, "devices on this transport cannot be in a snapshot");
}

TransportState Transport::save_common() const {
    return {.status = status_.load(),
            .generation = generation_.load(),
            .device_features_select = device_features_select_,
            .driver_features_select = driver_features_select_,
            .driver_features = driver_features_,
            .queue_select = queue_select_};
}

void Transport::restore_common(const TransportState& state) {
    status_ = state.status & 0xffU;
    generation_ = state.generation;
    device_features_select_ = state.device_features_select;
    driver_features_select_ = state.driver_features_select;
    driver_features_ = state.driver_features;
    queue_select_ = state.queue_select;
}

std::uint32_t Transport::read_device_features() const {
    const std::uint64_t features = device_->offered_features() | feature_version_1;
    if (device_features_select_ > 1) return 0;
    return static_cast<std::uint32_t>(features >> (32 * device_features_select_));
}

std::uint32_t Transport::read_driver_features() const {
    if (driver_features_select_ > 1) return 0;
    return static_cast<std::uint32_t>(driver_features_ >> (32 * driver_features_select_));
}

void Transport::write_driver_features(std::uint32_t value) {
    const bool negotiating = (status_.load() & (status_features_ok | status_driver_ok)) == 0;
    if (!negotiating || driver_features_select_ > 1) return;
    const std::uint64_t shift = std::uint64_t{32} * driver_features_select_;
    driver_features_ = (driver_features_ & ~(0xffffffffULL << shift)) | (std::uint64_t{value} << shift);
}

Queue* Transport::selected_queue() {
    const auto queues = device_->queues();
    return queue_select_ < queues.size() ? &queues[queue_select_] : nullptr;
}

QueueState* Transport::selected_queue_state() {
    Queue* queue = selected_queue();
    return queue == nullptr || device_->active() ? nullptr : &queue->state;
}

void Transport::set_half(GuestAddress& address, bool high, std::uint32_t value) {
    const std::uint64_t shift = high ? 32 : 0;
    address.value = (address.value & ~(0xffffffffULL << shift)) | (std::uint64_t{value} << shift);
}

void Transport::write_status(std::uint32_t value) {
    if (value == 0) {
        device_->reset();
        status_ = 0;
        driver_features_ = 0;
        device_features_select_ = driver_features_select_ = queue_select_ = 0;
        on_reset();
        return;
    }
    // Bits are only ever added; NEEDS_RESET is the device's own.
    std::uint32_t next = status_.load() | (value & 0xffU & ~status_needs_reset);
    if ((next & status_features_ok) != 0 && (status_.load() & status_features_ok) == 0) {
        const std::uint64_t offered = device_->offered_features() | feature_version_1;
        if ((driver_features_ & ~offered) != 0 || (driver_features_ & feature_version_1) == 0)
            next &= ~status_features_ok;
    }
    const bool start = (next & status_driver_ok) != 0 && (next & status_features_ok) != 0 &&
                       (next & status_failed) == 0 && !device_->active() && (status_.load() & status_needs_reset) == 0;
    status_ = next;
    if (!start) return;
    if (auto activated = device_->activate(driver_features_, memory_, *this); !activated) {
        log_error("device.not_activated", {{"id", device_->id()}, {"error", activated.error()}});
        needs_reset();
        return;
    }
    on_active();
}

}  // namespace wherry::vmm
