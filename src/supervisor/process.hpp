// One supervised process: the first process of a container, or one that exec added; its streams, exit and waiters.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/result.hpp"
#include "supervisor/input.hpp"
#include "supervisor/output.hpp"
#include "supervisor/protocol.hpp"

namespace wherry::supervisor {

// The child's ends of its stdio; empty ones are /dev/null. Closed once the child has them.
struct ChildStdio {
    Fd stdin_read;
    Fd stdout_write;
    Fd stderr_write;
};

class SupervisedProcess {
  public:
    using ExitCallback = std::function<void(const ExitStatus&)>;

    SupervisedProcess(EventLoop& loop, std::shared_ptr<OutputHub> output, bool stdin_open, bool stdin_once,
                      bool terminal);

    // Pipes for a process without a terminal.
    Result<ChildStdio> make_pipes();
    Result<> adopt_terminal(Fd master);
    Result<> resize(std::uint16_t width, std::uint16_t height);
    void close_streams();

    OutputHub& output() { return *output_; }
    const std::shared_ptr<OutputHub>& shared_output() const { return output_; }
    const std::shared_ptr<InputSink>& input() const { return input_; }
    bool terminal() const { return terminal_; }
    bool stdin_open() const { return stdin_open_; }

    // Calls back when the exit is announced; at once when it has been.
    void wait_exit(ExitCallback callback);
    void announce_exit(const ExitStatus& status);
    const std::optional<ExitStatus>& exit() const { return exit_; }

    pid_t pid = 0;
    std::uint64_t start_ticks = 0;
    WallTime started_at{};
    bool reaped = false;  // ended; the exit is announced once the output is flushed

  private:
    EventLoop& loop_;
    std::shared_ptr<OutputHub> output_;
    std::shared_ptr<InputSink> input_;
    Fd terminal_master_;
    bool stdin_open_;
    bool terminal_;
    std::optional<ExitStatus> exit_;
    std::vector<ExitCallback> waiters_;
};

// From waitpid's status: code as a shell says it.
ExitStatus exit_status_from_wait(int wait_status, WallTime now);

}  // namespace wherry::supervisor
