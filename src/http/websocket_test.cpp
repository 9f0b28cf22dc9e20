#include "http/websocket.hpp"

#include <gtest/gtest.h>

namespace wherry::http {
namespace {

std::string masked(std::uint8_t first, std::string_view payload, std::uint8_t length_code = 0) {
    std::string out(1, static_cast<char>(first));
    const std::string mask = "\x01\x02\x03\x04";
    if (length_code == 0 && payload.size() < 126) {
        out += static_cast<char>(0x80U | payload.size());
    } else {
        out += static_cast<char>(0x80 | 126);
        out += static_cast<char>(payload.size() >> 8U);
        out += static_cast<char>(payload.size());
    }
    out += mask;
    for (std::size_t i = 0; i < payload.size(); ++i) out += static_cast<char>(payload[i] ^ mask[i % 4]);
    return out;
}

struct Seen {
    std::string data;
    std::string events;  // "ping:x " "close:x "
    std::string error;
};

// The input in pieces of `step` bytes, into a buffer of 7.
Seen read_all(std::string_view input, std::size_t step) {
    WebsocketReader reader;
    Seen seen;
    std::string waiting;
    while (true) {
        std::array<std::byte, 7> out{};
        auto done = reader.read(std::as_bytes(std::span(waiting)), out);
        if (!done) {
            seen.error = done.error().describe();
            return seen;
        }
        waiting.erase(0, done->consumed);
        // SAFETY: bytes as chars.
        seen.data.append(reinterpret_cast<const char*>(out.data()), done->produced);
        if (done->event == WebsocketReader::Event::ping) seen.events += "ping:" + std::string(reader.control()) + " ";
        if (done->event == WebsocketReader::Event::close) seen.events += "close:" + std::string(reader.control()) + " ";
        if (done->consumed > 0) continue;
        if (input.empty()) return seen;
        waiting += input.substr(0, step);
        input.remove_prefix(std::min(step, input.size()));
    }
}

TEST(Websocket, AcceptsAsTheSpecificationSays) {
    EXPECT_EQ(websocket_accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");  // section 1.3
}

TEST(Websocket, WritesHeads) {
    auto head = [](std::uint64_t size) {
        std::string out;
        append_websocket_head(out, WebsocketOpcode::binary, size);
        return out;
    };
    EXPECT_EQ(head(125), std::string("\x82\x7d"));
    EXPECT_EQ(head(126), std::string("\x82\x7e\x00\x7e", 4));
    EXPECT_EQ(head(65536), std::string("\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00", 10));
}

TEST(Websocket, ReadsFramesInAnyPieces) {
    const std::string large(300, 'l');
    const std::string input = masked(0x02, "be") + masked(0x89, "p1") + masked(0x00, "tween") + masked(0x80, "!") +
                              masked(0x81, "") + masked(0x82, large) + masked(0x8a, "pong") + masked(0x88, "\x03\xe8");
    for (std::size_t step : {1U, 3U, 1000U}) {
        const Seen seen = read_all(input, step);
        EXPECT_EQ(seen.error, "");
        EXPECT_EQ(seen.data, "between!" + large);
        EXPECT_EQ(seen.events, "ping:p1 close:\x03\xe8 ");
    }
}

TEST(Websocket, RefusesWhatTheSpecificationForbids) {
    const std::string bad[] = {
        std::string("\x82\x01x", 3),  // no mask
        masked(0xc2, "x"),            // a reserved bit
        masked(0x83, "x"),            // reserved opcodes
        masked(0x8b, "x"),
        masked(0x09, "x"),                      // a ping in fragments
        masked(0x89, std::string(126, 'x')),    // a long ping
        masked(0x80, "x"),                      // a continuation of nothing
        masked(0x02, "x") + masked(0x82, "x"),  // a message in a message
        masked(0x82, "x", 1),                   // one byte, its length in two
        std::string("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02\x03\x04", 14),
    };
    for (const std::string& input : bad) EXPECT_NE(read_all(input, 5).error, "") << input;
}

}  // namespace
}  // namespace wherry::http
