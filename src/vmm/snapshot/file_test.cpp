// The envelope: comes back from files and sockets, and refuses what is cut short, changed, foreign or of other
// versions.
#include "vmm/snapshot/file.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "base/fd.hpp"

namespace wherry::vmm::snapshot {
namespace {

Fd file_with(std::string_view bytes) {
    Fd file(memfd_create("snapshot", MFD_CLOEXEC));
    EXPECT_TRUE(write_all(file.get(), bytes));
    EXPECT_EQ(lseek(file.get(), 0, SEEK_SET), 0);
    return file;
}

std::string refusal(std::string_view bytes, std::string_view shape = "(4)") {
    const auto read = read_wrapped(file_with(bytes).get(), shape);
    return read ? "accepted" : read.error().describe();
}

TEST(SnapshotFile, Crc64IsTheKnownOne) {
    EXPECT_EQ(crc64("123456789"), 0x995dc9bbdf1939faULL);
}

TEST(SnapshotFile, ComesBack) {
    const std::string bytes = wrap("the state", "(4)");
    EXPECT_EQ(*read_wrapped(file_with(bytes).get(), "(4)"), "the state");
    EXPECT_EQ(*read_version(file_with(bytes).get()), own_version);
    auto pair = make_socket_pair(SOCK_STREAM);
    ASSERT_TRUE(pair);
    const std::string large(3U << 20U, 'x');
    std::thread writer([&] { EXPECT_TRUE(write_all(pair->first.get(), wrap(large, "(4)") + "what follows")); });
    EXPECT_EQ(*read_wrapped(pair->second.get(), "(4)"), large);
    std::array<std::byte, 12> rest = {};
    EXPECT_TRUE(read_exact(pair->second.get(), rest)) << "no byte more is taken than belongs to it";
    writer.join();
}

TEST(SnapshotFile, CutShort) {
    const std::string bytes = wrap("the state", "(4)");
    for (std::size_t size = 0; size < bytes.size(); ++size)
        EXPECT_EQ(refusal(bytes.substr(0, size)), "the snapshot file is truncated") << size;
}

TEST(SnapshotFile, AnyChangedBitIsSeen) {
    const std::string good = wrap("the state", "(4)");
    for (std::size_t at = 0; at < good.size() * 8; ++at) {
        std::string bytes = good;
        bytes[at / 8] = static_cast<char>(bytes[at / 8] ^ (1 << (at % 8)));
        EXPECT_NE(refusal(bytes), "accepted") << at;
    }
    std::string bytes = good;
    bytes[34] ^= 1;
    EXPECT_EQ(refusal(bytes), "the snapshot file is damaged: its checksum does not match");
}

TEST(SnapshotFile, Foreign) {
    const std::string good = wrap("the state", "(4)");
    EXPECT_EQ(refusal(std::string(100, 'a')), "the file is no snapshot of wherry-vmm");
    EXPECT_EQ(refusal(std::string("\x00\x00\x64\x86\x19\x10\x07\x00", 8) + "rest"),
              "the file is no snapshot of wherry-vmm");
    EXPECT_EQ(refusal(std::string("\x00\x00\x64\x86\x84\x19\x10\x07", 8) + "rest"),
              "the snapshot file is one of Firecracker, which only it can read");
    std::string bytes = good;
    bytes[8] = 9;
    EXPECT_EQ(refusal(bytes), "the snapshot has version v9.0.0; this monitor reads v1.0.0");
    EXPECT_EQ(refusal(good, "(8)"), "the snapshot was written by another build, with other devices");
}

}  // namespace
}  // namespace wherry::vmm::snapshot
