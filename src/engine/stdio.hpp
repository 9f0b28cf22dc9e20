// The streams of a running process as a client holds them: attach, exec.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "base/result.hpp"

namespace wherry::engine {

namespace asio = boost::asio;

enum class StreamId : std::uint8_t { standard_input = 0, standard_output = 1, standard_error = 2 };

struct OutputChunk {
    StreamId stream = StreamId::standard_output;  // of a terminal always standard_output
    std::string data;                             // never empty, at most 64 KiB
};

// One coroutine may read while another writes. Destroying it closes the streams (and leaves the process alone).
class StdioSession {
  public:
    virtual ~StdioSession() = default;
    virtual bool terminal() const = 0;  // raw bytes instead of frames
    // nullopt: the process closed its output or ended, or the user pressed the detach keys.
    virtual asio::awaitable<Result<std::optional<OutputChunk>>> read() = 0;
    virtual asio::awaitable<Result<>> write(std::string data) = 0;
    virtual asio::awaitable<Result<>> close_stdin() = 0;
    // Makes a pending or the next read end. Any time, also while another coroutine reads.
    virtual void cancel() = 0;
};

}  // namespace wherry::engine
