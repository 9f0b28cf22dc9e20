// What a StdioStream consists of. Private to the room.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <string>

#include "base/fd.hpp"
#include "supervisor/client/client.hpp"

namespace wherry::supervisor {

// Completion as [error, ...] instead of an exception.
inline constexpr auto tuple = asio::as_tuple(asio::use_awaitable);

struct StdioStream::State {
    using Socket = asio::local::stream_protocol::socket;

    State(const asio::any_io_executor& executor, Fd connected, StreamReply reply_in)
        : socket(executor, asio::local::stream_protocol(), connected.release()), reply(reply_in) {}

    Socket socket;
    StreamReply reply;
    std::string received;  // not looked at yet
    std::size_t used = 0;
    std::uint8_t kind = 0;        // of the frame in progress
    std::uint32_t remaining = 0;  // of its payload
    bool ended = false;
    bool closed = false;
};

}  // namespace wherry::supervisor
