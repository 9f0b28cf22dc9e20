#include "http/parser.hpp"

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace wherry::http {
namespace {

struct Parsed {
    MessageHead head;
    std::string body;
    std::size_t rest = 0;  // bytes behind the message
};

// Feeds `text` in pieces of `step` bytes, as a socket might.
Result<Parsed> parse(std::string_view text, std::size_t step, MessageParser::Kind kind = MessageParser::Kind::request,
                     std::size_t limit = 8192) {
    MessageParser parser(kind, limit);
    std::string buffer;
    Parsed parsed;
    while (!parser.done()) {
        if (text.empty()) {
            TRY(parser.end_of_stream());
            break;
        }
        std::string_view piece = text.substr(0, step);
        text.remove_prefix(piece.size());
        buffer += piece;
        while (!buffer.empty() && !parser.done()) {
            std::size_t consumed = 0;
            if (!parser.head_done()) {
                consumed = TRY(parser.parse_head(buffer));
            } else {
                std::array<std::byte, 7> out{};
                auto progress = TRY(parser.parse_body(buffer, out));
                for (std::size_t i = 0; i < progress.produced; ++i) parsed.body += static_cast<char>(out[i]);
                consumed = progress.consumed;
                if (progress.produced > 0 && consumed == 0) return fail(Code::internal, "produced out of nothing");
            }
            buffer.erase(0, consumed);
            if (consumed == 0) break;
        }
    }
    parsed.rest = buffer.size() + text.size();
    parsed.head = std::move(parser.head());
    return parsed;
}

TEST(MessageParser, RequestsInPiecesOfAnySize) {
    std::string text =
        "POST /v1.41/containers/create?name=x HTTP/1.1\r\nHost: d\r\nContent-Length: 11\r\nX-A: b\r\n\r\nhello world";
    for (std::size_t step : {std::size_t{1}, std::size_t{2}, std::size_t{7}, std::size_t{64}, text.size()}) {
        auto parsed = parse(text, step);
        ASSERT_TRUE(parsed) << step << ": " << parsed.error().describe();
        EXPECT_EQ(parsed->head.method, "POST");
        EXPECT_EQ(parsed->head.target, "/v1.41/containers/create?name=x");
        EXPECT_EQ(parsed->head.headers.get("x-a"), "b");
        EXPECT_EQ(parsed->body, "hello world");
        EXPECT_TRUE(parsed->head.keep_alive);
    }
}

TEST(MessageParser, ChunkedBodiesInPiecesOfAnySize) {
    std::string text =
        "PUT / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n1\r\n \r\n"
        "a\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET / HTTP/1.1\r\n";
    for (std::size_t step = 1; step <= text.size(); ++step) {
        auto parsed = parse(text, step);
        ASSERT_TRUE(parsed) << step << ": " << parsed.error().describe();
        EXPECT_EQ(parsed->body, "hello 0123456789");
        EXPECT_EQ(parsed->rest, 16U);
    }
}

TEST(MessageParser, RefusesWhatSmugglesRequests) {
    const std::pair<std::string_view, Code> cases[] = {
        {"GET / HTTP/1.1\r\n\r\n", Code::invalid_argument},
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Code::invalid_argument},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", Code::invalid_argument},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         Code::invalid_argument},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
         Code::invalid_argument},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", Code::unimplemented},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", Code::unimplemented},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", Code::invalid_argument},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", Code::invalid_argument},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\nx", Code::invalid_argument},
        {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Code::unimplemented},
        {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Code::invalid_argument},
        {"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", Code::invalid_argument},
        {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Code::invalid_argument},
    };
    for (const auto& [text, code] : cases) {
        auto parsed = parse(text, text.size());
        ASSERT_FALSE(parsed) << text;
        EXPECT_EQ(parsed.error().code(), code) << text << ": " << parsed.error().describe();
    }
}

TEST(MessageParser, LimitsTheHeadAsAWhole) {
    std::string text = "GET / HTTP/1.1\r\nHost: a\r\n";
    for (int i = 0; i < 200; ++i) text += "X-" + std::to_string(i) + ": " + std::string(100, 'x') + "\r\n";
    text += "\r\n";
    for (std::size_t step : {std::size_t{50}, text.size()}) {
        auto parsed = parse(text, step);
        ASSERT_FALSE(parsed);
        EXPECT_EQ(parsed.error().code(), Code::resource_exhausted);
    }
    EXPECT_TRUE(parse(text, 50, MessageParser::Kind::request, 64U << 10U));
}

TEST(MessageParser, Responses) {
    auto parsed = parse("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 3, MessageParser::Kind::response);
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->head.status, 200U);
    EXPECT_EQ(parsed->body, "hi");
    parsed = parse("HTTP/1.1 200 OK\r\n\r\nuntil the end", 4, MessageParser::Kind::response);
    ASSERT_TRUE(parsed);
    EXPECT_TRUE(parsed->head.until_end_of_stream);
    EXPECT_EQ(parsed->body, "until the end");
    parsed = parse("HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nraw", 100,
                   MessageParser::Kind::response);
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->head.status, 101U);
    EXPECT_EQ(parsed->rest, 3U);
    EXPECT_FALSE(parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi", 100, MessageParser::Kind::response));
}

}  // namespace
}  // namespace wherry::http
