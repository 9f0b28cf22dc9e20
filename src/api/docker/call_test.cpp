#include "api/docker/call.hpp"

#include <gtest/gtest.h>

#include "api/docker/stdio_pump.hpp"

namespace wherry::api::docker {
namespace {

// Every code of the project and the status it becomes: clients branch on these.
TEST(Status, OfEveryCode) {
    const std::pair<Code, unsigned> golden[] = {
        {Code::invalid_argument, 400},   {Code::not_found, 404},         {Code::already_exists, 409},
        {Code::conflict, 409},           {Code::permission_denied, 403}, {Code::unauthenticated, 401},
        {Code::resource_exhausted, 500}, {Code::unavailable, 503},       {Code::deadline_exceeded, 500},
        {Code::cancelled, 500},          {Code::unimplemented, 501},     {Code::data_loss, 500},
        {Code::out_of_range, 400},       {Code::internal, 500},
    };
    EXPECT_EQ(std::size(golden), static_cast<std::size_t>(Code::internal) + 1);
    for (const auto& [code, status] : golden) EXPECT_EQ(status_of(code), status) << to_string(code);
}

TEST(Filters, HaveTwoShapes) {
    auto map = parse_filters(R"({"status":{"running":true,"exited":false},"name":{"web":true}})");
    ASSERT_TRUE(map);
    EXPECT_EQ((*map)["status"], std::vector<std::string>{"running"});
    EXPECT_EQ((*map)["name"], std::vector<std::string>{"web"});
    auto list = parse_filters(R"({"status":["running","exited"]})");
    ASSERT_TRUE(list);
    EXPECT_EQ((*list)["status"].size(), 2U);
    EXPECT_TRUE(parse_filters("")->empty());
    EXPECT_TRUE(parse_filters("{}")->empty());
    for (std::string_view wrong :
         {"{", "[]", "3", R"({"a":3})", R"({"a":["x",1]})", R"({"a":{"x":1}})", R"({"a":"x"})", "{}x"}) {
        auto filters = parse_filters(wrong);
        ASSERT_FALSE(filters) << wrong;
        EXPECT_EQ(filters.error().code(), Code::invalid_argument);
    }
}

TEST(Timestamps, AreSecondsAndNanoseconds) {
    auto nanoseconds = [](std::string_view text) {
        return parse_timestamp(text).value().value().time_since_epoch().count();
    };
    EXPECT_EQ(nanoseconds("1700000000"), 1'700'000'000'000'000'000);
    EXPECT_EQ(nanoseconds("1700000000.000000007"), 1'700'000'000'000'000'007);
    EXPECT_EQ(nanoseconds("1.5"), 1'500'000'000);
    EXPECT_EQ(nanoseconds("2023-11-14T22:13:20Z"), 1'700'000'000'000'000'000);
    EXPECT_FALSE(parse_timestamp("").value());
    EXPECT_FALSE(parse_timestamp("0").value());
    EXPECT_FALSE(parse_timestamp("0.000000000").value());
    for (std::string_view wrong :
         {"x", "1.", "1.x", "1.1234567890", "99999999999", "1.-5", "-", "2023-13-01T00:00:00Z"})
        EXPECT_FALSE(parse_timestamp(wrong)) << wrong;
}

TEST(Frames, AreEightBytesAndData) {
    std::string out;
    append_frame(out, engine::StreamId::standard_error, "hello");
    EXPECT_EQ(out, std::string("\x02\0\0\0\0\0\0\x05hello", 13));
    out.clear();
    append_frame(out, engine::StreamId::standard_output, std::string(70'000, 'x'));
    EXPECT_EQ(out.substr(0, 8), std::string("\x01\0\0\0\0\x01\x11\x70", 8));
    EXPECT_EQ(stream_content_type(false, 41), "application/vnd.docker.raw-stream");
    EXPECT_EQ(stream_content_type(false, 42), "application/vnd.docker.multiplexed-stream");
    EXPECT_EQ(stream_content_type(true, 47), "application/vnd.docker.raw-stream");
}

}  // namespace
}  // namespace wherry::api::docker
