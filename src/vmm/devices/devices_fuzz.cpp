// Requests of every virtio device, from a guest whose memory is arbitrary bytes and who rewrites it between its
// notifications.
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/log.hpp"
#include "vmm/devices/balloon/device.hpp"
#include "vmm/devices/block/device.hpp"
#include "vmm/devices/entropy/device.hpp"
#include "vmm/devices/mem/device.hpp"
#include "vmm/devices/net/device.hpp"
#include "vmm/devices/pmem/device.hpp"
#include "vmm/devices/vsock/device.hpp"
#include "vmm/testing/driver.hpp"

namespace wherry::vmm {
namespace {

struct World {
    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    std::shared_ptr<GuestMemory> memory = testing::make_memory(1U << 17U);
    testing::CountingInterrupt interrupt;
    Fd disk;
    Fd other_end;
    std::shared_ptr<mem::MemDevice> hotplug;
    std::vector<std::shared_ptr<Device>> devices;

    World() {
        set_log_level(LogLevel::off);
        // SAFETY: makes a descriptor, owned at once.
        disk = Fd(memfd_create("disk", MFD_CLOEXEC));
        if (ftruncate(disk.get(), 1 << 20) != 0) abort();
        for (bool is_read_only : {false, true}) {
            block::Config config;
            config.path = "/proc/self/fd/" + std::to_string(disk.get());
            config.is_read_only = is_read_only;
            config.cache = block::CacheType::writeback;
            devices.push_back(std::move(*block::BlockDevice::create(*loop, config)));
        }
        devices.push_back(std::move(*entropy::EntropyDevice::create(*loop, {})));
        devices.push_back(std::move(*balloon::BalloonDevice::create(*loop, {.amount_mib = 1,
                                                                            .deflate_on_oom = true,
                                                                            .stats_polling_interval_s = 1,
                                                                            .free_page_hinting = true,
                                                                            .free_page_reporting = true})));
        auto pair = std::move(*make_socket_pair(SOCK_DGRAM | SOCK_NONBLOCK));
        other_end = std::move(pair.second);
        net::Config net;
        net.tap = std::make_shared<net::Tap>();
        net.tap->queues.push_back(std::move(pair.first));
        auto mmds = std::make_shared<mmds::Service>(51200);
        if (!mmds->put(json::object{{"key", "value"}})) abort();
        devices.push_back(std::move(*net::NetDevice::create(*loop, net, mmds)));
        memory->device_memory().set_space({GuestAddress{4ULL << 30U}, 16ULL << 30U});
        const std::string path = std::filesystem::temp_directory_path() / ("vsock-fuzz-" + std::to_string(getpid()));
        devices.push_back(std::move(*vsock::VsockDevice::create(*loop, {.guest_cid = 3, .uds_path = path})));
        // Behind the others: corpus files name devices by their place.
        for (const bool is_read_only : {false, true})
            devices.push_back(std::move(*pmem::PmemDevice::create(
                *loop, {.id = "p", .path = "/proc/self/fd/" + std::to_string(disk.get()), .is_read_only = is_read_only},
                memory)));
        hotplug = std::move(*mem::MemDevice::create(*loop, {.total_size_mib = 256}, HugePages::none, memory));
        devices.push_back(hotplug);
    }
};

void run(World& world, const std::uint8_t* data, std::size_t size) {
    Device& device = *world.devices[data[0] % world.devices.size()];
    const auto bytes = std::as_bytes(std::span(data, size)).subspan(8);
    world.memory->fill(GuestAddress{0}, 1U << 17U, std::byte{0});
    const std::size_t half = bytes.size() / 2;
    world.memory->write_bytes(GuestAddress{0}, bytes.first(std::min<std::size_t>(bytes.size(), 1U << 17U)));
    {
        const std::lock_guard lock(device.mutex());
        for (std::size_t i = 0; i < device.queues().size(); ++i) {
            QueueState& state = device.queues()[i].state;
            state.ready = true;
            state.size = 16;
            state.descriptors = GuestAddress{i * 0x400};
            state.available = GuestAddress{i * 0x400 + 0x100};
            state.used = GuestAddress{0x10000 + i * 0x400};
        }
        std::uint64_t features = device.offered_features() | feature_version_1;
        if ((data[1] & 1U) != 0) features &= ~feature_event_index;
        if ((data[1] & 2U) != 0) features &= ~feature_indirect_descriptors;
        if (!device.activate(features, world.memory, world.interrupt)) {
            device.reset();
            return;
        }
        device.write_configuration(data[2], bytes.first(std::min<std::size_t>(bytes.size(), 8)));
    }
    if (&device == world.hotplug.get() && !world.hotplug->change_requested(64)) abort();
    for (std::size_t round = 0; round < 2; ++round) {
        for (std::size_t i = 0; i < device.queues().size(); ++i) device.notify(static_cast<std::uint16_t>(i));
        world.memory->write_bytes(GuestAddress{data[3]}, bytes.subspan(half));
    }
    const std::lock_guard lock(device.mutex());
    device.reset();
    if (&device == world.hotplug.get()) {  // a reset leaves what is plugged
        auto& extra = world.memory->device_memory();
        for (const GuestRange& range : extra.plugged_ranges()) {
            constexpr std::uint64_t block = 2U << 20U;
            const std::uint64_t first = (range.start.value - world.hotplug->start().value) / block;
            if (!extra.unplug(first, range.bytes / block)) abort();
        }
    }
    std::array<char, 4096> sink;
    while (recv(world.other_end.get(), sink.data(), sink.size(), MSG_DONTWAIT) > 0) {
    }
}

}  // namespace
}  // namespace wherry::vmm

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static wherry::vmm::World world;
    if (size >= 8 && size < (1U << 16U)) wherry::vmm::run(world, data, size);
    return 0;
}
