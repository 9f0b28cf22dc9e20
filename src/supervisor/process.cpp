#include "supervisor/process.hpp"

#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>

#include <utility>

namespace wherry::supervisor {

SupervisedProcess::SupervisedProcess(EventLoop& loop, std::shared_ptr<OutputHub> output, bool stdin_open,
                                     bool stdin_once, bool terminal)
    : loop_(loop), output_(std::move(output)), stdin_open_(stdin_open), terminal_(terminal) {
    if (stdin_open || terminal) {
        input_ = std::make_shared<InputSink>(loop_, terminal ? InputSink::Kind::terminal : InputSink::Kind::pipe,
                                             stdin_once);
    }
}

Result<ChildStdio> SupervisedProcess::make_pipes() {
    ChildStdio child;
    Pipe out = TRY(make_pipe());
    Pipe err = TRY(make_pipe());
    TRY(output_->add_source(LogStream::stdout_stream, std::move(out.read)));
    TRY(output_->add_source(LogStream::stderr_stream, std::move(err.read)));
    child.stdout_write = std::move(out.write);
    child.stderr_write = std::move(err.write);
    if (stdin_open_) {
        Pipe in = TRY(make_pipe());
        TRY(input_->open(std::move(in.write)));
        child.stdin_read = std::move(in.read);
    }
    return child;
}

Result<> SupervisedProcess::adopt_terminal(Fd master) {
    TRY(output_->add_source(LogStream::stdout_stream, TRY(master.duplicate())));
    TRY(input_->open(TRY(master.duplicate())));
    terminal_master_ = std::move(master);
    return {};
}

Result<> SupervisedProcess::resize(std::uint16_t width, std::uint16_t height) {
    if (!terminal_) return fail(Code::invalid_argument, "the process has no terminal");
    if (!terminal_master_) return fail(Code::conflict, "the process has ended");
    winsize size{};
    size.ws_col = width;
    size.ws_row = height;
    // SAFETY: TIOCSWINSZ reads one winsize.
    if (::ioctl(terminal_master_.get(), TIOCSWINSZ, &size) < 0) return fail_errno("resize terminal");
    return {};
}

void SupervisedProcess::close_streams() {
    if (input_) input_->close();
    terminal_master_.reset();
}

void SupervisedProcess::wait_exit(ExitCallback callback) {
    if (exit_) {
        callback(*exit_);
    } else {
        waiters_.push_back(std::move(callback));
    }
}

void SupervisedProcess::announce_exit(const ExitStatus& status) {
    exit_ = status;
    for (auto& callback : std::exchange(waiters_, {})) callback(status);
}

ExitStatus exit_status_from_wait(int wait_status, WallTime now) {
    ExitStatus status;
    status.finished_at = now;
    if (WIFSIGNALED(wait_status)) {
        status.signal = WTERMSIG(wait_status);
        status.code = 128 + status.signal;
    } else {
        status.code = WEXITSTATUS(wait_status);
    }
    return status;
}

}  // namespace wherry::supervisor
