#include "dns/steering/prefix_table.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

namespace wherry::dns::steering {
namespace {

Prefix prefix(std::string_view text) {
    return *Prefix::parse(text);
}

PrefixTable::Match find(const PrefixTable& table, std::string_view address) {
    const Prefix whole = prefix(address);
    return table.find(std::span<const std::uint8_t>(whole.bytes).first(whole.ipv6 ? 16 : 4));
}

TEST(PrefixTable, WithoutEntriesEveryoneIsAlike) {
    const PrefixTable table({}, 7);
    for (const char* address : {"0.0.0.0", "192.0.2.1", "255.255.255.255", "::", "2001:db8::1"}) {
        EXPECT_EQ(find(table, address).value, 7);
        EXPECT_EQ(find(table, address).depth, 0);
    }
    EXPECT_EQ(table.size(), 2U);
}

TEST(PrefixTable, LongerPrefixesWinAndNeighboursAreMerged) {
    const PrefixTable table({{prefix("10.0.0.0/8"), 1},
                             {prefix("10.128.0.0/10"), 2},
                             {prefix("192.0.2.0/25"), 3},
                             {prefix("192.0.2.128/25"), 3},
                             {prefix("192.0.2.77/32"), 4},
                             {prefix("2001:db8::/32"), 5}},
                            0);
    EXPECT_EQ(find(table, "10.1.2.3").value, 1);
    EXPECT_EQ(find(table, "10.1.2.3").depth, 9);
    EXPECT_EQ(find(table, "10.130.0.1").value, 2);
    EXPECT_EQ(find(table, "10.130.0.1").depth, 10);
    EXPECT_EQ(find(table, "192.0.2.200").value, 3);
    EXPECT_EQ(find(table, "192.0.2.200").depth, 25);
    EXPECT_EQ(find(table, "192.0.2.77").value, 4);
    EXPECT_EQ(find(table, "192.0.2.77").depth, 32);
    EXPECT_EQ(find(table, "192.0.3.1").value, 0);
    EXPECT_EQ(find(table, "2001:db8:ffff::1").value, 5);
    EXPECT_EQ(find(table, "2001:db9::1").value, 0);
}

// Against a search through all entries, with few of them and with many.
TEST(PrefixTable, IsWhatASlowSearchSays) {
    std::mt19937_64 random(1);
    for (std::size_t count : {5U, 60U, 1500U}) {
        std::vector<PrefixTable::Entry> entries;
        auto address = [&](bool ipv6) {
            std::array<std::uint8_t, 16> bytes{};
            // Few different bits at the top, so that entries lie within each other.
            for (std::size_t i = 0; i < 16; ++i) bytes[i] = static_cast<std::uint8_t>(random() % (i < 2 ? 3 : 256));
            if (ipv6) bytes[0] |= 0x20U;
            return bytes;
        };
        std::map<Prefix, std::uint16_t> last;
        for (std::size_t i = 0; i < count; ++i) {
            const bool ipv6 = random() % 3 == 0;
            const auto length = static_cast<unsigned>(random() % (ipv6 ? 65 : 33));
            const Prefix made = Prefix::from_bytes(ipv6, address(ipv6).data(), length);
            entries.push_back({made, static_cast<std::uint16_t>(random() % 4)});
            last[made] = entries.back().value;
        }
        const PrefixTable table(entries, 9);
        auto slow = [&](const Prefix& whole) {
            const Prefix* best = nullptr;
            std::uint16_t value = 9;
            for (const auto& [prefix, number] : last)
                if (prefix.contains(whole) && (best == nullptr || prefix.length >= best->length)) {
                    best = &prefix;
                    value = number;
                }
            return value;
        };
        for (int i = 0; i < 200; ++i) {
            const bool ipv6 = random() % 2 == 0;
            const Prefix whole = Prefix::from_bytes(ipv6, address(ipv6).data(), ipv6 ? 128 : 32);
            const auto match = table.find(std::span<const std::uint8_t>(whole.bytes).first(ipv6 ? 16 : 4));
            ASSERT_EQ(match.value, slow(whole)) << whole.to_text();
            // And so it is for the whole of the prefix that the match names.
            Prefix last_in = whole.shortened(match.depth);
            for (unsigned bit = match.depth; bit < (ipv6 ? 64U : 32U); ++bit)
                last_in.bytes[bit / 8] = static_cast<std::uint8_t>(last_in.bytes[bit / 8] | 0x80U >> bit % 8);
            last_in.length = ipv6 ? 128 : 32;
            EXPECT_EQ(slow(last_in), match.value);
        }
        // One after the other they are the whole of both families.
        std::size_t seen = 0;
        long double covered = 0;
        table.each([&](const Prefix& part, std::uint16_t value) {
            ++seen;
            covered += std::pow(2.0L, -static_cast<int>(part.length));
            Prefix whole = part;
            whole.length = part.ipv6 ? 128 : 32;
            EXPECT_EQ(slow(whole), value);
        });
        EXPECT_EQ(seen, table.size());
        EXPECT_DOUBLE_EQ(static_cast<double>(covered), 2.0);
    }
}

}  // namespace
}  // namespace wherry::dns::steering
