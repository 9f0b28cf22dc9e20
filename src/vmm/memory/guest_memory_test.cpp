// Guest memory: bounds, regions around the gap, files loaded into it, pages given back.
#include "vmm/memory/guest_memory.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <string>

namespace wherry::vmm {
namespace {

constexpr std::uint64_t mib = 1U << 20U;
// The second range begins where no page of the first one is, as behind the gap.
constexpr std::array<GuestRange, 2> split = {{{GuestAddress{0}, 4 * mib}, {GuestAddress{64 * mib}, 4 * mib}}};

std::shared_ptr<GuestMemory> make(HugePages huge_pages = HugePages::none, Sharing sharing = Sharing::none) {
    auto memory = GuestMemory::create(split, huge_pages, sharing);
    return memory ? *memory : nullptr;
}

std::string pattern(std::size_t bytes) {
    std::string text(bytes, '\0');
    for (std::size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(1 + i % 251);
    return text;
}

Fd file_of(std::string_view bytes) {
    // SAFETY: makes a descriptor, owned at once.
    Fd fd(memfd_create("file", MFD_CLOEXEC));
    EXPECT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    return fd;
}

std::string read_back(const GuestMemory& memory, GuestAddress address, std::size_t bytes) {
    std::string out(bytes, '\0');
    EXPECT_TRUE(memory.read_bytes(address, std::as_writable_bytes(std::span(out))));
    return out;
}

struct Kind {
    HugePages huge_pages;
    Sharing sharing;
};
class Loading : public ::testing::TestWithParam<Kind> {
  protected:
    static std::shared_ptr<GuestMemory> make_memory() { return make(GetParam().huge_pages, GetParam().sharing); }
};

TEST_P(Loading, PutsEveryByteInItsPlaceAndNoOther) {
    auto memory = make_memory();
    ASSERT_TRUE(memory);
    const std::string text = pattern(3 * 4096 + 123);
    const Fd file = file_of(text);
    // Neither the offset, the address nor the length is a whole page; one target lies in the second region.
    for (const GuestAddress address : {GuestAddress{mib + 77}, GuestAddress{65 * mib + 4095}}) {
        const auto loaded = memory->load_file(file.get(), 5, address, text.size() - 5);
        ASSERT_TRUE(loaded) << loaded.error().describe();
        EXPECT_EQ(read_back(*memory, address, text.size() - 5), text.substr(5));
        EXPECT_EQ(read_back(*memory, GuestAddress{address.value - 64}, 64), std::string(64, '\0'));
        EXPECT_EQ(read_back(*memory, address + (text.size() - 5), 64), std::string(64, '\0'));
    }
    // What was there is replaced, not mixed.
    ASSERT_TRUE(memory->fill(GuestAddress{0}, 8192, std::byte{0xee}));
    ASSERT_TRUE(memory->load_file(file.get(), 0, GuestAddress{100}, 4096));
    EXPECT_EQ(read_back(*memory, GuestAddress{100}, 4096), text.substr(0, 4096));
    EXPECT_EQ(read_back(*memory, GuestAddress{0}, 100), std::string(100, '\xee'));
    EXPECT_EQ(read_back(*memory, GuestAddress{4196}, 3996), std::string(3996, '\xee'));
}

TEST_P(Loading, EndsAtTheEndsOfFileAndMemory) {
    auto memory = make_memory();
    ASSERT_TRUE(memory);
    const Fd file = file_of(pattern(8192));
    auto loaded = memory->load_file(file.get(), 0, GuestAddress{0}, 8193);
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error().code(), Code::data_loss);
    for (const GuestAddress address : {GuestAddress{4 * mib - 4096}, GuestAddress{4 * mib}, GuestAddress{64 * mib - 1},
                                       GuestAddress{68 * mib}, GuestAddress{~0ULL}}) {
        loaded = memory->load_file(file.get(), 0, address, 8192);
        ASSERT_FALSE(loaded) << address.value;
        EXPECT_EQ(loaded.error().code(), Code::out_of_range);
    }
    EXPECT_FALSE(memory->load_file(file.get(), 0, GuestAddress{0}, ~0ULL));
    EXPECT_FALSE(memory->load_file(file.get(), ~0ULL, GuestAddress{0}, 4096));
    EXPECT_FALSE(memory->load_file(-1, 0, GuestAddress{0}, 4096));
}

TEST_P(Loading, LeavesHolesAlone) {
    auto memory = make_memory();
    ASSERT_TRUE(memory);
    const std::string text = pattern(4096);
    const Fd file = file_of(text);
    // Data at 0, behind a hole too small to be looked at, behind a large one, and a hole at the end.
    for (const off_t at : {off_t{8192}, off_t{mib}})
        ASSERT_EQ(pwrite(file.get(), text.data(), text.size(), at), static_cast<ssize_t>(text.size()));
    ASSERT_EQ(ftruncate(file.get(), 3 * mib), 0);
    ASSERT_TRUE(memory->fill(GuestAddress{64 * 4096}, 4096, std::byte{0xee}));
    memory->expect({GuestAddress{0}, 3 * mib});
    const auto loaded = memory->load_file(file.get(), 100, GuestAddress{4096}, 3 * mib - 100);
    ASSERT_TRUE(loaded) << loaded.error().describe();
    EXPECT_EQ(read_back(*memory, GuestAddress{4096}, 3996), text.substr(100));
    EXPECT_EQ(read_back(*memory, GuestAddress{8092}, 4096), std::string(4096, '\0'));
    EXPECT_EQ(read_back(*memory, GuestAddress{12188}, 4096), text);
    EXPECT_EQ(read_back(*memory, GuestAddress{64 * 4096}, 4096), std::string(4096, '\xee')) << "a hole was written";
    EXPECT_EQ(read_back(*memory, GuestAddress{mib + 3996}, 4096), text);
    EXPECT_EQ(read_back(*memory, GuestAddress{mib + 8092}, 4096), std::string(4096, '\0'));
    ASSERT_TRUE(memory->load_file(file.get(), 2 * mib, GuestAddress{0}, 4096));
    EXPECT_FALSE(memory->load_file(file.get(), 2 * mib, GuestAddress{0}, mib + 1));
}

INSTANTIATE_TEST_SUITE_P(Memory, Loading,
                         ::testing::Values(Kind{HugePages::none, Sharing::none},
                                           Kind{HugePages::none, Sharing::by_file},
                                           Kind{HugePages::transparent, Sharing::none}));

TEST(GuestMemory, LoadsFilesThatCannotBeSpliced) {
    auto memory = make();
    ASSERT_TRUE(memory);
    // A file of /proc has no pages to send.
    const Fd file = *open_file("/proc/version", 0);
    ASSERT_TRUE(memory->load_file(file.get(), 0, GuestAddress{4096}, 5));
    EXPECT_EQ(read_back(*memory, GuestAddress{4096}, 5), "Linux");
}

TEST(GuestMemory, KnowsItsBounds) {
    auto memory = make();
    ASSERT_TRUE(memory);
    EXPECT_EQ(memory->total_bytes(), 8 * mib);
    EXPECT_TRUE(memory->contains(GuestAddress{0}, 4 * mib));
    EXPECT_FALSE(memory->contains(GuestAddress{0}, 4 * mib + 1));
    EXPECT_FALSE(memory->contains(GuestAddress{4 * mib}, 1));
    EXPECT_TRUE(memory->contains(GuestAddress{68 * mib - 1}, 1));
    EXPECT_FALSE(memory->contains(GuestAddress{~0ULL - 3}, 8));
    EXPECT_FALSE(memory->write(GuestAddress{4 * mib - 4}, std::uint64_t{1}));
    EXPECT_EQ(memory->read<std::uint32_t>(GuestAddress{4 * mib - 4}), 0U);  // nothing of it was written
    EXPECT_FALSE(memory->load_acquire(GuestAddress{1}));
    EXPECT_FALSE(memory->store_release(GuestAddress{4 * mib}, 1));
    const std::array<GuestRange, 1> crooked = {{{GuestAddress{0}, 100}}};
    EXPECT_FALSE(GuestMemory::create(crooked, HugePages::none));
}

TEST(GuestMemory, GivesWholePagesBack) {
    for (const Sharing sharing : {Sharing::none, Sharing::by_file}) {
        auto memory = make(HugePages::none, sharing);
        ASSERT_TRUE(memory);
        const GuestAddress start{65 * mib};
        ASSERT_TRUE(memory->fill(start, 4 * 4096, std::byte{7}));
        ASSERT_TRUE(memory->discard(start + 10, 3 * 4096));  // two whole pages lie in there
        EXPECT_EQ(read_back(*memory, start, 4096), std::string(4096, '\7'));
        EXPECT_EQ(read_back(*memory, start + 4096, 8192), std::string(8192, '\0'));
        EXPECT_EQ(read_back(*memory, start + 3 * 4096, 4096), std::string(4096, '\7'));
        EXPECT_TRUE(memory->discard(start, 100));  // no whole page: nothing happens
        EXPECT_FALSE(memory->discard(GuestAddress{4 * mib - 4096}, 8192));
        EXPECT_FALSE(memory->discard(GuestAddress{8192}, ~0ULL - 4096));
    }
}

}  // namespace
}  // namespace wherry::vmm
