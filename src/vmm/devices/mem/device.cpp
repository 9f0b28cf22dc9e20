#include "vmm/devices/mem/device.hpp"

#include <fmt/format.h>
#include <linux/virtio_mem.h>

#include <array>
#include <cstring>

namespace wherry::vmm::mem {
namespace {

constexpr std::array<std::uint16_t, 1> queue_sizes = {64};

}  // namespace

MemDevice::MemDevice(EventLoop& loop, const Config& config) : Device(loop, "memory", queue_sizes), config_(config) {}

Result<std::shared_ptr<MemDevice>> MemDevice::create(EventLoop& loop, const Config& config, HugePages huge_pages,
                                                     std::shared_ptr<GuestMemory> memory,
                                                     std::optional<GuestAddress> start) {
    std::shared_ptr<MemDevice> device(new MemDevice(loop, config));
    auto& extra = memory->device_memory();
    device->start_ = start ? *start : TRY(extra.place(device->total_bytes(), range_alignment));
    TRY(extra.add_pluggable({.range = {device->start_, device->total_bytes()},
                             .block_bytes = device->block_bytes(),
                             .slot_bytes = config.slot_size_mib << 20U,
                             .huge_pages = huge_pages}));
    device->memory_owner_ = std::move(memory);
    return device;
}

std::uint64_t MemDevice::offered_features() const {
    return feature_event_index | feature_indirect_descriptors | (1ULL << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE);
}

Result<> MemDevice::on_activate() {
    // Section 5.15.6.1 leaves it to the device. Without the feature a driver may read what is not plugged.
    if (has_feature(VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE)) return {};
    metrics.activate_fails.add();
    return fail(Code::invalid_argument, "the driver wants to read memory that is not plugged (Linux before 5.16)");
}

std::vector<std::byte> MemDevice::configuration() const {
    virtio_mem_config layout = {};
    layout.block_size = block_bytes();
    layout.addr = start_.value;
    layout.region_size = layout.usable_region_size = total_bytes();
    layout.plugged_size = extra().plugged_bytes();
    layout.requested_size = requested_bytes_;
    std::vector<std::byte> bytes(sizeof layout);
    std::memcpy(bytes.data(), &layout, sizeof layout);
    return bytes;
}

Result<> MemDevice::change_requested(std::uint64_t requested_size_mib) {
    return run_locked([&]() -> Result<> {
        if (!active())
            return fail(Code::conflict, "Device is inactive. Check if virtio-mem driver is enabled in guest kernel.");
        if (requested_size_mib > config_.total_size_mib)
            return fail(Code::invalid_argument, "Requested size cannot be greater than total size");
        if (requested_size_mib % config_.block_size_mib != 0)
            return fail(Code::invalid_argument, fmt::format("Requested size must be a multiple of block size ({} MiB)",
                                                            config_.block_size_mib));
        requested_bytes_ = requested_size_mib << 20U;
        signal_configuration();
        return {};
    });
}

Status MemDevice::status() {
    return run_locked([&] {
        return Status{.plugged_size_mib = extra().plugged_bytes() >> 20U,
                      .requested_size_mib = requested_bytes_ >> 20U};
    });
}

}  // namespace wherry::vmm::mem
