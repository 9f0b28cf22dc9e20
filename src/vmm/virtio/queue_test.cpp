// Virtqueues, against guests that keep the rules and guests that do not.
#include "vmm/virtio/queue.hpp"

#include <gtest/gtest.h>

#include "vmm/testing/driver.hpp"

namespace wherry::vmm {
namespace {

using testing::Descriptor;
using testing::Driver;

struct Bench {
    void start() {
        driver.configure(queue.state);
        auto started = queue.start(memory);
        ASSERT_TRUE(started) << started.error().describe();
    }
    std::shared_ptr<GuestMemory> memory = testing::make_memory();
    Driver driver{*memory, 0x1000};
    Queue queue{16};
    Chain chain;
};

class QueueTest : public ::testing::Test, public Bench {};

TEST_F(QueueTest, GivesAChainAndTakesItBack) {
    start();
    memory->write_bytes(GuestAddress{0x8000}, std::string_view("hello"));
    driver.offer_chain(
        3, {{.address = 0x8000, .bytes = 5}, {.address = 0x9000, .bytes = 16, .flags = testing::write_flag}});
    auto got = queue.pop(chain);
    ASSERT_TRUE(got && *got);
    EXPECT_EQ(chain.head, 3);
    EXPECT_EQ(chain.readable.size(), 5U);
    EXPECT_EQ(chain.writable.size(), 16U);
    EXPECT_EQ(chain.writable.copy_in(0, std::string_view("world")), 5U);
    queue.push(chain.head, 5);
    EXPECT_TRUE(queue.take_signal());
    EXPECT_FALSE(queue.take_signal());
    const auto used = driver.take_used();
    ASSERT_TRUE(used);
    EXPECT_EQ(used->id, 3U);
    EXPECT_EQ(used->bytes, 5U);
    got = queue.pop(chain);
    ASSERT_TRUE(got);
    EXPECT_FALSE(*got);
}

TEST_F(QueueTest, DataChangedAfterTheCheckChangesNothing) {
    start();
    driver.offer_chain(0, {{.address = 0x8000, .bytes = 8, .flags = testing::write_flag}});
    ASSERT_TRUE(*queue.pop(chain));
    driver.set_descriptor(0, {.address = ~0ULL, .bytes = 0xffffffff, .flags = testing::write_flag});
    EXPECT_EQ(chain.writable.size(), 8U);
    EXPECT_EQ(chain.writable.fill(0, 100, std::byte{7}), 8U);
    EXPECT_EQ(memory->read<std::uint8_t>(GuestAddress{0x8007}), 7);
    EXPECT_EQ(memory->read<std::uint8_t>(GuestAddress{0x8008}), 0);
}

TEST_F(QueueTest, RefusesALoop) {
    start();
    driver.set_descriptor(0, {.address = 0x8000, .bytes = 1, .flags = testing::next_flag, .next = 1});
    driver.set_descriptor(1, {.address = 0x8000, .bytes = 1, .flags = testing::next_flag, .next = 0});
    driver.offer(0);
    EXPECT_FALSE(queue.pop(chain));
}

TEST_F(QueueTest, RefusesWhatLiesOutside) {
    for (const Descriptor& bad :
         {Descriptor{.address = 1U << 20U, .bytes = 1}, Descriptor{.address = (1U << 20U) - 4, .bytes = 5},
          Descriptor{.address = ~0ULL, .bytes = 2}, Descriptor{.address = 0, .bytes = 0xffffffff}}) {
        Bench fresh;
        fresh.start();
        fresh.driver.offer_chain(0, {bad});
        EXPECT_FALSE(fresh.queue.pop(fresh.chain)) << bad.address;
    }
}

TEST_F(QueueTest, RefusesAHeadOrNextOutsideOfTheTable) {
    start();
    driver.offer(16);
    EXPECT_FALSE(queue.pop(chain));
    Queue second{16};
    Driver other{*memory, 0x3000};
    other.configure(second.state);
    ASSERT_TRUE(second.start(memory));
    other.set_descriptor(0, {.address = 0x8000, .bytes = 1, .flags = testing::next_flag, .next = 200});
    other.offer(0);
    EXPECT_FALSE(second.pop(chain));
}

TEST_F(QueueTest, RefusesMoreRequestsThanItHasRoomFor) {
    start();
    memory->store_release(GuestAddress{0x1402}, 17);
    EXPECT_FALSE(queue.pop(chain));
}

TEST_F(QueueTest, RefusesReadableBehindWritable) {
    start();
    driver.offer_chain(
        0, {{.address = 0x8000, .bytes = 1, .flags = testing::write_flag}, {.address = 0x8000, .bytes = 1}});
    EXPECT_FALSE(queue.pop(chain));
}

TEST_F(QueueTest, FollowsIndirectTablesOnlyWhenNegotiated) {
    start();
    const Descriptor inner{.address = 0x8000, .bytes = 9};
    memory->write(GuestAddress{0x7000}, inner);
    driver.offer_chain(0, {{.address = 0x7000, .bytes = 16, .flags = testing::indirect_flag}});
    EXPECT_FALSE(queue.pop(chain));
    queue.state.indirect = true;
    ASSERT_TRUE(*queue.pop(chain));
    EXPECT_EQ(chain.readable.size(), 9U);
}

TEST_F(QueueTest, RefusesNestedAndCrookedIndirectTables) {
    for (const Descriptor& bad : {Descriptor{.address = 0x7000, .bytes = 15, .flags = testing::indirect_flag},
                                  Descriptor{.address = 0x7000, .bytes = 0, .flags = testing::indirect_flag},
                                  Descriptor{.address = 0x7000, .bytes = 16 * 17, .flags = testing::indirect_flag},
                                  Descriptor{.address = (1U << 20U) - 8, .bytes = 16, .flags = testing::indirect_flag},
                                  Descriptor{.address = 0x6000, .bytes = 16, .flags = testing::indirect_flag}}) {
        Bench fresh;
        fresh.start();
        fresh.queue.state.indirect = true;
        // At 0x6000: a table whose only entry points to another table.
        fresh.memory->write(GuestAddress{0x6000},
                            Descriptor{.address = 0x7000, .bytes = 16, .flags = testing::indirect_flag});
        fresh.driver.offer_chain(0, {bad});
        EXPECT_FALSE(fresh.queue.pop(fresh.chain)) << bad.bytes;
    }
}

TEST_F(QueueTest, AsksForNotificationsByEventIndex) {
    queue.state.event_index = true;
    driver.configure(queue.state);
    ASSERT_TRUE(queue.start(memory));
    driver.offer_chain(0, {{.address = 0x8000, .bytes = 1}});
    ASSERT_TRUE(*queue.pop(chain));
    queue.push(chain.head, 0);
    memory->store_release(GuestAddress{0x1400 + 4 + 2 * 16}, 5);  // used_event: only at the sixth
    EXPECT_FALSE(queue.take_signal());
    ASSERT_FALSE(*queue.pop(chain));
    EXPECT_EQ(memory->load_acquire(GuestAddress{0x1800 + 4 + 8 * 16}), 1);  // avail_event
    for (int i = 0; i < 5; ++i) {
        driver.offer_chain(0, {{.address = 0x8000, .bytes = 1}});
        ASSERT_TRUE(*queue.pop(chain));
        queue.push(chain.head, 0);
    }
    EXPECT_TRUE(queue.take_signal());
}

TEST_F(QueueTest, ProvesItsPlaceBeforeItStarts) {
    const auto refuses = [&](auto change) {
        Queue other{16};
        driver.configure(other.state);
        change(other.state);
        return !other.start(memory);
    };
    EXPECT_TRUE(refuses([](QueueState& s) { s.size = 0; }));
    EXPECT_TRUE(refuses([](QueueState& s) { s.size = 12; }));
    EXPECT_TRUE(refuses([](QueueState& s) { s.size = 32; }));
    EXPECT_TRUE(refuses([](QueueState& s) { s.descriptors = GuestAddress{8}; }));
    EXPECT_TRUE(refuses([](QueueState& s) { s.used = GuestAddress{(1U << 20U) - 8}; }));
    EXPECT_TRUE(refuses([](QueueState& s) { s.available = GuestAddress{~1ULL}; }));
    EXPECT_TRUE(refuses([](QueueState& s) { s.ready = false; }));
}

}  // namespace
}  // namespace wherry::vmm
