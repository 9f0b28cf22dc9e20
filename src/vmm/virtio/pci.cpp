#include "vmm/virtio/pci.hpp"

#include <linux/pci_regs.h>
#include <linux/virtio_pci.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/log.hpp"
#include "vmm/pci/identities.hpp"
#include "vmm/virtio/slot_state.hpp"

namespace wherry::vmm {
namespace {

// The BAR, a page each.
constexpr std::uint32_t page = 0x1000;
constexpr std::uint32_t common_at = 0x0000, isr_at = 0x1000, device_at = 0x2000, notify_at = 0x3000, table_at = 0x4000,
                        pending_at = 0x5000;
constexpr std::uint32_t notify_stride = 4;
constexpr std::uint32_t common_bytes = 0x3c;

constexpr std::uint8_t isr_queue = 1, isr_configuration = 2;

std::uint32_t class_of(DeviceType type) {
    switch (type) {
        case DeviceType::net:
            return 0x020000;
        case DeviceType::block:
            return 0x018000;
        case DeviceType::vsock:
            return 0x078000;
        default:
            return 0x00ff00;
    }
}

// Section 4.1.3.1: fields are accessed by their own width, 64-bit ones as two halves.
std::size_t common_width(std::uint64_t offset) {
    switch (offset) {
        case VIRTIO_PCI_COMMON_STATUS:
        case VIRTIO_PCI_COMMON_CFGGENERATION:
            return 1;
        case VIRTIO_PCI_COMMON_MSIX:
        case VIRTIO_PCI_COMMON_NUMQ:
        case VIRTIO_PCI_COMMON_Q_SELECT:
        case VIRTIO_PCI_COMMON_Q_SIZE:
        case VIRTIO_PCI_COMMON_Q_MSIX:
        case VIRTIO_PCI_COMMON_Q_ENABLE:
        case VIRTIO_PCI_COMMON_Q_NOFF:
            return 2;
        default:
            return offset % 4 == 0 && offset <= VIRTIO_PCI_COMMON_Q_USEDHI ? 4 : 0;
    }
}

}  // namespace

PciTransport::PciTransport(std::shared_ptr<Device> device, std::shared_ptr<GuestMemory> memory, pci::Host& host,
                           const pci::Window& reach)
    : Transport(std::move(device), std::move(memory)),
      host_(host),
      reach_(reach),
      space_({.vendor = pci::identities::virtio_vendor,
              .device = static_cast<std::uint16_t>(pci::identities::virtio_first +
                                                   static_cast<std::uint32_t>(device_->type())),
              .class_code = class_of(device_->type()),
              .revision = 1,
              .subsystem_vendor = pci::identities::virtio_vendor,
              .subsystem = pci::identities::virtio_subsystem}),
      msix_(host, static_cast<std::uint16_t>(device_->queues().size() + 1)),
      configuration_vector_(VIRTIO_MSI_NO_VECTOR),
      queue_vectors_(device_->queues().size()) {
    for (auto& vector : queue_vectors_) vector = VIRTIO_MSI_NO_VECTOR;
}

PciTransport::~PciTransport() {
    detach();
}

Result<std::shared_ptr<PciTransport>> PciTransport::create(EventLoop& loop, std::shared_ptr<Device> device,
                                                           std::shared_ptr<GuestMemory> memory, pci::Host& host,
                                                           const pci::Window& reach, std::uint32_t address) {
    std::shared_ptr<PciTransport> transport(new PciTransport(std::move(device), std::move(memory), host, reach));
    transport->describe(address);
    TRY(transport->watch_queues(loop));
    return transport;
}

void PciTransport::describe(std::uint32_t address) {
    space_.set_memory_bar(0, bar_bytes);
    if (address != 0) {
        space_.set32(PCI_BASE_ADDRESS_0, address);
        space_.set16(PCI_COMMAND, PCI_COMMAND_MEMORY);
    }
    std::array<std::byte, 0x3a> express = {};
    const std::uint8_t at = space_.add_capability(PCI_CAP_ID_EXP, express);
    space_.set16(at + PCI_EXP_FLAGS, 2U | (PCI_EXP_TYPE_ENDPOINT << 4U));
    space_.set32(at + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER);
    space_.allow16(at + PCI_EXP_DEVCTL, 0x000f);
    space_.set32(at + PCI_EXP_LNKCAP, PCI_EXP_LNKCAP_SLS_2_5GB | (1U << 4U));
    space_.set16(at + PCI_EXP_LNKSTA, PCI_EXP_LNKSTA_CLS_2_5GB | (1U << PCI_EXP_LNKSTA_NLW_SHIFT));
    space_.set32(at + PCI_EXP_LNKCAP2, PCI_EXP_LNKCAP2_SLS_2_5GB);

    std::array<std::byte, 10> msix = {};
    msix_capability_ = space_.add_capability(PCI_CAP_ID_MSIX, msix);
    space_.set16(msix_capability_ + PCI_MSIX_FLAGS, static_cast<std::uint16_t>(msix_.count() - 1));
    space_.allow16(msix_capability_ + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    space_.set32(msix_capability_ + PCI_MSIX_TABLE, table_at);  // of BAR 0
    space_.set32(msix_capability_ + PCI_MSIX_PBA, pending_at);

    const auto queues = static_cast<std::uint32_t>(queue_vectors_.size());
    add_virtio_capability(VIRTIO_PCI_CAP_COMMON_CFG, common_at, common_bytes, 0);
    add_virtio_capability(VIRTIO_PCI_CAP_NOTIFY_CFG, notify_at, queues * notify_stride, notify_stride);
    add_virtio_capability(VIRTIO_PCI_CAP_ISR_CFG, isr_at, 1, 0);
    add_virtio_capability(VIRTIO_PCI_CAP_DEVICE_CFG, device_at, page, 0);
    add_virtio_capability(VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0);
}

// Section 4.1.4: all have the same head; one of them has a number behind it.
void PciTransport::add_virtio_capability(std::uint8_t type, std::uint32_t offset, std::uint32_t bytes,
                                         std::uint32_t more) {
    const bool is_long = type == VIRTIO_PCI_CAP_NOTIFY_CFG || type == VIRTIO_PCI_CAP_PCI_CFG;
    const std::array<std::byte, 18> body = {};
    const std::size_t body_bytes = is_long ? 18 : 14;
    const std::uint8_t at = space_.add_capability(PCI_CAP_ID_VNDR, std::span(body).first(body_bytes));
    space_.set8(at + offsetof(virtio_pci_cap, cap_len), static_cast<std::uint8_t>(body_bytes + 2));
    space_.set8(at + offsetof(virtio_pci_cap, cfg_type), type);
    space_.set32(at + offsetof(virtio_pci_cap, offset), offset);
    space_.set32(at + offsetof(virtio_pci_cap, length), bytes);
    if (type == VIRTIO_PCI_CAP_NOTIFY_CFG) space_.set32(at + sizeof(virtio_pci_cap), more);
    if (type != VIRTIO_PCI_CAP_PCI_CFG) return;
    access_capability_ = at;
    space_.allow8(at + offsetof(virtio_pci_cap, bar), 0xff);
    space_.allow32(at + offsetof(virtio_pci_cap, offset), ~0U);
    space_.allow32(at + offsetof(virtio_pci_cap, length), ~0U);
    space_.allow32(at + sizeof(virtio_pci_cap), ~0U);
}

std::optional<pci::Window> PciTransport::decoded() const {
    const std::uint32_t address = space_.bar_address(0);
    if (is_detached_ || address == 0 || (space_.get16(PCI_COMMAND) & PCI_COMMAND_MEMORY) == 0) return std::nullopt;
    if (!reach_.contains(address, bar_bytes)) return std::nullopt;
    return pci::Window{address, bar_bytes};
}

std::optional<pci::Window> PciTransport::window() {
    const std::lock_guard lock(device_->mutex());
    return decoded();
}

bool PciTransport::is_driven() {
    // Linux acknowledges a device once more after its driver has left it.
    constexpr std::uint32_t status_acknowledge = 1;
    const std::lock_guard lock(device_->mutex());
    return (status() & ~status_acknowledge) != 0;
}

// Notifications reach the kernel directly only while a driver uses the device, so that a guest that looks for the size
// of BARs, or resets a device again and again, costs nothing here.
void PciTransport::update_doorbells() {
    const auto place = decoded();
    std::optional<std::uint64_t> wanted;
    if (device_->active() && place) wanted = place->start + notify_at;
    if (wanted == doorbells_at_) return;
    if (doorbells_at_) {
        for (std::size_t i = 0; i < queue_events_.size(); ++i)
            host_.unmap_doorbell(*doorbells_at_ + i * notify_stride, queue_events_[i].get());
        doorbells_at_.reset();
    }
    if (!wanted) return;
    for (std::size_t i = 0; i < queue_events_.size(); ++i) {
        if (auto mapped = host_.map_doorbell(*wanted + i * notify_stride, queue_events_[i].get()); !mapped) {
            // Another function lies there already: a guest's mistake. Its writes come to write_region() then.
            log_debug("pci.doorbell", {{"id", device_->id()}, {"error", mapped.error()}});
            while (i > 0) {
                --i;
                host_.unmap_doorbell(*wanted + i * notify_stride, queue_events_[i].get());
            }
            return;
        }
    }
    doorbells_at_ = wanted;
}

void PciTransport::detach() {
    const std::lock_guard lock(device_->mutex());
    if (is_detached_) return;
    is_detached_ = true;
    device_->reset();
    status_ = 0;
    update_doorbells();
    watches_.clear();
}

void PciTransport::on_reset() {
    isr_ = 0;
    configuration_vector_ = VIRTIO_MSI_NO_VECTOR;
    for (auto& vector : queue_vectors_) vector = VIRTIO_MSI_NO_VECTOR;
    update_doorbells();
}

PciState PciTransport::save() {
    const std::lock_guard lock(device_->mutex());
    PciState state{.transport = save_common(),
                   .registers = space_.registers(),
                   .msix = msix_.save(),
                   .isr = isr_.load(),
                   .configuration_vector = configuration_vector_.load(),
                   .queue_vectors = {}};
    for (const auto& vector : queue_vectors_) state.queue_vectors.push_back(vector.load());
    return state;
}

Result<> PciTransport::restore(const PciState& state) {
    const std::lock_guard lock(device_->mutex());
    if (state.queue_vectors.size() != queue_vectors_.size())
        return fail(Code::invalid_argument, "the state has another number of queues");
    TRY(msix_.restore(state.msix));
    restore_common(state.transport);
    space_.restore(state.registers);
    // What the guest could not have written, a file cannot bring.
    msix_.set_control(space_.get16(msix_capability_ + PCI_MSIX_FLAGS));
    isr_ = state.isr & (isr_queue | isr_configuration);
    configuration_vector_ = known_vector(state.configuration_vector);
    for (std::size_t i = 0; i < queue_vectors_.size(); ++i) queue_vectors_[i] = known_vector(state.queue_vectors[i]);
    return {};
}

Result<> PciTransport::save_slot(SlotState& state) {
    state.pci = save();
    return {};
}

Result<> PciTransport::restore_slot(const SlotState& state) {
    if (!state.pci) return fail(Code::invalid_argument, "the device was on another transport");
    return restore(*state.pci);
}

void PciTransport::raise_pending() {
    // Interrupts that the guest has not taken are in its interrupt controllers, or pending behind a mask.
    const std::lock_guard lock(device_->mutex());
    update_doorbells();
}

void PciTransport::queue_used(std::uint16_t queue) {
    isr_.fetch_or(isr_queue);
    msix_.signal(queue_vectors_[queue]);
}

void PciTransport::signal_configuration_change() {
    isr_.fetch_or(isr_configuration);
    msix_.signal(configuration_vector_);
}

void PciTransport::configuration_changed() {
    generation_.fetch_add(1);
    signal_configuration_change();
}

void PciTransport::needs_reset() {
    status_.fetch_or(status_needs_reset);
    signal_configuration_change();
}

std::optional<PciTransport::Access> PciTransport::indirect_access() const {
    const std::size_t at = access_capability_;
    const Access access = {.offset = space_.get32(at + offsetof(virtio_pci_cap, offset)),
                           .bytes = space_.get32(at + offsetof(virtio_pci_cap, length))};
    if (space_.get8(at + offsetof(virtio_pci_cap, bar)) != 0) return std::nullopt;
    if (access.bytes != 1 && access.bytes != 2 && access.bytes != 4) return std::nullopt;
    if (access.offset % access.bytes != 0 || access.offset > bar_bytes - access.bytes) return std::nullopt;
    return access;
}

namespace {

bool overlaps(std::uint32_t offset, std::size_t bytes, std::size_t at, std::size_t count) {
    return offset < at + count && at < offset + bytes;
}

}  // namespace

void PciTransport::read_configuration(std::uint32_t offset, std::span<std::byte> out) {
    const std::lock_guard lock(device_->mutex());
    const std::size_t data_at = access_capability_ + sizeof(virtio_pci_cap);
    if (overlaps(offset, out.size(), data_at, 4)) {
        if (const auto access = indirect_access()) {
            std::array<std::byte, 4> data = {};
            read_region(access->offset, std::span(data).first(access->bytes));
            std::uint32_t value = 0;
            std::memcpy(&value, data.data(), sizeof value);
            space_.set32(data_at, value);
        }
    }
    space_.read(offset, out);
}

void PciTransport::write_configuration(std::uint32_t offset, std::span<const std::byte> data) {
    const std::lock_guard lock(device_->mutex());
    if (is_detached_) return;
    space_.write(offset, data);
    msix_.set_control(space_.get16(msix_capability_ + PCI_MSIX_FLAGS));
    update_doorbells();
    const std::size_t data_at = access_capability_ + sizeof(virtio_pci_cap);
    if (!overlaps(offset, data.size(), data_at, 4)) return;
    if (const auto access = indirect_access()) {
        const std::uint32_t value = space_.get32(data_at);
        write_region(access->offset, std::as_bytes(std::span(&value, 1)).first(access->bytes));
    }
}

void PciTransport::read_memory(std::uint64_t offset, std::span<std::byte> out) {
    const std::uint64_t at = offset % page;
    // Vectors have a lock of their own: an interrupt is masked while the device works.
    if (offset - at == table_at) return msix_.read_table(at, out);
    if (offset - at == pending_at) return msix_.read_pending(at, out);
    const std::lock_guard lock(device_->mutex());
    read_region(offset, out);
}

void PciTransport::write_memory(std::uint64_t offset, std::span<const std::byte> data) {
    const std::uint64_t at = offset % page;
    if (offset - at == table_at) return msix_.write_table(at, data);
    if (offset - at == notify_at) {
        if (at % notify_stride == 0) notify_queue(static_cast<std::uint32_t>(at / notify_stride));
        return;
    }
    const std::lock_guard lock(device_->mutex());
    write_region(offset, data);
}

void PciTransport::read_region(std::uint64_t offset, std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0});
    const std::uint64_t at = offset % page;
    switch (offset - at) {
        case common_at:
            // A whole 64-bit field, or one field of its own width.
            if (out.size() == 8 && at >= VIRTIO_PCI_COMMON_Q_DESCLO && at % 8 == 0) {
                read_region(offset, out.first(4));
                read_region(offset + 4, out.last(4));
            } else if (out.size() == common_width(at)) {
                const std::uint32_t value = read_common(at);
                std::memcpy(out.data(), &value, out.size());
            }
            return;
        case isr_at:
            if (at == 0) out[0] = static_cast<std::byte>(isr_.exchange(0));  // reading it clears it
            return;
        case device_at: {
            const std::vector<std::byte> bytes = device_->configuration();
            if (at < bytes.size()) std::memcpy(out.data(), bytes.data() + at, std::min(out.size(), bytes.size() - at));
            return;
        }
        case table_at:
            return msix_.read_table(at, out);
        case pending_at:
            return msix_.read_pending(at, out);
        default:
            return;
    }
}

void PciTransport::write_region(std::uint64_t offset, std::span<const std::byte> data) {
    if (is_detached_) return;
    const std::uint64_t at = offset % page;
    switch (offset - at) {
        case common_at:
            if (data.size() == 8 && at >= VIRTIO_PCI_COMMON_Q_DESCLO && at % 8 == 0) {
                write_region(offset, data.first(4));
                write_region(offset + 4, data.last(4));
            } else if (data.size() == common_width(at)) {
                std::uint32_t value = 0;
                std::memcpy(&value, data.data(), data.size());
                write_common(at, value);
            }
            return;
        case device_at:
            device_->write_configuration(static_cast<std::uint32_t>(at), data);
            return;
        case notify_at:
            if (at % notify_stride == 0) notify_queue(static_cast<std::uint32_t>(at / notify_stride));
            return;
        case table_at:
            return msix_.write_table(at, data);
        default:
            return;
    }
}

std::uint16_t PciTransport::known_vector(std::uint32_t value) const {
    return value < msix_.count() ? static_cast<std::uint16_t>(value) : std::uint16_t{VIRTIO_MSI_NO_VECTOR};
}

std::uint32_t PciTransport::read_common(std::uint64_t offset) {
    switch (offset) {
        case VIRTIO_PCI_COMMON_DFSELECT:
            return device_features_select_;
        case VIRTIO_PCI_COMMON_DF:
            return read_device_features();
        case VIRTIO_PCI_COMMON_GFSELECT:
            return driver_features_select_;
        case VIRTIO_PCI_COMMON_GF:
            return read_driver_features();
        case VIRTIO_PCI_COMMON_MSIX:
            return configuration_vector_;
        case VIRTIO_PCI_COMMON_NUMQ:
            return static_cast<std::uint32_t>(queue_vectors_.size());
        case VIRTIO_PCI_COMMON_STATUS:
            return status();
        case VIRTIO_PCI_COMMON_CFGGENERATION:
            return generation_.load() & 0xffU;
        case VIRTIO_PCI_COMMON_Q_SELECT:
            return queue_select_;
        default:
            break;
    }
    const Queue* queue = selected_queue();
    if (queue == nullptr) return offset == VIRTIO_PCI_COMMON_Q_MSIX ? VIRTIO_MSI_NO_VECTOR : 0;
    const QueueState& state = queue->state;
    switch (offset) {
        case VIRTIO_PCI_COMMON_Q_SIZE:
            return state.size;
        case VIRTIO_PCI_COMMON_Q_MSIX:
            return queue_vectors_[queue_select_];
        case VIRTIO_PCI_COMMON_Q_ENABLE:
            return state.ready ? 1 : 0;
        case VIRTIO_PCI_COMMON_Q_NOFF:
            return queue_select_;
        case VIRTIO_PCI_COMMON_Q_DESCLO:
            return static_cast<std::uint32_t>(state.descriptors.value);
        case VIRTIO_PCI_COMMON_Q_DESCHI:
            return static_cast<std::uint32_t>(state.descriptors.value >> 32U);
        case VIRTIO_PCI_COMMON_Q_AVAILLO:
            return static_cast<std::uint32_t>(state.available.value);
        case VIRTIO_PCI_COMMON_Q_AVAILHI:
            return static_cast<std::uint32_t>(state.available.value >> 32U);
        case VIRTIO_PCI_COMMON_Q_USEDLO:
            return static_cast<std::uint32_t>(state.used.value);
        case VIRTIO_PCI_COMMON_Q_USEDHI:
            return static_cast<std::uint32_t>(state.used.value >> 32U);
        default:
            return 0;
    }
}

void PciTransport::write_common(std::uint64_t offset, std::uint32_t value) {
    switch (offset) {
        case VIRTIO_PCI_COMMON_DFSELECT:
            device_features_select_ = value;
            return;
        case VIRTIO_PCI_COMMON_GFSELECT:
            driver_features_select_ = value;
            return;
        case VIRTIO_PCI_COMMON_GF:
            write_driver_features(value);
            return;
        case VIRTIO_PCI_COMMON_MSIX:
            configuration_vector_ = known_vector(value);
            return;
        case VIRTIO_PCI_COMMON_STATUS:
            write_status(value);
            return;
        case VIRTIO_PCI_COMMON_Q_SELECT:
            queue_select_ = value;
            return;
        case VIRTIO_PCI_COMMON_Q_MSIX:
            if (queue_select_ < queue_vectors_.size()) queue_vectors_[queue_select_] = known_vector(value);
            return;
        default:
            write_queue(offset, value);
    }
}

void PciTransport::write_queue(std::uint64_t offset, std::uint32_t value) {
    QueueState* selected = selected_queue_state();
    if (selected == nullptr) return;
    QueueState& state = *selected;
    switch (offset) {
        case VIRTIO_PCI_COMMON_Q_SIZE:
            state.size = static_cast<std::uint16_t>(value);
            return;
        case VIRTIO_PCI_COMMON_Q_ENABLE:
            if (value == 1) state.ready = true;  // it cannot be taken back but by a reset
            return;
        case VIRTIO_PCI_COMMON_Q_DESCLO:
        case VIRTIO_PCI_COMMON_Q_DESCHI:
            set_half(state.descriptors, offset == VIRTIO_PCI_COMMON_Q_DESCHI, value);
            return;
        case VIRTIO_PCI_COMMON_Q_AVAILLO:
        case VIRTIO_PCI_COMMON_Q_AVAILHI:
            set_half(state.available, offset == VIRTIO_PCI_COMMON_Q_AVAILHI, value);
            return;
        case VIRTIO_PCI_COMMON_Q_USEDLO:
        case VIRTIO_PCI_COMMON_Q_USEDHI:
            set_half(state.used, offset == VIRTIO_PCI_COMMON_Q_USEDHI, value);
            return;
        default:
            return;
    }
}

}  // namespace wherry::vmm
