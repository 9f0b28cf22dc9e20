// Moving bytes between this process and a container's streams.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "cli/terminal.hpp"
#include "http/client.hpp"

namespace wherry::cli {

// Takes Docker's multiplexed stream apart: frames of {1 out, 2 err; three zeros; length, big-endian u32}.
class Demultiplexer {
  public:
    using Sink = std::function<Result<>(int stream, std::string_view data)>;
    explicit Demultiplexer(Sink sink) : sink_(std::move(sink)) {}
    // data_loss on a frame of an unknown stream.
    Result<> feed(std::string_view data);

  private:
    Sink sink_;
    std::string header_;
    std::uint32_t left_ = 0;
    int stream_ = 0;
};

// Writes frames to our stdout (1, 0) and stderr (2).
Result<> write_to_standard_stream(int stream, std::string_view data);

struct PumpOptions {
    bool terminal = false;    // the stream is raw bytes, not frames
    bool input = false;       // send our stdin
    bool can_poll = true;     // the connection is a plain socket (not TLS)
    std::string detach_keys;  // bytes; looked for only with `terminal`
    std::function<void()> on_resize;
    std::function<void(int signal)> on_signal;
};
enum class PumpEnd : unsigned char { finished, detached };

// Until the other side closes or the detach keys are typed. Our stdin's end half-closes the stream; without `input`
// it is half-closed at once.
Result<PumpEnd> pump(http::RawStream& stream, const PumpOptions& options, SignalInbox* signals);

}  // namespace wherry::cli
