#include "confine/digest.hpp"

#include <gtest/gtest.h>

#include "base/digest.hpp"

namespace wherry::confine {
namespace {

TEST(SmallSha256, KnownAnswer) {
    // FIPS 180-4's example.
    EXPECT_EQ(small_sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(SmallSha256, AgreesWithOpenSsl) {
    std::string text;
    for (int length = 0; length < 300; ++length) {
        EXPECT_EQ(small_sha256_hex(text), sha256_hex(text)) << length;
        text += static_cast<char>(length * 37 + 11);
    }
}

}  // namespace
}  // namespace wherry::confine
