// Windows onto files and memory that is plugged, as the monitor's own accesses see them.
#include "vmm/memory/device_memory.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <thread>

#include "base/fd.hpp"
#include "vmm/testing/driver.hpp"

namespace wherry::vmm {
namespace {

constexpr std::uint64_t mib = 1U << 20U;
constexpr GuestAddress space_start{1ULL << 32U};

Fd make_file(std::string_view contents) {
    // SAFETY: makes a descriptor, owned at once.
    Fd file(memfd_create("file", MFD_CLOEXEC));
    EXPECT_TRUE(write_all(file.get(), contents));
    return file;
}

class DeviceMemoryTest : public ::testing::Test {
  protected:
    DeviceMemoryTest() { extra.set_space({space_start, 1024 * mib}); }
    std::string text(GuestAddress address, std::size_t size) {
        std::string out(size, '?');
        EXPECT_TRUE(memory->read_bytes(address, std::as_writable_bytes(std::span(out))));
        return out;
    }
    Result<> map(GuestAddress at, std::uint64_t bytes, int fd, std::uint64_t file_bytes, bool is_read_only) {
        return extra.map({.range = {at, bytes},
                          .is_read_only = is_read_only,
                          .files = {{.fd = fd, .bytes = file_bytes, .offset = 0}},
                          .contents = {}});
    }
    std::shared_ptr<GuestMemory> memory = testing::make_memory();
    DeviceMemory& extra = memory->device_memory();
};

TEST_F(DeviceMemoryTest, AWindowIsItsFileAndZeroesBehindIt) {
    Fd file = make_file("hello");
    ASSERT_TRUE(map(space_start, 2 * mib, file.get(), 5, false));
    EXPECT_EQ(text(space_start, 5), "hello");
    EXPECT_EQ(text(space_start + (2 * mib - 4), 4), std::string(4, '\0'));
    EXPECT_FALSE(memory->contains(space_start + (2 * mib - 4), 5, Access::read));
    ASSERT_TRUE(memory->write_bytes(space_start, "jelly"));
    std::array<char, 5> read = {};
    ASSERT_EQ(pread(file.get(), read.data(), read.size(), 0), 5);
    EXPECT_EQ(std::string_view(read.data(), 5), "jelly");
    // Files are never punched, whatever a balloon says.
    EXPECT_FALSE(memory->discard(space_start, 2 * mib));
    EXPECT_EQ(text(space_start, 5), "jelly");
    EXPECT_FALSE(map(space_start, 2 * mib, file.get(), 5, false)) << "two at one place";
    EXPECT_FALSE(map(space_start + 4096, 2 * mib, file.get(), 5, false));
    EXPECT_FALSE(map(space_start + 2 * mib, 2 * mib, file.get(), 2 * mib + 1, false));
    EXPECT_TRUE(map(space_start + 2 * mib, 2 * mib, file.get(), 5, false));
}

TEST_F(DeviceMemoryTest, AReadOnlyWindowIsForReading) {
    Fd file = make_file("layer");
    ASSERT_TRUE(map(space_start, 2 * mib, file.get(), 5, true));
    EXPECT_EQ(text(space_start, 5), "layer");
    EXPECT_FALSE(memory->write_bytes(space_start, "x"));
    EXPECT_FALSE(memory->fill(space_start, 1, std::byte{0}));
    EXPECT_FALSE(memory->store_release(space_start, 1));
    GuestBuffers buffers;
    EXPECT_TRUE(buffers.append(*memory, space_start, 5, Access::read));
    EXPECT_FALSE(buffers.append(*memory, space_start, 5, Access::write));
}

TEST_F(DeviceMemoryTest, WhatWasOnItsWayIntoAWindowThatWentHarmsNobody) {
    Fd file = make_file("window");
    for (int round = 0; round < 100; ++round) {  // addresses are used again: this must not grow
        ASSERT_TRUE(map(space_start, 64 * mib, file.get(), 6, false));
        GuestBuffers buffers;
        ASSERT_TRUE(buffers.append(*memory, space_start, 6));
        extra.unmap(space_start);
        EXPECT_FALSE(memory->contains(space_start, 1, Access::read));
        EXPECT_EQ(buffers.copy_in(0, "lately"), 6U);
    }
    std::array<char, 6> read = {};
    ASSERT_EQ(pread(file.get(), read.data(), read.size(), 0), 6);
    EXPECT_EQ(std::string_view(read.data(), 6), "window");
    ASSERT_TRUE(map(space_start, 64 * mib, file.get(), 6, true));
    EXPECT_EQ(text(space_start, 12), std::string("window\0\0\0\0\0\0", 12));
}

TEST_F(DeviceMemoryTest, PlacesAreFoundAndEnd) {
    Fd file = make_file("x");
    EXPECT_EQ(*extra.place(2 * mib, window_alignment), space_start);
    ASSERT_TRUE(map(space_start, 2 * mib, file.get(), 1, true));
    ASSERT_TRUE(map(space_start + 6 * mib, 2 * mib, file.get(), 1, true));
    EXPECT_EQ(*extra.place(4 * mib, window_alignment), space_start + 2 * mib);
    EXPECT_EQ(*extra.place(6 * mib, window_alignment), space_start + 8 * mib);
    EXPECT_EQ(*extra.place(2 * mib, 512 * mib), space_start + 512 * mib);
    EXPECT_FALSE(extra.place(1024 * mib, window_alignment));
    extra.unmap(space_start);
    EXPECT_EQ(*extra.place(6 * mib, window_alignment), space_start);
    EXPECT_FALSE(testing::make_memory()->device_memory().place(2 * mib, window_alignment));
}

TEST_F(DeviceMemoryTest, OnlyPluggedBlocksAreThere) {
    const GuestRange range{space_start, 256 * mib};
    ASSERT_TRUE(extra.add_pluggable({.range = range, .block_bytes = 2 * mib, .slot_bytes = 128 * mib}));
    EXPECT_FALSE(extra.add_pluggable({.range = {range.end(), 256 * mib}}));
    EXPECT_EQ(*extra.place(2 * mib, window_alignment), range.end());
    EXPECT_FALSE(memory->contains(space_start, 1));
    EXPECT_EQ(extra.state(0, 128), DeviceMemory::BlockState::unplugged);
    ASSERT_TRUE(extra.plug(1, 2));
    EXPECT_EQ(extra.state(0, 2), DeviceMemory::BlockState::mixed);
    EXPECT_EQ(extra.state(1, 2), DeviceMemory::BlockState::plugged);
    EXPECT_EQ(extra.plugged_bytes(), 4 * mib);
    EXPECT_FALSE(memory->contains(space_start, 4 * mib));
    EXPECT_TRUE(memory->contains(space_start + 2 * mib, 4 * mib));
    EXPECT_FALSE(memory->contains(space_start + 2 * mib, 4 * mib + 1));
    ASSERT_TRUE(memory->fill(space_start + 2 * mib, 4 * mib, std::byte{'x'}));
    EXPECT_GE(*memory->resident_bytes(), 4 * mib);

    GuestBuffers buffers;
    ASSERT_TRUE(buffers.append(*memory, space_start + 2 * mib, 4 * mib));
    ASSERT_TRUE(buffers.discard(*memory));
    EXPECT_LT(*memory->resident_bytes(), mib);
    EXPECT_EQ(text(space_start + 2 * mib, 1), std::string(1, '\0'));
    ASSERT_TRUE(memory->fill(space_start + 2 * mib, 4 * mib, std::byte{'x'}));

    ASSERT_TRUE(extra.unplug(1, 1));
    EXPECT_FALSE(memory->contains(space_start + 2 * mib, 1, Access::read));
    EXPECT_FALSE(memory->discard(space_start + 2 * mib, 4096));
    // A transfer that was on its way when its block went ends in memory that nobody reads.
    EXPECT_EQ(buffers.copy_in(0, "late"), 4U);
    ASSERT_TRUE(extra.unplug(2, 1));
    ASSERT_EQ(extra.plugged_ranges().size(), 0U);
    ASSERT_TRUE(extra.plug(0, 64));
    ASSERT_TRUE(extra.plug(65, 1));
    ASSERT_EQ(extra.plugged_ranges().size(), 2U);
    EXPECT_EQ(extra.plugged_ranges()[0], (GuestRange{space_start, 128 * mib}));
    EXPECT_EQ(text(space_start + 4 * mib, 1), std::string(1, '\0')) << "plugged memory is zero";
}

TEST_F(DeviceMemoryTest, PluggedMemoryIsZeroEvenAfterALateTransfer) {
    ASSERT_TRUE(extra.add_pluggable({.range = {space_start, 128 * mib}}));
    ASSERT_TRUE(extra.plug(0, 1));
    GuestBuffers buffers;
    ASSERT_TRUE(buffers.append(*memory, space_start, 4));
    ASSERT_TRUE(extra.unplug(0, 1));
    EXPECT_EQ(buffers.copy_in(0, "late"), 4U);
    ASSERT_TRUE(extra.plug(0, 1));
    EXPECT_EQ(text(space_start, 4), std::string(4, '\0'));
}

TEST_F(DeviceMemoryTest, OddPluggableRangesAreRefused) {
    EXPECT_FALSE(extra.add_pluggable({.range = {space_start, 100 * mib}}));
    EXPECT_FALSE(extra.add_pluggable({.range = {space_start, 0}}));
    EXPECT_FALSE(extra.add_pluggable({.range = {space_start, 128 * mib}, .block_bytes = mib}));
    EXPECT_FALSE(extra.add_pluggable({.range = {space_start + 4096, 128 * mib}}));
    EXPECT_TRUE(extra.add_pluggable({.range = {space_start, 128 * mib}}));
}

TEST_F(DeviceMemoryTest, PluggedBlocksAreInImages) {
    const auto add = [](GuestMemory& to) {
        to.device_memory().set_space({space_start, 1024 * mib});
        ASSERT_TRUE(to.device_memory().add_pluggable({.range = {space_start, 256 * mib}}));
        ASSERT_TRUE(to.device_memory().plug(1, 2));
        ASSERT_TRUE(to.device_memory().plug(100, 1));
    };
    add(*memory);
    const std::vector<GuestAddress> places = {
        {0x1000}, space_start + 2 * mib, space_start + (6 * mib - 4096), space_start + 200 * mib};
    for (std::size_t i = 0; i < places.size(); ++i) memory->write(places[i], std::uint64_t{i + 1});
    EXPECT_EQ(memory->image_bytes(), mib + 256 * mib);
    // SAFETY: makes a descriptor, owned at once.
    const Fd image(memfd_create("image", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(image.get(), static_cast<off_t>(memory->image_bytes())), 0);
    const auto expect_same = [&](const char* what, std::uint64_t last) {
        auto other = testing::make_memory();
        add(*other);
        ASSERT_TRUE(other->load_file(image.get(), 0, GuestAddress{0}, mib)) << what;
        auto loaded = other->device_memory().load_image(image.get(), mib);
        ASSERT_TRUE(loaded) << what << loaded.error().describe();
        for (std::size_t i = 0; i < places.size(); ++i)
            EXPECT_EQ(*other->read<std::uint64_t>(places[i]), i + 1 == places.size() ? last : i + 1) << what << i;
        EXPECT_LT(other->device_memory().plugged_ranges().size(), 3U);
        // Zeroes are in no image but in that of blocks which have come.
        EXPECT_LT(*other->resident_bytes(), what == std::string_view("all") ? mib + 64 * 1024 : 9 * mib) << what;
    };
    for (const auto pages : {GuestMemory::Pages::all, GuestMemory::Pages::untracked, GuestMemory::Pages::dirty}) {
        ASSERT_EQ(ftruncate(image.get(), 0), 0);
        ASSERT_EQ(ftruncate(image.get(), static_cast<off_t>(memory->image_bytes())), 0);
        ASSERT_TRUE(memory->write_image(image.get(), pages));
        if (pages == GuestMemory::Pages::all) expect_same("all", 4);
    }
    // A diff: what was written, and blocks that came, into the same file.
    ASSERT_TRUE(memory->write_image(image.get(), GuestMemory::Pages::all));
    memory->forget_dirty();
    memory->write(places[3], std::uint64_t{9});
    ASSERT_TRUE(extra.unplug(2, 1));
    ASSERT_TRUE(extra.plug(2, 1));
    memory->write(places[2], std::uint64_t{3});
    ASSERT_TRUE(memory->write_image(image.get(), GuestMemory::Pages::dirty));
    expect_same("diff", 9);

    auto pair = make_socket_pair(SOCK_STREAM);
    ASSERT_TRUE(pair);
    std::thread sender([&] { EXPECT_TRUE(memory->send_image(pair->first.get(), GuestMemory::Pages::all)); });
    auto third = testing::make_memory();
    add(*third);
    EXPECT_TRUE(third->receive_image(pair->second.get()));
    sender.join();
    EXPECT_EQ(*third->read<std::uint64_t>(places[2]), 3U);
    EXPECT_EQ(*third->read<std::uint64_t>(places[3]), 9U);
}

}  // namespace
}  // namespace wherry::vmm
