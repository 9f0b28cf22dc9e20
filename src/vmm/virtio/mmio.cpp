#include "vmm/virtio/mmio.hpp"

#include <algorithm>
#include <cstring>

#include "vmm/virtio/slot_state.hpp"

namespace wherry::vmm {
namespace {

constexpr std::uint32_t interrupt_used = 1;
constexpr std::uint32_t interrupt_configuration = 2;

constexpr std::uint32_t vendor_id = 0;

// Table 4.1.
enum Register : std::uint64_t {
    magic_value = 0x000,
    version = 0x004,
    device_id = 0x008,
    vendor = 0x00c,
    device_features = 0x010,
    device_features_select = 0x014,
    driver_features = 0x020,
    driver_features_select = 0x024,
    queue_select = 0x030,
    queue_size_max = 0x034,
    queue_size = 0x038,
    queue_ready = 0x044,
    queue_notify = mmio_queue_notify,
    interrupt_status = 0x060,
    interrupt_acknowledge = 0x064,
    status = 0x070,
    queue_descriptors_low = 0x080,
    queue_descriptors_high = 0x084,
    queue_driver_low = 0x090,
    queue_driver_high = 0x094,
    queue_device_low = 0x0a0,
    queue_device_high = 0x0a4,
    shared_memory_length_low = 0x0b0,
    shared_memory_length_high = 0x0b4,
    shared_memory_base_low = 0x0b8,
    shared_memory_base_high = 0x0bc,
    configuration_generation = 0x0fc,
    configuration_space = 0x100,
};

}  // namespace

Result<std::shared_ptr<MmioTransport>> MmioTransport::create(EventLoop& loop, std::shared_ptr<Device> device,
                                                             std::shared_ptr<GuestMemory> memory, Fd interrupt) {
    std::shared_ptr<MmioTransport> transport(
        new MmioTransport(std::move(device), std::move(memory), std::move(interrupt)));
    TRY(transport->watch_queues(loop));
    return transport;
}

Result<> MmioTransport::save_slot(SlotState& state) {
    const std::lock_guard lock(device_->mutex());
    state.mmio = MmioState{.transport = save_common(), .interrupt_status = interrupt_status_.load()};
    return {};
}

Result<> MmioTransport::restore_slot(const SlotState& state) {
    if (!state.mmio) return fail(Code::invalid_argument, "the device was on another transport");
    const std::lock_guard lock(device_->mutex());
    restore_common(state.mmio->transport);
    interrupt_status_ = state.mmio->interrupt_status & (interrupt_used | interrupt_configuration);
    return {};
}

void MmioTransport::raise_pending() {
    if (interrupt_status_.load() != 0) signal_eventfd(interrupt_.get());
}

void MmioTransport::queue_used(std::uint16_t) {
    interrupt_status_.fetch_or(interrupt_used);
    signal_eventfd(interrupt_.get());
}

int MmioTransport::queue_event(std::uint16_t) {
    others_interrupt_ = true;
    return interrupt_.get();
}

void MmioTransport::on_reset() {
    interrupt_status_ = 0;
    others_interrupt_ = false;
}

void MmioTransport::configuration_changed() {
    generation_.fetch_add(1);
    interrupt_status_.fetch_or(interrupt_configuration);
    signal_eventfd(interrupt_.get());
}

void MmioTransport::needs_reset() {
    status_.fetch_or(status_needs_reset);
    interrupt_status_.fetch_or(interrupt_configuration);
    signal_eventfd(interrupt_.get());
}

void MmioTransport::read(std::uint64_t offset, std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0});
    if (offset >= configuration_space) {
        std::vector<std::byte> bytes;
        {
            const std::lock_guard lock(device_->mutex());
            bytes = device_->configuration();
        }
        const std::uint64_t at = offset - configuration_space;
        if (at < bytes.size()) std::memcpy(out.data(), bytes.data() + at, std::min(out.size(), bytes.size() - at));
        return;
    }
    if (out.size() != 4 || offset % 4 != 0) return;
    const std::uint32_t value = read_register(offset);
    std::memcpy(out.data(), &value, sizeof value);
}

std::uint32_t MmioTransport::read_register(std::uint64_t offset) {
    switch (offset) {
        case magic_value:
            return 0x74726976;  // "virt"
        case version:
            return 2;
        case device_id:
            return static_cast<std::uint32_t>(device_->type());
        case vendor:
            return vendor_id;
        case interrupt_status:
            return interrupt_status_.load() | (others_interrupt_.load() ? interrupt_used : 0);
        case Register::status:
            return status_.load();
        case configuration_generation:
            return generation_.load();
        case shared_memory_length_low:
        case shared_memory_length_high:
        case shared_memory_base_low:
        case shared_memory_base_high:
            return 0xffffffff;  // no such region
        default:
            break;
    }
    const std::lock_guard lock(device_->mutex());
    const Queue* queue = selected_queue();
    switch (offset) {
        case device_features:
            return read_device_features();
        case queue_size_max:
            return queue != nullptr ? queue->max_size() : 0;
        case queue_ready:
            return queue != nullptr && queue->state.ready ? 1 : 0;
        default:
            return 0;
    }
}

void MmioTransport::write(std::uint64_t offset, std::span<const std::byte> data) {
    if (offset >= configuration_space) {
        const std::lock_guard lock(device_->mutex());
        device_->write_configuration(static_cast<std::uint32_t>(offset - configuration_space), data);
        return;
    }
    if (data.size() != 4 || offset % 4 != 0) return;
    std::uint32_t value = 0;
    std::memcpy(&value, data.data(), sizeof value);
    write_register(offset, value);
}

void MmioTransport::write_register(std::uint64_t offset, std::uint32_t value) {
    if (offset == interrupt_acknowledge) {
        interrupt_status_.fetch_and(~value);
        return;
    }
    if (offset == queue_notify) {  // KVM takes most of these away from us
        notify_queue(value);
        return;
    }
    const std::lock_guard lock(device_->mutex());
    switch (offset) {
        case device_features_select:
            device_features_select_ = value;
            return;
        case driver_features_select:
            driver_features_select_ = value;
            return;
        case driver_features:
            write_driver_features(value);
            return;
        case queue_select:
            queue_select_ = value;
            return;
        case Register::status:
            write_status(value);
            return;
        default:
            write_queue(offset, value);
    }
}

void MmioTransport::write_queue(std::uint64_t offset, std::uint32_t value) {
    QueueState* selected = selected_queue_state();
    if (selected == nullptr) return;
    QueueState& state = *selected;
    switch (offset) {
        case queue_size:
            state.size = static_cast<std::uint16_t>(std::min<std::uint32_t>(value, UINT16_MAX));
            return;
        case queue_ready:
            state.ready = value == 1;
            return;
        case queue_descriptors_low:
        case queue_descriptors_high:
            set_half(state.descriptors, offset == queue_descriptors_high, value);
            return;
        case queue_driver_low:
        case queue_driver_high:
            set_half(state.available, offset == queue_driver_high, value);
            return;
        case queue_device_low:
        case queue_device_high:
            set_half(state.used, offset == queue_device_high, value);
            return;
        default:
            return;
    }
}

}  // namespace wherry::vmm
