#include "foreground.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <optional>

#include "oci/container.hpp"

namespace wherry::runtime {

namespace {

// The caller's terminal in raw mode for as long as this lives.
class RawMode {
  public:
    RawMode() {
        if (::tcgetattr(0, &before_) < 0) return;
        termios raw = before_;
        ::cfmakeraw(&raw);
        active_ = ::tcsetattr(0, TCSANOW, &raw) == 0;
    }
    RawMode(const RawMode&) = delete;
    RawMode& operator=(const RawMode&) = delete;
    ~RawMode() {
        if (active_) ::tcsetattr(0, TCSANOW, &before_);
    }

  private:
    termios before_{};
    bool active_ = false;
};

void copy_window_size(int terminal) {
    winsize size{};
    // SAFETY: TIOCGWINSZ and TIOCSWINSZ write and read a winsize.
    if (::ioctl(0, TIOCGWINSZ, &size) == 0 && size.ws_row != 0) ::ioctl(terminal, TIOCSWINSZ, &size);
}

// false: the source has ended.
bool pump(int from, int to) {
    std::array<char, 16384> buffer{};
    ssize_t got = ::read(from, buffer.data(), buffer.size());
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) return true;
    if (got <= 0) return false;
    return write_all(to, std::string_view(buffer.data(), static_cast<std::size_t>(got))).has_value();
}

}  // namespace

Result<int> attend(int pidfd, Fd terminal) {
    sigset_t all;
    ::sigfillset(&all);
    for (int keep : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) ::sigdelset(&all, keep);
    if (::sigprocmask(SIG_BLOCK, &all, nullptr) < 0) return fail_errno("signals");
    Fd signals(::signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals) return fail_errno("signalfd");
    std::optional<RawMode> raw;
    if (terminal) {
        raw.emplace();
        copy_window_size(terminal.get());
    }
    bool reading = static_cast<bool>(terminal);
    bool typing = reading;
    bool ended = false;
    while (!ended || reading) {
        std::array<pollfd, 4> fds{pollfd{ended ? -1 : pidfd, POLLIN, 0}, pollfd{signals.get(), POLLIN, 0},
                                  pollfd{reading ? terminal.get() : -1, POLLIN, 0}, pollfd{typing ? 0 : -1, POLLIN, 0}};
        // What is left in the terminal once the process has ended is there already.
        int ready = ::poll(fds.data(), fds.size(), ended ? 50 : -1);
        if (ready < 0 && errno != EINTR) return fail_errno("poll");
        if (ended && ready == 0) break;
        if (fds[2].revents != 0) reading = pump(terminal.get(), 1);
        if (fds[3].revents != 0) typing = pump(0, terminal.get());
        if (fds[1].revents != 0) {
            signalfd_siginfo info{};
            if (::read(signals.get(), &info, sizeof info) == sizeof info) {
                int number = static_cast<int>(info.ssi_signo);
                if (number == SIGWINCH && terminal) {
                    copy_window_size(terminal.get());
                } else if (number != SIGCHLD && number != SIGPIPE) {
                    ::syscall(SYS_pidfd_send_signal, pidfd, number, nullptr, 0);
                }
            }
        }
        if (fds[0].revents != 0) ended = true;
    }
    oci::ExitStatus status = TRY(oci::wait_exit(pidfd));
    return status.code;
}

}  // namespace wherry::runtime
