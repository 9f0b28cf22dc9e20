#include "supervisor/ring.hpp"

#include <gtest/gtest.h>

namespace wherry::supervisor {
namespace {

std::string held(const Ring& ring) {
    std::string all;
    for (std::uint64_t offset = ring.begin(); offset < ring.end(); offset += ring.peek(offset).size())
        all += ring.peek(offset);
    return all;
}

TEST(Ring, WrapsAndKeepsOffsets) {
    Ring ring(8);
    ring.append("abcdef");
    ring.drop_before(4);
    EXPECT_EQ(ring.begin(), 4U);
    ring.append("ghijkl");
    EXPECT_EQ(ring.free_space(), 0U);
    EXPECT_EQ(held(ring), "efghijkl");
    EXPECT_EQ(ring.peek(8), "ijkl");
    ring.drop_before(100);
    EXPECT_TRUE(ring.empty());
    EXPECT_EQ(ring.begin(), 12U);
}

TEST(Ring, GrowsInPlace) {
    Ring ring(4);
    ring.append("abcd");
    ring.drop_before(2);
    ring.append("ef");
    ring.grow(16);
    EXPECT_EQ(held(ring), "cdef");
    ring.append("0123456789");
    EXPECT_EQ(held(ring), "cdef0123456789");
}

TEST(Ring, SkipsWhatWasNotKept) {
    Ring ring(4);
    ring.append("ab");
    ring.skip_to(1000);
    EXPECT_TRUE(ring.empty());
    ring.append("xy");
    EXPECT_EQ(ring.begin(), 1000U);
    EXPECT_EQ(held(ring), "xy");
}

}  // namespace
}  // namespace wherry::supervisor
