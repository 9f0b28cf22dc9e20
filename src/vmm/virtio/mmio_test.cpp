// A disk behind the registers of virtio-mmio, as a driver sees it.
#include "vmm/virtio/mmio.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "vmm/testing/disk.hpp"

namespace wherry::vmm {
namespace {

class MmioTest : public testing::DiskTest {
  protected:
    void SetUp() override {
        DiskTest::SetUp();
        if (device) transport = *MmioTransport::create(*loop, device, memory, std::move(*make_eventfd()));
    }
    std::uint32_t get(std::uint64_t offset) {
        std::uint32_t value = 0;
        transport->read(offset, std::as_writable_bytes(std::span(&value, 1)));
        return value;
    }
    void set(std::uint64_t offset, std::uint32_t value) {
        transport->write(offset, std::as_bytes(std::span(&value, 1)));
    }
    void negotiate(std::uint32_t high) {
        set(0x70, 1);
        set(0x70, 3);
        set(0x24, 0);
        set(0x20, 0);
        set(0x24, 1);
        set(0x20, high);
        set(0x70, 11);
    }
    void bring_up() {
        negotiate(1);
        set(0x30, 0);
        set(0x38, 16);
        set(0x80, 0x1000);
        set(0x90, 0x1400);
        set(0xa0, 0x1800);
        set(0x44, 1);
        set(0x70, 15);
    }

    std::shared_ptr<MmioTransport> transport;
};

TEST_F(MmioTest, SaysWhatItIs) {
    EXPECT_EQ(get(0x00), 0x74726976U);
    EXPECT_EQ(get(0x04), 2U);
    EXPECT_EQ(get(0x08), 2U);
    EXPECT_EQ(get(0x34), 256U);
    EXPECT_EQ(get(0x100), 128U);  // sectors
    EXPECT_EQ(get(0xb0), 0xffffffffU);
}

TEST_F(MmioTest, NeedsVersionOneAndKnownFeatures) {
    negotiate(0);
    EXPECT_EQ(get(0x70) & 8U, 0U);
    set(0x70, 0);
    negotiate(1U | (1U << 20U));
    EXPECT_EQ(get(0x70) & 8U, 0U);
}

TEST_F(MmioTest, ReadsWritesAndFlushes) {
    bring_up();
    ASSERT_TRUE(device->active());
    memory->write_bytes(GuestAddress{0x9000}, std::string_view("written by the guest"));
    EXPECT_EQ(request(1, 2, 512, false), 0);
    char found[20] = {};
    ASSERT_EQ(pread(disk.get(), found, sizeof found, 1024), 20);
    EXPECT_EQ(std::string_view(found, sizeof found), "written by the guest");
    memory->fill(GuestAddress{0x9000}, 512, std::byte{0});
    EXPECT_EQ(request(0, 2, 512, true), 0);
    EXPECT_EQ(memory->read<char>(GuestAddress{0x9000}), 'w');
    EXPECT_EQ(driver.take_used()->bytes, 1U);
    EXPECT_EQ(driver.take_used()->bytes, 513U);
    EXPECT_EQ(request(4, 0, 0, false), 0);
    EXPECT_EQ(get(0x60) & 1U, 1U);
    set(0x64, 1);
    EXPECT_EQ(get(0x60), 0U);
}

TEST_F(MmioTest, RefusesRequestsBeyondTheDisk) {
    bring_up();
    EXPECT_EQ(request(0, 128, 512, true), 1);
    EXPECT_EQ(request(0, ~0ULL, 512, true), 1);
    EXPECT_EQ(request(1, 0, 100, false), 1);
    EXPECT_EQ(request(77, 0, 512, true), 2);
    EXPECT_EQ(get(0x70) & 64U, 0U);
}

TEST_F(MmioTest, ABrokenGuestMustReset) {
    bring_up();
    driver.set_descriptor(0, {.address = ~0ULL, .bytes = 16});
    driver.offer(0);
    device->notify(0);
    EXPECT_EQ(get(0x70) & 64U, 64U);
    EXPECT_EQ(get(0x60) & 2U, 2U);
    set(0x70, 0);
    EXPECT_EQ(get(0x70), 0U);
    EXPECT_FALSE(device->active());
    driver = testing::Driver{*memory, 0x1000};
    memory->fill(GuestAddress{0x1000}, 0x1000, std::byte{0});
    bring_up();
    EXPECT_EQ(request(0, 0, 512, true), 0);
}

TEST_F(MmioTest, AnotherDiskWhileItRuns) {
    bring_up();
    // SAFETY: makes a descriptor, owned at once.
    const Fd other(memfd_create("other", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(other.get(), 1 << 15), 0);
    ASSERT_EQ(pwrite(other.get(), "other", 5, 0), 5);
    const std::uint32_t before = get(0xfc);
    ASSERT_TRUE(device->change_path("/proc/self/fd/" + std::to_string(other.get())));
    EXPECT_EQ(get(0x100), 64U);
    EXPECT_NE(get(0xfc), before);
    EXPECT_EQ(request(0, 0, 512, true), 0);
    EXPECT_EQ(memory->read<char>(GuestAddress{0x9000}), 'o');
    EXPECT_FALSE(device->change_path("/nonexistent"));
    EXPECT_EQ(request(0, 0, 512, true), 0);
}

TEST_F(MmioTest, RegistersOfOtherSizesChangeNothing) {
    std::uint8_t byte = 15;
    transport->write(0x70, std::as_bytes(std::span(&byte, 1)));
    EXPECT_EQ(get(0x70), 0U);
    std::uint64_t wide = 0;
    transport->read(0, std::as_writable_bytes(std::span(&wide, 1)));
    EXPECT_EQ(wide, 0U);
    transport->read(0xffd, std::as_writable_bytes(std::span(&wide, 1)));
    set(0x30, 0xffffffff);
    EXPECT_EQ(get(0x34), 0U);
    set(0x44, 1);
}

}  // namespace
}  // namespace wherry::vmm
