// Joins a process's streams with a client's raw connection: Docker's attach protocol. Room-internal.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "engine/stdio.hpp"
#include "http/server.hpp"

namespace wherry::api::docker {

namespace asio = boost::asio;

inline constexpr std::string_view raw_stream_type = "application/vnd.docker.raw-stream";
inline constexpr std::string_view multiplexed_stream_type = "application/vnd.docker.multiplexed-stream";

// What a hijacked or log stream calls itself: since 1.42 frames have a name of their own.
std::string_view stream_content_type(bool terminal, int minor);

// Appends Docker's frame: stream number, three zeros, length in 32 bits big-endian, data.
void append_frame(std::string& out, engine::StreamId stream, std::string_view data);

enum class Input : std::uint8_t { none, forwarded };
enum class Output : std::uint8_t { framed, raw };  // raw: both streams as they come

// Until the process's output ends or the client is gone: output goes out in frames (always raw from a terminal), input
// goes in, and its end closes stdin, which never means detach. Then our side of the connection is ended.
asio::awaitable<Result<>> pump_stdio(std::unique_ptr<engine::StdioSession> session,
                                     std::unique_ptr<http::Stream> client, Input input, Output output = Output::framed);

}  // namespace wherry::api::docker
