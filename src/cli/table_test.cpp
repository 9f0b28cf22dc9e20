#include "cli/table.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/json.hpp"
#include "cli/rows.hpp"
#include "cli/stream.hpp"
#include "cli/timings.hpp"

namespace wherry::cli {
namespace {

constexpr Listing::Column columns[] = {{"ID", "CONTAINER ID"}, {"Labels", "LABELS"}, {"Names", "NAMES"}};

Listing sample() {
    Listing listing(columns, "{{.ID}}\t{{.Names}}");
    listing.method = label_method;
    listing.add({{"ID", "0123456789ab"},
                 {"Names", "web"},
                 {"Labels", "a=b"},
                 {label_source, json::object{{"com.example.role", "front"}}}});
    listing.add({{"ID", "ba9876543210"}, {"Names", "datenbank-größe"}, {"Labels", ""}});
    return listing;
}

TEST(table, aligns_as_docker_does) {
    EXPECT_EQ(align("A\tB\tC\nlonger than ten\tx\tend\n"),
              "A                 B         C\nlonger than ten   x         end\n");
    EXPECT_EQ(align("größe\tx\n"), "größe     x\n");
    EXPECT_EQ(align("no cells\n"), "no cells\n");
    EXPECT_EQ(align("PID\tUSER\n1\troot\n", {.minimum_width = 20, .padding = 3}),
              "PID                 USER\n1                   root\n");
}

TEST(table, formats) {
    EXPECT_EQ(*sample().render(""), "CONTAINER ID   NAMES\n0123456789ab   web\nba9876543210   datenbank-größe\n");
    EXPECT_EQ(*sample().render("table"), *sample().render(""));
    EXPECT_EQ(*sample().render("table {{.Names}}\\t{{.ID}}"),
              "NAMES             CONTAINER ID\nweb               0123456789ab\ndatenbank-größe   ba9876543210\n");
    EXPECT_EQ(*sample().render("{{.Names}}"), "web\ndatenbank-größe\n");
    EXPECT_EQ(*sample().render("json"),
              "{\"ID\":\"0123456789ab\",\"Labels\":\"a=b\",\"Names\":\"web\"}\n{\"ID\":\"ba9876543210\",\"Labels\":"
              "\"\",\"Names\":\"datenbank-größe\"}\n");
    EXPECT_EQ(sample().render("table {{.Label \"com.example.role\"}}\\t{{upper .Names}}").value_or(""),
              "role      NAMES\nfront     WEB\n          DATENBANK-GRÖßE\n");
    EXPECT_FALSE(sample().render("{{.Nope}}"));
}

TEST(table, shortens_by_characters) {
    EXPECT_EQ(shorten("abcdef", 6), "abcdef");
    EXPECT_EQ(shorten("abcdefg", 6), "abcde\xe2\x80\xa6");
    EXPECT_EQ(shorten("größere", 4), "grö\xe2\x80\xa6");
}

TEST(rows, ports_are_joined_into_ranges) {
    auto container = parse_json(
        R"({"Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"IP":"0.0.0.0","PrivatePort":81,"PublicPort":8081,"Type":"tcp"},
{"PrivatePort":9000,"Type":"tcp"},{"PrivatePort":9001,"Type":"tcp"},{"IP":"::","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"PrivatePort":53,"Type":"udp"}]})");
    EXPECT_EQ(show_ports(*container),
              "53/udp, 9000-9001/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 0.0.0.0:8081->81/tcp");
}

TEST(demultiplexer, takes_frames_apart_wherever_they_are_cut) {
    std::string frames("\1\0\0\0\0\0\0\3abc\2\0\0\0\0\0\0\1x\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\1z", 37);
    for (std::size_t step = 1; step <= frames.size(); ++step) {
        std::string out;
        std::string errors;
        Demultiplexer demultiplexer([&](int stream, std::string_view data) -> Result<> {
            (stream == 2 ? errors : out) += data;
            return {};
        });
        for (std::size_t at = 0; at < frames.size(); at += step)
            ASSERT_TRUE(demultiplexer.feed(std::string_view(frames).substr(at, step)));
        EXPECT_EQ(out, "abcz");
        EXPECT_EQ(errors, "x");
    }
    Demultiplexer strict([](int, std::string_view) -> Result<> { return {}; });
    EXPECT_FALSE(strict.feed("plain text"));
}

TEST(waterfall, is_golden) {
    EXPECT_EQ(draw_waterfall(
                  {{"create", 0, 2'000'000}, {"start", 2'000'000, 10'000'000}, {"exit", 10'000'000, 10'000'000}}, 40),
              "create     2.00 ms     0.00  ██\n"
              "start      8.00 ms     2.00    ████████\n"
              "exit       0.00 ms    10.00           █\n");
    EXPECT_EQ(draw_waterfall({}, 80), "");
}

}  // namespace
}  // namespace wherry::cli
