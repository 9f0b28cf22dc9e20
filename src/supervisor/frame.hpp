// Framing of the control protocol: u32 length, big endian, and that many bytes of JSON; and the parsed message.
// The decoder takes bytes in any pieces. Everything it is given may be hostile: an error means that the connection is
// to be closed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "supervisor/protocol.hpp"

namespace wherry::supervisor {

inline constexpr std::size_t frame_header_bytes = 4;

void put_u32(char* target, std::uint32_t value);  // big endian
std::uint32_t get_u32(const char* source);

// The header and the payload; resource_exhausted beyond max_frame_bytes.
Result<std::string> encode_frame(std::string_view payload);

// Collects bytes and hands out whole frames. Memory is bounded by one frame and given back when it is handed out.
class FrameDecoder {
  public:
    // resource_exhausted when the announced length is too large.
    Result<> feed(std::string_view bytes);
    // The next whole frame's payload.
    std::optional<std::string> next();
    // Bytes received behind the last whole frame (a connection that turns into a stream hands them over).
    std::string take_rest();

  private:
    std::string buffer_;
};

// A request, an answer or an event.
struct Message {
    enum class Kind : unsigned char { request, answer, failure, event };
    Kind kind = Kind::request;
    std::uint64_t id = 0;      // requests and answers
    std::string name;          // method or event
    json::object body;         // params, result or error
    std::size_t fd_count = 0;  // descriptors that belong to it
};
Result<Message> parse_message(std::string_view payload);

inline constexpr std::size_t max_message_fds = 4;

std::string encode_request(std::uint64_t id, std::string_view method, json::object params, std::size_t fd_count = 0);
std::string encode_answer(std::uint64_t id, json::object result);
std::string encode_failure(std::uint64_t id, const Error& error);
std::string encode_event(std::string_view name, json::object params);

// Header of a stdio stream frame (StreamFrame). unimplemented kinds are returned as they are: the receiver skips them.
struct StreamHeader {
    std::uint8_t kind = 0;
    std::uint32_t length = 0;
};
void put_stream_header(char* target, StreamFrame kind, std::uint32_t length);
// invalid_argument when the padding is not zero or the length is over max_stream_payload_bytes.
Result<StreamHeader> parse_stream_header(std::string_view bytes);

}  // namespace wherry::supervisor
