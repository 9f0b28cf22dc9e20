// The user's terminal: raw mode that is always undone, its size, and signals as a descriptor.
#pragma once

#include <signal.h>
#include <termios.h>

#include <optional>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::cli {

struct WindowSize {
    unsigned rows = 0;
    unsigned columns = 0;
};
// Of stdout's terminal, or stdin's; nullopt when neither is one.
std::optional<WindowSize> window_size();
// Columns for progress and tables on a terminal; 80 when unknown.
unsigned terminal_columns();

// Raw mode of a terminal for as long as this lives.
class RawMode {
  public:
    static Result<RawMode> enter(int fd);
    ~RawMode() { restore(); }
    RawMode(RawMode&& other) noexcept : fd_(other.fd_), saved_(other.saved_) { other.fd_ = -1; }
    RawMode& operator=(RawMode&&) = delete;
    RawMode(const RawMode&) = delete;
    RawMode& operator=(const RawMode&) = delete;
    void restore();

  private:
    RawMode(int fd, termios saved) : fd_(fd), saved_(saved) {}
    int fd_;
    termios saved_;
};

// Signals read from a descriptor instead of being delivered, for as long as this lives.
class SignalInbox {
  public:
    // proxied: INT, TERM, HUP, QUIT, USR1, USR2, ALRM, CONT, TSTP too, not only WINCH.
    static Result<SignalInbox> open(bool proxied);
    ~SignalInbox();
    SignalInbox(SignalInbox&& other) noexcept : fd_(std::move(other.fd_)), before_(other.before_) {}
    SignalInbox& operator=(SignalInbox&&) = delete;
    SignalInbox(const SignalInbox&) = delete;
    SignalInbox& operator=(const SignalInbox&) = delete;

    int fd() const { return fd_.get(); }
    int take();  // a signal's number; 0 when there is none

  private:
    SignalInbox(Fd fd, sigset_t before) : fd_(std::move(fd)), before_(before) {}
    Fd fd_;
    sigset_t before_;
};

std::string_view signal_name(int number);  // "TERM"; "" when unknown

// "ctrl-p,ctrl-q" or "a,ctrl-x": the bytes of the sequence. Errors in Docker's words.
Result<std::string> parse_detach_keys(std::string_view text);

// Finds the detach sequence in what is typed. Bytes that might begin it are held back until they turn out not to.
class DetachDetector {
  public:
    explicit DetachDetector(std::string sequence) : sequence_(std::move(sequence)) {}
    // Appends to `out` what is to be sent on; true when the sequence was completed.
    bool feed(std::string_view typed, std::string& out);

  private:
    std::string sequence_;
    std::size_t matched_ = 0;
};

}  // namespace wherry::cli
