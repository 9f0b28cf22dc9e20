#include "dns/steering/latency.hpp"

#include <gtest/gtest.h>

namespace wherry::dns::steering {
namespace {

Prefix prefix(std::string_view text) {
    auto parsed = Prefix::parse(text);
    EXPECT_TRUE(parsed) << text;
    return parsed.value_or(Prefix());
}

// `senders` senders tell the same round trip, a few times.
void measure(LatencyMap& map, std::string_view client, SiteIndex site, double rtt, SenderIndex senders = 2,
             std::int64_t time = 1000) {
    for (SenderIndex sender = 0; sender < senders; ++sender)
        for (int i = 0; i < 4; ++i)
            EXPECT_TRUE(map.add(prefix(client), site, static_cast<SenderIndex>(site * 10 + sender), rtt + i, time));
}

std::size_t nearest(const LatencyMap& map, std::string_view client, std::int64_t now = 1000) {
    auto estimates = map.estimate(prefix(client), now);
    std::size_t best = estimates.size();
    for (std::size_t site = 0; site < estimates.size(); ++site)
        if (estimates[site].source != Source::none &&
            (best == estimates.size() || estimates[site].rtt < estimates[best].rtt))
            best = site;
    return best;
}

TEST(Prefix, IsReadAndShortened) {
    EXPECT_EQ(prefix("192.0.2.0/24").to_text(), "192.0.2.0/24");
    EXPECT_EQ(prefix("2001:db8::/33").to_text(), "2001:db8::/33");
    EXPECT_EQ(prefix("192.0.2.77").shortened(27).to_text(), "192.0.2.64/27");
    EXPECT_TRUE(prefix("192.0.0.0/16").contains(prefix("192.0.2.0/24")));
    EXPECT_FALSE(prefix("192.0.2.0/24").contains(prefix("192.0.0.0/16")));
    EXPECT_FALSE(prefix("0.0.0.0/0").contains(prefix("::/0")));
    for (const char* bad :
         {"", "192.0.2.1/24", "192.0.2.0/33", "192.0.2.0/", "192.0.2.0/2x", "x/8", "2001:db8::1/64", "::/129"})
        EXPECT_FALSE(Prefix::parse(bad)) << bad;
}

TEST(LatencyMap, MeasuredCellsAnswerForThemselves) {
    LatencyMap map(2, {});
    measure(map, "192.0.2.0/24", 0, 80);
    measure(map, "192.0.2.0/24", 1, 20);
    map.summarize(1000);
    EXPECT_EQ(nearest(map, "192.0.2.9/32"), 1U);
    auto estimate = map.estimate(prefix("192.0.2.0/24"), 1000);
    EXPECT_EQ(estimate[1].source, Source::measured);
    EXPECT_NEAR(estimate[1].rtt, 20, 1.5);
    EXPECT_GT(estimate[1].confidence, 0.9F);
}

TEST(LatencyMap, NeighboursAnswerForWhatWasNotMeasured) {
    LatencyMap map(2, {});
    for (int i = 0; i < 4; ++i) {
        std::string east = "20.0." + std::to_string(i) + ".0/24";
        std::string west = "90.0." + std::to_string(i) + ".0/24";
        measure(map, east, 0, 10);
        measure(map, east, 1, 70);
        measure(map, west, 0, 70);
        measure(map, west, 1, 10);
    }
    map.summarize(1000);
    EXPECT_EQ(nearest(map, "20.0.7.0/24"), 0U);
    EXPECT_EQ(nearest(map, "90.0.7.0/24"), 1U);
    EXPECT_EQ(map.estimate(prefix("20.0.7.0/24"), 1000)[0].source, Source::neighbours);
    EXPECT_EQ(map.estimate(prefix("200.0.0.0/24"), 1000)[0].source, Source::average);
}

TEST(LatencyMap, ALyingSenderMovesNothing) {
    LatencyMap map(2, {});
    measure(map, "192.0.2.0/24", 0, 20, 3);
    measure(map, "192.0.2.0/24", 1, 60, 3);
    // One of site 1's senders claims to be next door, as often as it likes.
    for (int i = 0; i < 1000; ++i) map.add(prefix("192.0.2.0/24"), 1, 10, 0.1, 1000);
    map.summarize(1000);
    EXPECT_EQ(nearest(map, "192.0.2.0/24"), 0U);
    // Alone about a cell it is hardly heard where others speak for the neighbourhood.
    measure(map, "192.0.3.0/24", 0, 20, 3);
    for (int i = 0; i < 1000; ++i) map.add(prefix("192.0.3.0/24"), 1, 10, 0.1, 1000);
    map.summarize(1000);
    EXPECT_EQ(nearest(map, "192.0.3.0/24"), 0U);
    // Nor does it drive clients away.
    for (int i = 0; i < 1000; ++i) map.add(prefix("192.0.2.0/24"), 0, 1, 9000, 1000);
    map.summarize(1000);
    EXPECT_EQ(nearest(map, "192.0.2.0/24"), 0U);
}

TEST(LatencyMap, AWithdrawnSenderIsForgotten) {
    LatencyMap map(1, {.quorum = 1});
    map.add(prefix("192.0.2.0/24"), 0, 7, 20, 1000);
    map.forget(7);
    map.summarize(1000);
    EXPECT_EQ(map.cell_count(), 0U);
}

TEST(LatencyMap, CoordinatesFillGaps) {
    // Sites on a line, 40 ms apart; the client sits at the last one but was measured to the first three only.
    LatencyMap map(4, {});
    for (SiteIndex i = 0; i < 4; ++i)
        for (SiteIndex j = 0; j < i; ++j) map.set_site_rtt(i, j, 40.0 * (i - j));
    measure(map, "192.0.2.0/24", 0, 125);
    measure(map, "192.0.2.0/24", 1, 85);
    measure(map, "192.0.2.0/24", 2, 45);
    map.summarize(1000);
    EXPECT_EQ(nearest(map, "192.0.2.0/24"), 3U);
    EXPECT_EQ(map.estimate(prefix("192.0.2.0/24"), 1000)[3].source, Source::coordinates);
}

TEST(LatencyMap, ConfidenceFadesAndEnds) {
    LatencyMap map(1, {.quorum = 1, .lifetime = 1000, .half_life = 100});
    map.add(prefix("192.0.2.0/24"), 0, 0, 20, 0);
    map.summarize(0);
    EXPECT_NEAR(map.estimate(prefix("192.0.2.0/24"), 0)[0].confidence, 1, 0.01);
    map.summarize(100);
    EXPECT_NEAR(map.estimate(prefix("192.0.2.0/24"), 100)[0].confidence, 0.5, 0.02);
    map.summarize(1001);
    EXPECT_EQ(map.estimate(prefix("192.0.2.0/24"), 1001)[0].source, Source::none);
}

TEST(LatencyMap, GeographyIsTheLastPrior) {
    LatencyMap map(2, {});
    map.geography = [](const Prefix&, SiteIndex site) { return std::optional<float>(site == 1 ? 10.0F : 90.0F); };
    map.summarize(0);
    EXPECT_EQ(nearest(map, "192.0.2.0/24"), 1U);
    EXPECT_EQ(map.estimate(prefix("192.0.2.0/24"), 0)[1].source, Source::geography);
}

TEST(LatencyMap, IsKeptAndReadBack) {
    LatencyMap map(2, {});
    measure(map, "192.0.2.0/24", 0, 80);
    measure(map, "2001:db8::/48", 1, 20.5);
    std::string text = map.save();
    LatencyMap other(2, {});
    ASSERT_TRUE(other.load(text, 2000));
    EXPECT_EQ(other.save(), text);
    for (const char* bad :
         {"192.0.2.0/24 0 0 5", "192.0.2.0/24 9 0 5 1.0", "192.0.2.0/24 0 0 5 -1", "192.0.2.0/24 0 0 5 nan",
          "x 0 0 5 1", "192.0.2.0/24 0 0 99999999 1", "192.0.2.0/24 0 0 5 1 1 1 1 1 1 1"})
        EXPECT_FALSE(other.load(bad, 2000)) << bad;
    EXPECT_EQ(other.save(), text) << "what was there stays";
}

TEST(LatencyMap, RefusesWhatIsNoRoundTrip) {
    LatencyMap map(1, {});
    for (double bad : {0.0, -1.0, 1e9, std::numeric_limits<double>::quiet_NaN()})
        EXPECT_FALSE(map.add(prefix("192.0.2.0/24"), 0, 0, bad, 0));
    EXPECT_FALSE(map.add(prefix("192.0.2.0/24"), 1, 0, 5, 0));
}

}  // namespace
}  // namespace wherry::dns::steering
