#include "api/docker/json_writer.hpp"

#include <gtest/gtest.h>

namespace wherry::api::docker {
namespace {

std::string written(std::string_view text) {
    JsonWriter writer;
    writer.value(text);
    return writer.take();
}

TEST(JsonWriter, NestsAndSeparates) {
    JsonWriter w;
    w.begin_object()
        .member("a", 1)
        .member("b", true)
        .member("s", "x")
        .member("list", std::vector<std::string>{"p", "q"})
        .member("map", std::map<std::string, std::string>{{"k", "v"}, {"l", "w"}})
        .null_member("n");
    w.key("objects").begin_array();
    w.begin_object().end_object().begin_object().member("c", -5).end_object();
    w.end_array()
        .member_or_null("none", std::vector<std::string>{})
        .member("big", std::uint64_t{18446744073709551615U})
        .end_object();
    EXPECT_EQ(
        w.take_line(),
        R"({"a":1,"b":true,"s":"x","list":["p","q"],"map":{"k":"v","l":"w"},"n":null,"objects":[{},{"c":-5}],"none":null,"big":18446744073709551615})"
        "\n");
}

TEST(JsonWriter, EscapesAsGoDoesWithoutHtml) {
    EXPECT_EQ(written("<a href=\"x\">&\\</a>"), R"("<a href=\"x\">&\\</a>")");
    EXPECT_EQ(written(std::string_view("\n\r\t\b\0\x1f\x7f", 7)), "\"\\n\\r\\t\\u0008\\u0000\\u001f\x7f\"");
    EXPECT_EQ(written("äöü€😀"), "\"äöü€😀\"");
    EXPECT_EQ(written("a\xe2\x80\xa8"), "\"a\\u2028\"");
}

TEST(JsonWriter, WhatIsNoUtf8IsReplaced) {
    EXPECT_EQ(written("a\xff\x80z"), "\"a\\ufffd\\ufffdz\"");
    EXPECT_EQ(written("\xc0\xaf"), "\"\\ufffd\\ufffd\"");                        // overlong
    EXPECT_EQ(written("\xed\xa0\x80"), "\"\\ufffd\\ufffd\\ufffd\"");             // surrogate
    EXPECT_EQ(written("\xf4\x90\x80\x80"), "\"\\ufffd\\ufffd\\ufffd\\ufffd\"");  // beyond U+10FFFF
    EXPECT_EQ(written("cut\xe2\x82"), "\"cut\\ufffd\\ufffd\"");
}

TEST(JsonWriter, EverythingItWritesParses) {
    std::string all;
    for (int c = 0; c < 256; ++c) all += static_cast<char>(c);
    auto parsed = parse_json(written(all));
    ASSERT_TRUE(parsed) << parsed.error().describe();
    EXPECT_TRUE(parsed->is_string());
}

}  // namespace
}  // namespace wherry::api::docker
