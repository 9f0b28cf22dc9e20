#include "supervisor/frame.hpp"

#include <gtest/gtest.h>

namespace wherry::supervisor {
namespace {

TEST(Frame, ComesBackWholeFromAnyPieces) {
    std::string bytes = *encode_frame("first") + *encode_frame("") + *encode_frame(std::string(70000, 'x'));
    for (std::size_t piece : {std::size_t{1}, std::size_t{3}, std::size_t{4096}, bytes.size()}) {
        FrameDecoder decoder;
        std::vector<std::string> frames;
        for (std::size_t at = 0; at < bytes.size(); at += piece) {
            ASSERT_TRUE(decoder.feed(std::string_view(bytes).substr(at, piece)));
            while (auto frame = decoder.next()) frames.push_back(*frame);
        }
        ASSERT_EQ(frames.size(), 3U);
        EXPECT_EQ(frames[0], "first");
        EXPECT_EQ(frames[1], "");
        EXPECT_EQ(frames[2].size(), 70000U);
    }
}

TEST(Frame, RefusesAnAnnouncedLengthThatIsTooLarge) {
    FrameDecoder decoder;
    EXPECT_FALSE(decoder.feed(std::string("\xFF\xFF\xFF\xFF", 4)));
    EXPECT_FALSE(encode_frame(std::string(max_frame_bytes + 1, 'x')));
}

TEST(Message, KnowsItsKinds) {
    auto request = parse_message(R"({"id":7,"method":"kill","params":{"signal":9},"fds":1,"later":true})");
    ASSERT_TRUE(request);
    EXPECT_EQ(request->kind, Message::Kind::request);
    EXPECT_EQ(request->id, 7U);
    EXPECT_EQ(request->name, "kill");
    EXPECT_EQ(request->fd_count, 1U);
    auto failure = parse_message(R"({"id":7,"error":{"code":"not_found","message":"gone","errno":2}})");
    ASSERT_TRUE(failure);
    Error error = error_from_json(JsonReader(failure->body));
    EXPECT_EQ(error.code(), Code::not_found);
    EXPECT_EQ(error.os_errno(), 2);
    EXPECT_EQ(error.message(), "gone");
    EXPECT_EQ(parse_message(R"({"event":"exit","params":{}})")->kind, Message::Kind::event);
    EXPECT_EQ(parse_message(R"({"id":1,"result":{}})")->kind, Message::Kind::answer);
    for (const char* bad : {"", "[]", "{}", R"({"method":3})", R"({"method":"x","params":[]})",
                            R"({"method":"x","fds":99})", R"({"id":-1,"method":"x"})", "{\"method\":\"x\"} trailing"}) {
        EXPECT_FALSE(parse_message(bad)) << bad;
    }
}

TEST(Message, UnknownErrorCodesReadAsInternal) {
    auto failure = parse_message(R"({"id":7,"error":{"code":"of_the_future","message":"x"}})");
    EXPECT_EQ(error_from_json(JsonReader(failure->body)).code(), Code::internal);
}

TEST(StreamHeader, IsDockersHeader) {
    std::string header(stream_header_bytes, '?');
    put_stream_header(header.data(), StreamFrame::stderr_data, 0x010203);
    EXPECT_EQ(header, std::string("\x02\x00\x00\x00\x00\x01\x02\x03", 8));
    EXPECT_FALSE(parse_stream_header(header));  // 66051 bytes: more than a frame may have
    put_stream_header(header.data(), StreamFrame::stdin_data, 65536);
    auto parsed = parse_stream_header(header);
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->length, 65536U);
    header[2] = 1;
    EXPECT_FALSE(parse_stream_header(header));
}

}  // namespace
}  // namespace wherry::supervisor
