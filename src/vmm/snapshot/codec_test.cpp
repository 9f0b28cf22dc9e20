// The codec by itself: everything that may be a member, and bytes that nobody wrote.
#include "vmm/snapshot/codec.hpp"

#include <gtest/gtest.h>

namespace wherry::vmm::snapshot {
namespace {

enum class Colour : unsigned char { red, green };
constexpr Colour last_value(Colour) {
    return Colour::green;
}

struct Inner {
    std::uint16_t number = 0;
    std::optional<std::string> text;
    friend bool operator==(const Inner&, const Inner&) = default;
    void fields(this auto& self, auto&& f) { f(self.number, self.text); }
};

struct Everything {
    bool flag = false;
    std::int64_t large = 0;
    Colour colour = Colour::red;
    std::array<std::uint8_t, 3> three = {};
    std::vector<Inner> list;
    std::string name;
    friend bool operator==(const Everything&, const Everything&) = default;
    void fields(this auto& self, auto&& f) { f(self.flag, self.large, self.colour, self.three, self.list, self.name); }
};

const Everything sample = {.flag = true,
                           .large = -5,
                           .colour = Colour::green,
                           .three = {1, 2, 3},
                           .list = {{.number = 7, .text = "seven"}, {.number = 8, .text = {}}},
                           .name = "sample"};

std::string write(const Everything& value) {
    Writer writer;
    writer(value);
    return writer.bytes();
}

TEST(Codec, ComesBack) {
    const std::string bytes = write(sample);
    Everything copy;
    Reader reader(bytes);
    reader(copy);
    ASSERT_TRUE(reader.finish());
    EXPECT_EQ(copy, sample);
    EXPECT_EQ(bytes.substr(0, 9), std::string("\x01\xfb\xff\xff\xff\xff\xff\xff\xff", 9));
}

TEST(Codec, EveryPrefixEndsEarly) {
    const std::string bytes = write(sample);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        Everything copy;
        Reader reader(std::string_view(bytes).substr(0, size));
        reader(copy);
        EXPECT_FALSE(reader.finish()) << size;
    }
    Everything copy;
    const std::string longer = bytes + "x";
    Reader reader(longer);
    reader(copy);
    EXPECT_FALSE(reader.finish());
}

TEST(Codec, RefusesWhatNothingStandsFor) {
    std::string bytes = write(sample);
    bytes[0] = 2;  // a bool
    Everything copy;
    Reader reader(bytes);
    reader(copy);
    EXPECT_EQ(reader.finish().error().describe(), "the state is damaged: neither true nor false");
    bytes = write(sample);
    bytes[9] = 2;  // an enumeration
    Reader second(bytes);
    second(copy);
    EXPECT_FALSE(second.finish());
}

TEST(Codec, LengthsAreBoundByWhatIsThere) {
    const std::string bytes =
        "\xff\xff\xff\x7f"
        "rest";
    std::vector<std::uint64_t> list;
    Reader reader(bytes);
    reader(list);
    EXPECT_FALSE(reader.finish());
    EXPECT_TRUE(list.empty());
    std::string text;
    Reader other(bytes);
    other(text);
    EXPECT_FALSE(other.finish());
}

TEST(Codec, ShapesDiffer) {
    EXPECT_EQ(shape_of<Inner>(), "(2os)");
    EXPECT_EQ(shape_of<Everything>(), "(181a31v(2os)s)");
}

}  // namespace
}  // namespace wherry::vmm::snapshot
