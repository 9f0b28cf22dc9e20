// virtio-mem: what a driver may ask, what a hostile one asks, save and restore.
#include "vmm/devices/mem/device.hpp"

#include <gtest/gtest.h>
#include <linux/virtio_mem.h>

#include <cstring>
#include <deque>

#include "vmm/devices/mem/state.hpp"
#include "vmm/snapshot/codec.hpp"
#include "vmm/testing/driver.hpp"

namespace wherry::vmm::mem {
namespace {

using testing::Driver;
constexpr std::uint64_t mib = 1U << 20U, gib = 1024 * mib;
constexpr GuestAddress start_address{4 * gib};
constexpr std::uint64_t features = feature_version_1 | (1ULL << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE);

class MemTest : public ::testing::Test {
  protected:
    MemTest() { memory->device_memory().set_space({start_address, 64 * gib}); }
    std::shared_ptr<MemDevice> make() {
        auto device = *MemDevice::create(*loop, {.total_size_mib = 1024}, HugePages::none, memory);
        drivers.clear();
        drivers.emplace_back(*memory, 0x1000);
        drivers[0].configure(device->queues()[0].state);
        auto activated = device->activate(features, memory, interrupt);
        EXPECT_TRUE(activated) << activated.error().describe();
        return device;
    }
    struct Reply {
        unsigned type = 99;
        unsigned state = 99;
    };
    Reply ask(MemDevice& device, std::uint16_t type, std::uint64_t address = 0, std::uint16_t blocks = 0) {
        virtio_mem_req request = {};
        request.type = type;
        request.u.plug.addr = address;
        request.u.plug.nb_blocks = blocks;
        memory->write(GuestAddress{0x8000}, request);
        memory->fill(GuestAddress{0x9000}, 16, std::byte{0xff});
        drivers[0].offer_chain(0, {{.address = 0x8000, .bytes = sizeof request},
                                   {.address = 0x9000, .bytes = 16, .flags = testing::write_flag}});
        device.notify(0);
        if (!drivers[0].take_used()) return {};
        return {.type = *memory->read<std::uint16_t>(GuestAddress{0x9000}),
                .state = *memory->read<std::uint16_t>(GuestAddress{0x9008})};
    }
    virtio_mem_config configuration(const MemDevice& device) {
        virtio_mem_config out = {};
        const auto bytes = device.configuration();
        EXPECT_EQ(bytes.size(), sizeof out);
        std::memcpy(&out, bytes.data(), sizeof out);
        return out;
    }
    std::unique_ptr<EventLoop> loop = std::move(*EventLoop::create());
    std::shared_ptr<GuestMemory> memory = testing::make_memory();
    testing::CountingInterrupt interrupt;
    std::deque<Driver> drivers;
};

TEST_F(MemTest, PlugsUpToWhatIsRequested) {
    auto device = make();
    auto layout = configuration(*device);
    EXPECT_EQ(layout.addr, start_address.value);
    EXPECT_EQ(layout.block_size, 2 * mib);
    EXPECT_EQ(layout.region_size, gib);
    EXPECT_EQ(layout.plugged_size, 0U);
    const std::uint64_t at = layout.addr;
    EXPECT_EQ(ask(*device, VIRTIO_MEM_REQ_PLUG, at, 1).type, unsigned{VIRTIO_MEM_RESP_NACK});
    ASSERT_TRUE(device->change_requested(8));
    EXPECT_EQ(interrupt.configurations, 1U);
    EXPECT_EQ(ask(*device, VIRTIO_MEM_REQ_PLUG, at, 3).type, unsigned{VIRTIO_MEM_RESP_ACK});
    EXPECT_EQ(ask(*device, VIRTIO_MEM_REQ_PLUG, at + 6 * mib, 2).type, unsigned{VIRTIO_MEM_RESP_NACK});
    EXPECT_EQ(ask(*device, VIRTIO_MEM_REQ_PLUG, at, 1).type, unsigned{VIRTIO_MEM_RESP_ERROR}) << "twice";
    EXPECT_EQ(ask(*device, VIRTIO_MEM_REQ_PLUG, at + 1022 * mib, 1).type, unsigned{VIRTIO_MEM_RESP_ACK});
    EXPECT_EQ(configuration(*device).plugged_size, 8 * mib);
    EXPECT_EQ(device->status().plugged_size_mib, 8U);
    EXPECT_EQ(ask(*device, VIRTIO_MEM_REQ_STATE, at, 3).state, unsigned{VIRTIO_MEM_STATE_PLUGGED});
    EXPECT_EQ(ask(*device, VIRTIO_MEM_REQ_STATE, at, 4).state, unsigned{VIRTIO_MEM_STATE_MIXED});
    EXPECT_EQ(ask(*device, VIRTIO_MEM_REQ_STATE, at + 6 * mib, 4).state, unsigned{VIRTIO_MEM_STATE_UNPLUGGED});
    EXPECT_TRUE(memory->contains(GuestAddress{at}, 6 * mib));
    ASSERT_TRUE(device->change_requested(0));
    EXPECT_EQ(ask(*device, VIRTIO_MEM_REQ_UNPLUG, at, 4).type, unsigned{VIRTIO_MEM_RESP_ERROR}) << "one is not plugged";
    EXPECT_EQ(ask(*device, VIRTIO_MEM_REQ_UNPLUG, at + 2 * mib, 1).type, unsigned{VIRTIO_MEM_RESP_ACK});
    EXPECT_EQ(configuration(*device).plugged_size, 6 * mib);
    // A reset of the device leaves memory as it is; the next driver finds out.
    device->reset();
    EXPECT_EQ(configuration(*device).plugged_size, 6 * mib);
    drivers[0] = Driver(*memory, 0x1000);
    memory->fill(GuestAddress{0x1000}, 0x1000, std::byte{0});
    drivers[0].configure(device->queues()[0].state);
    ASSERT_TRUE(device->activate(features, memory, interrupt));
    EXPECT_EQ(ask(*device, VIRTIO_MEM_REQ_UNPLUG_ALL).type, unsigned{VIRTIO_MEM_RESP_ACK});
    EXPECT_EQ(configuration(*device).plugged_size, 0U);
}

TEST_F(MemTest, RequestsOutsideOfTheRangeAreErrors) {
    auto device = make();
    ASSERT_TRUE(device->change_requested(1024));
    const std::uint64_t at = start_address.value;
    const auto refused = [&](std::uint64_t address, std::uint16_t blocks) {
        bool is_refused = true;
        for (const int type : {VIRTIO_MEM_REQ_PLUG, VIRTIO_MEM_REQ_UNPLUG, VIRTIO_MEM_REQ_STATE})
            is_refused = is_refused &&
                         ask(*device, static_cast<std::uint16_t>(type), address, blocks).type == VIRTIO_MEM_RESP_ERROR;
        return is_refused;
    };
    EXPECT_TRUE(refused(at, 0));
    EXPECT_TRUE(refused(at - 2 * mib, 1));
    EXPECT_TRUE(refused(at + 1, 1));
    EXPECT_TRUE(refused(at + mib, 1));
    EXPECT_TRUE(refused(at + gib, 1));
    EXPECT_TRUE(refused(at + 1022 * mib, 2));
    EXPECT_TRUE(refused(at, 513));
    EXPECT_TRUE(refused(at, UINT16_MAX));
    EXPECT_TRUE(refused(0, 1));
    EXPECT_TRUE(refused(UINT64_MAX, UINT16_MAX));
    EXPECT_TRUE(refused(UINT64_MAX - 2 * mib + 1, UINT16_MAX));
    for (const int type : {4, 5, 255, 65535})
        EXPECT_EQ(ask(*device, static_cast<std::uint16_t>(type), at, 1).type, unsigned{VIRTIO_MEM_RESP_ERROR});
    EXPECT_EQ(device->status().plugged_size_mib, 0U);
    EXPECT_EQ(ask(*device, VIRTIO_MEM_REQ_PLUG, at, 512).type, unsigned{VIRTIO_MEM_RESP_ACK});
    EXPECT_EQ(interrupt.resets, 0U);
    drivers[0].offer_chain(
        0, {{.address = 0x8000, .bytes = 23}, {.address = 0x9000, .bytes = 16, .flags = testing::write_flag}});
    device->notify(0);
    EXPECT_EQ(interrupt.resets, 1U);
}

TEST_F(MemTest, DevicesDoNotReachWhatIsNotPlugged) {
    auto device = make();
    ASSERT_TRUE(device->change_requested(2));
    const std::uint64_t at = start_address.value;
    ASSERT_EQ(ask(*device, VIRTIO_MEM_REQ_PLUG, at, 1).type, unsigned{VIRTIO_MEM_RESP_ACK});
    drivers[0].offer_chain(0, {{.address = 0x8000, .bytes = sizeof(virtio_mem_req)},
                               {.address = at + 0x1000, .bytes = 16, .flags = testing::write_flag}});
    device->notify(0);
    EXPECT_TRUE(drivers[0].take_used()) << "requests may lie in plugged memory";
    drivers[0].offer_chain(0, {{.address = 0x8000, .bytes = sizeof(virtio_mem_req)},
                               {.address = at + 2 * mib - 8, .bytes = 16, .flags = testing::write_flag}});
    device->notify(0);
    EXPECT_FALSE(drivers[0].take_used());
    EXPECT_EQ(interrupt.resets, 1U);
}

TEST_F(MemTest, OldDriversAreRefused) {
    auto device = *MemDevice::create(*loop, {.total_size_mib = 128}, HugePages::none, memory);
    drivers.emplace_back(*memory, 0x1000);
    drivers[0].configure(device->queues()[0].state);
    EXPECT_FALSE(device->activate(feature_version_1, memory, interrupt));
    EXPECT_FALSE(device->change_requested(2)) << "there is no driver";
}

TEST_F(MemTest, RequestedSizesAreChecked) {
    auto device = make();
    EXPECT_FALSE(device->change_requested(3));
    EXPECT_FALSE(device->change_requested(1026));
    EXPECT_FALSE(device->change_requested(UINT64_MAX));
    EXPECT_TRUE(device->change_requested(1024));
    EXPECT_EQ(device->status().requested_size_mib, 1024U);
}

TEST_F(MemTest, GoesOnAfterASnapshot) {
    auto first = make();
    ASSERT_TRUE(first->change_requested(8));
    const std::uint64_t at = start_address.value;
    ASSERT_EQ(ask(*first, VIRTIO_MEM_REQ_PLUG, at, 1).type, unsigned{VIRTIO_MEM_RESP_ACK});
    ASSERT_EQ(ask(*first, VIRTIO_MEM_REQ_PLUG, at + 128 * mib, 2).type, unsigned{VIRTIO_MEM_RESP_ACK});
    snapshot::Writer writer;
    writer(first->save());
    State state;
    snapshot::Reader reader(writer.bytes());
    reader(state);
    ASSERT_TRUE(reader.finish());
    ASSERT_EQ(state.plugged.size(), 2U);

    const auto restore = [&](const State& from) -> Result<std::shared_ptr<MemDevice>> {
        auto other = testing::make_memory();
        other->device_memory().set_space({start_address, 64 * gib});
        std::array<std::byte, 0x1000> rings = {};
        memory->read_bytes(GuestAddress{0x1000}, rings);
        other->write_bytes(GuestAddress{0x1000}, rings);
        auto device = TRY(MemDevice::create(*loop, from.config, HugePages::none, other, from.start));
        TRY(device->restore(from, other, interrupt));
        memory = other;
        return device;
    };
    const auto before = memory;
    const auto refused = [&](auto change) {
        State changed = state;
        change(changed);
        memory = before;
        return !restore(changed);
    };
    EXPECT_TRUE(refused([](State& s) { s.requested_bytes = 2 * gib; }));
    EXPECT_TRUE(refused([](State& s) { s.requested_bytes = 1; }));
    EXPECT_TRUE(refused([](State& s) { s.plugged[0].bytes = mib; }));
    EXPECT_TRUE(refused([](State& s) { s.plugged[0].bytes = 2 * gib; }));
    EXPECT_TRUE(refused([](State& s) { s.plugged[0].start.value -= 2 * mib; }));
    EXPECT_TRUE(refused([](State& s) { s.plugged[0].start.value = UINT64_MAX; }));
    EXPECT_TRUE(refused([](State& s) { s.plugged[1] = s.plugged[0]; }));
    EXPECT_TRUE(refused([](State& s) { s.device.queues.clear(); }));
    memory = before;
    auto second = restore(state);
    ASSERT_TRUE(second) << second.error().describe();
    EXPECT_EQ((*second)->status().plugged_size_mib, 6U);
    drivers[0] = Driver(*memory, 0x1000);
    memory->fill(GuestAddress{0x1000}, 0x1000, std::byte{0});
    (*second)->queues()[0].state.next_available = (*second)->queues()[0].state.next_used = 0;
    EXPECT_EQ(ask(**second, VIRTIO_MEM_REQ_UNPLUG, at + 128 * mib, 2).type, unsigned{VIRTIO_MEM_RESP_ACK});
    EXPECT_EQ((*second)->status().plugged_size_mib, 2U);
}

}  // namespace
}  // namespace wherry::vmm::mem
