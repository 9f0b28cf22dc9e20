// The two pages as a guest reads them, before and after a restore.
#include "vmm/devices/generation_id/device.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

#include "vmm/testing/driver.hpp"

namespace wherry::vmm::generation_id {
namespace {

constexpr GuestAddress id_page{0x2000}, clock_page{0x3000};
using Id = std::array<std::uint64_t, 2>;

struct Guest {
    std::shared_ptr<GuestMemory> memory = testing::make_memory();
    Id id() const { return *memory->read<Id>(id_page); }
    template <class T>
    T clock(std::uint64_t offset) const {
        return *memory->read<T>(clock_page + offset);
    }
};

TEST(GenerationId, ChangesAreSeenAndTold) {
    Guest guest;
    auto event = make_eventfd();
    ASSERT_TRUE(event);
    const int interrupt = event->get();
    auto device = GenerationIdDevice::create(guest.memory, id_page, clock_page, std::move(*event));
    ASSERT_TRUE(device) << device.error().describe();
    // Offsets and values of linux/vmclock-abi.h.
    EXPECT_EQ(guest.clock<std::uint32_t>(0x00), 0x4b4c4356U);
    EXPECT_EQ(guest.clock<std::uint32_t>(0x04), 4096U);
    EXPECT_EQ(guest.clock<std::uint16_t>(0x08), 1U);
    EXPECT_EQ(guest.clock<std::uint8_t>(0x0a), 0xffU) << "no counter, and so no clock";
    EXPECT_EQ(guest.clock<std::uint64_t>(0x18), 0x300U) << "a generation counter, and notifications";
    EXPECT_EQ(guest.clock<std::uint8_t>(0x22), 0U);
    const Id first = guest.id();
    EXPECT_NE(first, Id{});
    std::uint64_t count = 0;
    EXPECT_EQ(read(interrupt, &count, sizeof count), -1) << "nothing to tell yet";
    auto sequence = guest.clock<std::uint32_t>(0x0c);
    auto disruption = guest.clock<std::uint64_t>(0x10), generation = guest.clock<std::uint64_t>(0x68);
    for (int i = 0; i < 3; ++i) {  // restored, and restored again
        const State state = (*device)->save();
        (*device)->restore(state);
        ASSERT_TRUE((*device)->change());
        EXPECT_EQ(read(interrupt, &count, sizeof count), static_cast<ssize_t>(sizeof count));
        EXPECT_NE(guest.id(), first);
        EXPECT_EQ(guest.clock<std::uint32_t>(0x0c) % 2, 0U);
        EXPECT_GT(guest.clock<std::uint32_t>(0x0c), std::exchange(sequence, guest.clock<std::uint32_t>(0x0c)));
        EXPECT_GT(guest.clock<std::uint64_t>(0x10), std::exchange(disruption, guest.clock<std::uint64_t>(0x10)));
        EXPECT_GT(guest.clock<std::uint64_t>(0x68), std::exchange(generation, guest.clock<std::uint64_t>(0x68)));
        EXPECT_EQ(guest.clock<std::uint64_t>(0x18), 0x300U);
    }
}

TEST(GenerationId, NeedsItsPages) {
    Guest guest;
    EXPECT_FALSE(GenerationIdDevice::create(guest.memory, GuestAddress{1ULL << 30U}, clock_page, {}));
    EXPECT_FALSE(GenerationIdDevice::create(guest.memory, id_page, GuestAddress{1ULL << 30U}, {}));
}

}  // namespace
}  // namespace wherry::vmm::generation_id
