// Each device saved, written as bytes, read, and restored into another one that goes on where the first one was.
#include "vmm/devices/block/state.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/fd.hpp"
#include "vmm/devices/entropy/state.hpp"
#include "vmm/snapshot/codec.hpp"
#include "vmm/testing/device_fixture.hpp"

namespace wherry::vmm {
namespace {

template <class State>
State through_bytes(const State& state) {
    snapshot::Writer writer;
    writer(state);
    State copy;
    snapshot::Reader reader(writer.bytes());
    reader(copy);
    EXPECT_TRUE(reader.finish());
    return copy;
}

class DeviceStateTest : public testing::DeviceFixture {};

TEST_F(DeviceStateTest, EntropyGoesOn) {
    const entropy::Config config{
        .limits = {.bandwidth = BucketConfig{.size = 100, .refill_time_ms = 3'600'000}, .operations = {}}};
    auto first = *entropy::EntropyDevice::create(*loop, config);
    start(*first, feature_version_1);
    drivers[0].offer_chain(0, {{.address = 0x8000, .bytes = 60, .flags = testing::write_flag}});
    first->notify(0);
    EXPECT_EQ(drivers[0].take_used()->bytes, 60U);
    const entropy::State state = through_bytes(first->save());
    EXPECT_EQ(state.limiter.bandwidth->tokens, 40);
    auto second = *entropy::EntropyDevice::create(*loop, state.config);
    auto restored = second->restore(state, memory, interrupt);
    ASSERT_TRUE(restored) << restored.error().describe();
    drivers[0].offer_chain(0, {{.address = 0x8000, .bytes = 30, .flags = testing::write_flag}});
    second->notify(0);
    EXPECT_EQ(drivers[0].take_used()->bytes, 30U);
    drivers[0].offer_chain(0, {{.address = 0x8000, .bytes = 30, .flags = testing::write_flag}});
    second->notify(0);
    EXPECT_FALSE(drivers[0].take_used()) << "the limit is that of before";
}

TEST_F(DeviceStateTest, HostileStatesAreRefused) {
    auto device = *entropy::EntropyDevice::create(*loop, {});
    start(*device, feature_version_1);
    const entropy::State good = device->save();
    const auto refused = [&](auto change) {
        entropy::State state = good;
        change(state);
        return !(*entropy::EntropyDevice::create(*loop, {}))->restore(state, memory, interrupt);
    };
    EXPECT_FALSE(refused([](entropy::State&) {}));
    EXPECT_TRUE(refused([](entropy::State& state) { state.device.queues.clear(); }));
    EXPECT_TRUE(refused([](entropy::State& state) { state.device.features |= 1; }));
    EXPECT_TRUE(refused([](entropy::State& state) { state.device.queues[0].used.value = 1ULL << 40U; }));
    EXPECT_TRUE(refused([](entropy::State& state) { state.device.queues[0].size = 3; }));
    // A device nobody has started stands still, whatever its queues say.
    EXPECT_FALSE(refused([](entropy::State& state) {
        state.device.active = false;
        state.device.queues[0].used.value = 1ULL << 40U;
    }));
}

TEST_F(DeviceStateTest, BlockGoesOn) {
    const std::string path = std::filesystem::temp_directory_path() / ("block-state-" + std::to_string(getpid()));
    for (const auto engine : {block::IoEngine::sync, block::IoEngine::async}) {
        ASSERT_TRUE(write_file_atomic(path, std::string(4096, 'd'), 0600, Durability::none));
        drivers.clear();
        memory->fill(GuestAddress{0}, 1U << 20U, std::byte{0});
        auto first = block::BlockDevice::create(*loop, {.id = "d", .path = path, .engine = engine});
        if (!first && first.error().code() == Code::unimplemented) GTEST_SKIP() << first.error().describe();
        ASSERT_TRUE(first) << first.error().describe();
        start(**first, feature_version_1);
        const auto request = [&] {  // header, a sector, the status
            drivers[0].offer_chain(0, {{.address = 0x8000, .bytes = 16},
                                       {.address = 0x9000, .bytes = 512, .flags = testing::write_flag},
                                       {.address = 0x8100, .bytes = 1, .flags = testing::write_flag}});
        };
        request();
        (*first)->notify(0);
        auto saved = (*first)->save();  // what is on its way arrives before
        ASSERT_TRUE(saved) << saved.error().describe();
        EXPECT_EQ(drivers[0].take_used()->bytes, 513U);
        block::State state = through_bytes(*saved);
        auto second = *block::BlockDevice::create(*loop, state.config);
        auto restored = second->restore(state, memory, interrupt);
        ASSERT_TRUE(restored) << restored.error().describe();
        memory->fill(GuestAddress{0x9000}, 512, std::byte{0});
        request();
        second->notify(0);
        ASSERT_TRUE(second->save());
        EXPECT_EQ(drivers[0].take_used()->bytes, 513U);
        EXPECT_EQ(memory->read<char>(GuestAddress{0x91ff}), 'd');
        state.sectors = 9;
        EXPECT_FALSE((*block::BlockDevice::create(*loop, state.config))->restore(state, memory, interrupt));
    }
    unlink(path.c_str());
}

}  // namespace
}  // namespace wherry::vmm
