#include "cli/terminal.hpp"

#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace wherry::cli {

std::optional<WindowSize> window_size() {
    for (int fd : {STDOUT_FILENO, STDIN_FILENO}) {
        winsize size{};
        // SAFETY: TIOCGWINSZ fills a winsize.
        if (::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return WindowSize{size.ws_row, size.ws_col};
    }
    return std::nullopt;
}

unsigned terminal_columns() {
    auto size = window_size();
    return size ? size->columns : 80;
}

Result<RawMode> RawMode::enter(int fd) {
    termios saved{};
    if (::tcgetattr(fd, &saved) < 0) return fail_errno("terminal attributes");
    termios raw = saved;
    ::cfmakeraw(&raw);
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    if (::tcsetattr(fd, TCSANOW, &raw) < 0) return fail_errno("raw mode of the terminal");
    return RawMode(fd, saved);
}

void RawMode::restore() {
    if (fd_ >= 0) ::tcsetattr(fd_, TCSANOW, &saved_);
    fd_ = -1;
}

Result<SignalInbox> SignalInbox::open(bool proxied) {
    sigset_t wanted;
    sigset_t before;
    ::sigemptyset(&wanted);
    ::sigaddset(&wanted, SIGWINCH);
    if (proxied)
        for (int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT, SIGTSTP})
            ::sigaddset(&wanted, number);
    if (::sigprocmask(SIG_BLOCK, &wanted, &before) < 0) return fail_errno("block signals");
    Fd fd(::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd) return fail_errno("signalfd");
    return SignalInbox(std::move(fd), before);
}

SignalInbox::~SignalInbox() {
    if (fd_) ::sigprocmask(SIG_SETMASK, &before_, nullptr);
}

int SignalInbox::take() {
    signalfd_siginfo info{};
    return ::read(fd_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info) ? static_cast<int>(info.ssi_signo)
                                                                                      : 0;
}

std::string_view signal_name(int number) {
    switch (number) {
        case SIGINT:
            return "INT";
        case SIGTERM:
            return "TERM";
        case SIGHUP:
            return "HUP";
        case SIGQUIT:
            return "QUIT";
        case SIGUSR1:
            return "USR1";
        case SIGUSR2:
            return "USR2";
        case SIGALRM:
            return "ALRM";
        case SIGCONT:
            return "CONT";
        case SIGTSTP:
            return "TSTP";
        case SIGWINCH:
            return "WINCH";
        default:
            return "";
    }
}

Result<std::string> parse_detach_keys(std::string_view text) {
    std::string sequence;
    while (true) {
        auto comma = text.find(',');
        std::string_view key = text.substr(0, comma);
        if (key.empty() && comma == 0 && text.size() == 1) key = ",";
        if (key.size() == 1) {
            sequence += key[0];
        } else if (key.starts_with("ctrl-") && key.size() == 6) {
            char c = key[5];
            if (c >= 'a' && c <= 'z')
                sequence += static_cast<char>(c - 'a' + 1);
            else if (auto at = std::string_view("@").find(c); at == 0)
                sequence += '\0';
            else if (auto other = std::string_view("[\\]^_").find(c); other != std::string_view::npos)
                sequence += static_cast<char>(27 + other);
            else
                return fail(Code::invalid_argument, "invalid detach keys (" + std::string(key) +
                                                        "): unknown character: '" + std::string(key) + "'");
        } else {
            return fail(Code::invalid_argument, "invalid detach keys (" + std::string(text) +
                                                    "): unknown character: '" + std::string(key) + "'");
        }
        if (comma == std::string_view::npos || text.size() == 1) return sequence;
        text.remove_prefix(comma + 1);
    }
}

bool DetachDetector::feed(std::string_view typed, std::string& out) {
    if (sequence_.empty()) {
        out += typed;
        return false;
    }
    for (char c : typed) {
        if (c == sequence_[matched_]) {
            if (++matched_ == sequence_.size()) return true;
            continue;
        }
        // What was held back was meant for the container; this byte may begin the sequence anew.
        out.append(sequence_, 0, matched_);
        matched_ = c == sequence_[0] ? 1 : 0;
        if (matched_ == 0) out += c;
    }
    return false;
}

}  // namespace wherry::cli
