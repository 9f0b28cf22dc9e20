// A client's hold on the streams of a process that may not have started yet: waits for the start, follows the output,
// watches the input for the detach keys. Internal; lives on the loop.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.hpp"
#include "engine/container.hpp"
#include "engine/stdio.hpp"

namespace wherry::engine {

// "ctrl-p,ctrl-q" -> the bytes; single characters and ctrl-<a-z @ [ \ ] ^ _>. invalid_argument.
Result<std::string> parse_detach_keys(std::string_view text);

struct StreamSessionOptions {
    supervisor::StreamRequest request;  // offsets: as for a stream opened after the start
    bool terminal = false;
    std::string detach_keys;  // bytes; empty: none
    std::string backlog;      // given first, as standard output
    // A process that has not started yet (docker run attaches first): the run to wait for; 0: it runs already.
    std::uint64_t wait_for_start = 0;
    // An exec: its end is reported after its exit code is known, which clients ask for next. A process that only closed
    // its output is waited for a little while.
    std::shared_ptr<Exec> exec;
    std::function<void()> closed;  // when the session ends or is dropped; once
};

std::unique_ptr<StdioSession> make_stream_session(ContainerPtr container, StreamSessionOptions options);

}  // namespace wherry::engine
