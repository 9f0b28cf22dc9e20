// Guest memory to files and streams and back; what is remembered as written, and private mappings of a file.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm {
namespace {

constexpr std::uint64_t mib = 1U << 20U;
const std::vector<GuestRange> two_ranges = {{GuestAddress{0}, mib}, {GuestAddress{16 * mib}, mib}};

std::shared_ptr<GuestMemory> make(Sharing sharing = Sharing::none) {
    return std::move(*GuestMemory::create(two_ranges, HugePages::none, sharing));
}

Fd make_file(std::uint64_t bytes) {
    Fd file(memfd_create("image", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(file.get(), static_cast<off_t>(bytes)), 0);
    return file;
}

std::uint64_t data_bytes(int file) {
    std::uint64_t bytes = 0;
    for (off_t at = 0; (at = lseek(file, at, SEEK_DATA)) >= 0;) {
        const off_t end = lseek(file, at, SEEK_HOLE);
        bytes += static_cast<std::uint64_t>(end - at);
        at = end;
    }
    return bytes;
}

TEST(DirtyPages, MarksRunsAndFindsThem) {
    DirtyPages pages(200 * 4096);
    EXPECT_EQ(pages.next(0, true), 200U);
    pages.mark(4095, 2);
    pages.mark(60 * 4096, 70 * 4096);
    EXPECT_EQ(pages.next(0, true), 0U);
    EXPECT_EQ(pages.next(0, false), 2U);
    EXPECT_EQ(pages.next(2, true), 60U);
    EXPECT_EQ(pages.next(60, false), 130U);
    EXPECT_EQ(pages.next(130, true), 200U);
    pages.clear();
    const std::array<std::uint64_t, 4> words = {0, 0, 0, 1U << 7U};
    pages.merge(words);
    EXPECT_EQ(pages.next(0, true), 199U);
}

TEST(Image, FullAndDiff) {
    for (const auto sharing : {Sharing::none, Sharing::by_file}) {
        auto memory = make(sharing);
        memory->write(GuestAddress{0x1000}, std::uint64_t{1});
        memory->write(GuestAddress{16 * mib + 0x3000}, std::uint64_t{2});
        memory->write(GuestAddress{0x8000}, std::uint64_t{0});  // touched, and zero
        const Fd base = make_file(2 * mib);
        ASSERT_TRUE(memory->write_image(base.get(), GuestMemory::Pages::all));
        EXPECT_EQ(data_bytes(base.get()), 2 * 4096U);
        memory->forget_dirty();
        memory->write(GuestAddress{0x5ffe}, std::uint32_t{3});           // two pages
        memory->fill(GuestAddress{16 * mib + 0x3000}, 8, std::byte{0});  // zero now
        ASSERT_TRUE(memory->discard(GuestAddress{0x1000}, 0x1000));      // zero now
        const Fd diff = make_file(2 * mib);
        ASSERT_TRUE(memory->write_image(diff.get(), GuestMemory::Pages::dirty));
        EXPECT_EQ(data_bytes(diff.get()), 4 * 4096U);
        ASSERT_TRUE(memory->write_image(base.get(), GuestMemory::Pages::dirty)) << "merged onto the base";
        auto copy = *GuestMemory::map_image(two_ranges, base.get());
        for (std::uint64_t page = 0; page < mib; page += 4096) {
            std::array<std::byte, 4096> one, two;
            for (std::uint64_t start : {std::uint64_t{0}, 16 * mib}) {
                ASSERT_TRUE(memory->read_bytes(GuestAddress{start + page}, one));
                ASSERT_TRUE(copy->read_bytes(GuestAddress{start + page}, two));
                ASSERT_EQ(one, two) << start + page;
            }
        }
    }
}

TEST(Image, PrivateMappingsLeaveTheFileAlone) {
    const Fd file = make_file(2 * mib);
    ASSERT_EQ(pwrite(file.get(), "from the file", 13, 0x2000), 13);
    ASSERT_EQ(pwrite(file.get(), "another", 7, 0x4000), 7);
    auto one = *GuestMemory::map_image(two_ranges, file.get());
    auto two = *GuestMemory::map_image(two_ranges, file.get());
    ASSERT_TRUE(one->write_bytes(GuestAddress{0x2000}, std::string_view("mine")));
    ASSERT_TRUE(one->discard(GuestAddress{0x4000}, 0x1000));
    EXPECT_EQ(one->read<char>(GuestAddress{0x2000}), 'm');
    EXPECT_EQ(one->read<char>(GuestAddress{0x4000}), '\0') << "given back, the file does not show through";
    EXPECT_EQ(two->read<char>(GuestAddress{0x2000}), 'f');
    EXPECT_EQ(two->read<char>(GuestAddress{0x4000}), 'a');
    // Without a log: what the mapping has of its own.
    const Fd diff = make_file(2 * mib);
    ASSERT_TRUE(one->write_image(diff.get(), GuestMemory::Pages::untracked));
    if (access("/proc/self/pagemap", R_OK) == 0) EXPECT_LE(data_bytes(diff.get()), 2 * 4096U);
    std::array<char, 4> read = {};
    ASSERT_EQ(pread(diff.get(), read.data(), 4, 0x2000), 4);
    EXPECT_EQ(std::string_view(read.data(), 4), "mine");
}

TEST(Image, FilesOfAnotherSizeAreRefused) {
    for (const std::uint64_t bytes : {std::uint64_t{0}, 2 * mib - 1, 2 * mib + 4096}) {
        const Fd file = make_file(bytes);
        EXPECT_FALSE(GuestMemory::map_image(two_ranges, file.get()));
    }
    EXPECT_FALSE(GuestMemory::map_image(two_ranges, open_file("/dev/null", O_RDWR)->get()));
}

TEST(Image, OverASocket) {
    auto memory = make();
    for (std::uint64_t at = 0; at < mib; at += 3 * 4096) memory->write(GuestAddress{at}, at + 1);
    memory->write(GuestAddress{17 * mib - 8}, std::uint64_t{99});
    auto pair = make_socket_pair(SOCK_STREAM);
    ASSERT_TRUE(pair);
    std::thread sender([&] { EXPECT_TRUE(memory->send_image(pair->first.get(), GuestMemory::Pages::all)); });
    auto copy = make();
    auto received = copy->receive_image(pair->second.get());
    sender.join();
    ASSERT_TRUE(received) << received.error().describe();
    for (std::uint64_t at = 0; at < mib; at += 3 * 4096) EXPECT_EQ(copy->read<std::uint64_t>(GuestAddress{at}), at + 1);
    EXPECT_EQ(copy->read<std::uint64_t>(GuestAddress{17 * mib - 8}), 99U);
    // Lies: pages outside, no end, an early end.
    for (const std::array<std::uint64_t, 2> header :
         {std::array<std::uint64_t, 2>{1ULL << 40U, 4096}, {0, 1ULL << 40U}, {mib - 1, 2}, {0, 0}, {0, 4096}}) {
        auto lie = make_socket_pair(SOCK_STREAM);
        ASSERT_EQ(write(lie->first.get(), header.data(), sizeof header), static_cast<ssize_t>(sizeof header));
        lie->first.reset();
        EXPECT_FALSE(copy->receive_image(lie->second.get()));
    }
}

TEST(Image, BuffersRemember) {
    auto memory = make();
    auto pipe = make_pipe();
    ASSERT_TRUE(pipe && write_all(pipe->write.get(), "0123456789"));
    memory->forget_dirty();
    GuestBuffers buffers;
    ASSERT_TRUE(buffers.append(*memory, GuestAddress{0x1ffc}, 8));
    ASSERT_TRUE(buffers.append(*memory, GuestAddress{0x8000}, 8));
    ASSERT_EQ(*buffers.read_from(pipe->read.get()), 10U);
    const Fd diff = make_file(2 * mib);
    ASSERT_TRUE(memory->write_image(diff.get(), GuestMemory::Pages::dirty));
    EXPECT_EQ(data_bytes(diff.get()), 3 * 4096U);
    memory->forget_dirty();
    GuestBuffers back = buffers.take_back(2);
    back.copy_in(0, std::string_view("x"));
    const Fd other = make_file(2 * mib);
    ASSERT_TRUE(memory->write_image(other.get(), GuestMemory::Pages::dirty));
    EXPECT_EQ(data_bytes(other.get()), 4096U);
}

}  // namespace
}  // namespace wherry::vmm
