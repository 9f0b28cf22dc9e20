// An incremental HTTP/1.1 message parser (RFC 9112) for both directions, fed with bytes as they arrive. Room-internal.
// Strict where leniency lets requests be smuggled: both lengths, a transfer coding other than chunked, a missing Host.
// Not thread-safe; touches no I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "http/message.hpp"

namespace wherry::http {

struct MessageHead {
    std::string method;   // requests
    std::string target;   // requests
    unsigned status = 0;  // responses
    int version = 11;     // 10 or 11
    Headers headers;
    std::optional<std::uint64_t> content_length;
    bool chunked = false;
    bool keep_alive = false;
    bool until_end_of_stream = false;  // a response without a length
};

class MessageParser {
  public:
    enum class Kind : unsigned char { request, response };

    MessageParser(Kind kind, std::size_t header_limit_bytes);
    ~MessageParser();
    MessageParser(MessageParser&&) noexcept;
    MessageParser& operator=(MessageParser&&) noexcept;
    MessageParser(const MessageParser&) = delete;
    MessageParser& operator=(const MessageParser&) = delete;

    void reset();           // ready for the next message
    void expect_no_body();  // before the head of a response to HEAD

    // Consumes what it can and returns how much; the rest must be given again, with more behind it, in one piece.
    // Stops behind the head. invalid_argument: malformed; resource_exhausted: the head is over the limit;
    // unimplemented: a version or transfer coding that is not spoken.
    Result<std::size_t> parse_head(std::string_view data);

    struct BodyProgress {
        std::size_t consumed = 0;
        std::size_t produced = 0;
    };
    // Body bytes of `data` into `out`. May produce nothing (chunk headers): call again while it consumes.
    Result<BodyProgress> parse_body(std::string_view data, std::span<std::byte> out);
    // The peer closed. data_loss when the message is not complete.
    Result<> end_of_stream();

    bool head_done() const;
    bool done() const;
    bool started() const;  // some of a message has been seen
    const MessageHead& head() const;
    MessageHead& head();

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace wherry::http
