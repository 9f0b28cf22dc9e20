// The WebSocket protocol (RFC 6455), a server's side: the handshake's answer, a codec for frames that knows nothing of
// sockets, and a Stream that carries bytes in binary messages over another Stream. No extensions, no sub-protocols.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "http/server.hpp"

namespace wherry::http {

// Sec-WebSocket-Accept of a request's Sec-WebSocket-Key (section 4.2.2).
std::string websocket_accept(std::string_view key);

// invalid_argument when the request is no handshake of version 13 (section 4.2.1).
Result<> check_websocket_request(const Request& request);

// Section 5.2.
enum class WebsocketOpcode : std::uint8_t { continuation = 0, text = 1, binary = 2, close = 8, ping = 9, pong = 10 };

// Section 7.4.1.
enum class WebsocketClose : std::uint16_t { normal = 1000, protocol_error = 1002 };

// Appends the head of an unmasked, final frame; `size` bytes of payload follow it.
void append_websocket_head(std::string& out, WebsocketOpcode opcode, std::uint64_t size);

// Reads a client's frames piece by piece. Messages may come in fragments: their bytes are given as they arrive, since a
// byte stream has no use for their borders.
class WebsocketReader {
  public:
    enum class Event : std::uint8_t { none, ping, close };
    struct Step {
        std::size_t consumed = 0;  // of the input
        std::size_t produced = 0;  // bytes of data, in `out`
        Event event = Event::none;
    };
    // At most one event or one run of data. {0, 0, none}: more input is needed (or room in `out`). invalid_argument:
    // the client broke the protocol (no mask, reserved bits or opcodes, long or fragmented control frames, a
    // continuation of nothing).
    Result<Step> read(std::span<const std::byte> input, std::span<std::byte> out);
    // The payload of the ping or close of the last event.
    std::string_view control() const { return {control_.data(), control_.size()}; }

  private:
    Result<std::size_t> read_head(std::span<const std::byte> input);

    bool in_payload_ = false;
    bool message_open_ = false;  // a fragment came that was not the last
    WebsocketOpcode opcode_ = WebsocketOpcode::binary;
    std::uint64_t left_ = 0;  // of the payload
    std::uint32_t mask_position_ = 0;
    std::array<std::byte, 4> mask_{};
    std::string control_;
};

// Answers the handshake and takes the connection out of HTTP; what check_websocket_request() says where it is none.
asio::awaitable<Result<std::unique_ptr<Stream>>> accept_websocket(Exchange& exchange);

// Binary messages over `below`, after the handshake. read_some() ends (0) with the client's close frame; pings are
// answered from inside it, so it should always be waited on. shutdown_write() sends the close frame.
std::unique_ptr<Stream> make_websocket_stream(std::unique_ptr<Stream> below);

}  // namespace wherry::http
