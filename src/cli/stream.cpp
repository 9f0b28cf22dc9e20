#include "cli/stream.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <vector>

#include "base/fd.hpp"

namespace wherry::cli {

Result<> Demultiplexer::feed(std::string_view data) {
    while (!data.empty()) {
        if (left_ > 0) {
            std::string_view part = data.substr(0, left_);
            TRY(sink_(stream_, part));
            left_ -= static_cast<std::uint32_t>(part.size());
            data.remove_prefix(part.size());
            continue;
        }
        std::size_t take = std::min(data.size(), std::size_t{8} - header_.size());
        header_ += data.substr(0, take);
        data.remove_prefix(take);
        if (header_.size() < 8) break;
        stream_ = static_cast<unsigned char>(header_[0]);
        for (std::size_t i = 4; i < 8; ++i) left_ = (left_ << 8U) | static_cast<unsigned char>(header_[i]);
        if (stream_ > 3) return fail(Code::data_loss, "Unrecognized input header: " + std::to_string(stream_));
        header_.clear();
    }
    return {};
}

Result<> write_to_standard_stream(int stream, std::string_view data) {
    return write_all(stream == 2 ? STDERR_FILENO : STDOUT_FILENO, data);
}

namespace {

class Pump {
  public:
    Pump(http::RawStream& stream, const PumpOptions& options, SignalInbox* signals)
        : stream_(stream),
          options_(options),
          signals_(signals),
          detector_(options.terminal ? options.detach_keys : ""),
          demultiplexer_(write_to_standard_stream) {}

    Result<PumpEnd> run() {
        reading_input_ = options_.input;
        if (!options_.input) TRY(stream_.shutdown_write());
        while (true) {
            std::array<pollfd, 3> fds{};
            fds[0] = {stream_.fd(), POLLIN, 0};
            if (!pending_.empty()) fds[0].events |= POLLOUT;
            fds[1] = {reading_input_ && pending_.empty() ? STDIN_FILENO : -1, POLLIN, 0};
            fds[2] = {signals_ == nullptr ? -1 : signals_->fd(), POLLIN, 0};
            int ready = ::poll(fds.data(), fds.size(), stream_.has_buffered() ? 0 : -1);
            if (ready < 0 && errno != EINTR) return fail_errno("poll");
            if (fds[2].revents != 0) take_signals();
            if ((fds[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0 || stream_.has_buffered()) {
                if (!TRY(receive())) return PumpEnd::finished;
            }
            if ((fds[0].revents & POLLOUT) != 0) TRY(send_pending());
            if ((fds[1].revents & (POLLIN | POLLHUP | POLLERR)) != 0 && TRY(read_input())) return PumpEnd::detached;
        }
    }

  private:
    // False at the end of the stream.
    Result<bool> receive() {
        auto count = stream_.read_some(std::as_writable_bytes(std::span(buffer_)));
        if (!count) {
            if (count.error().os_errno() == ECONNRESET) return false;
            return std::unexpected(std::move(count).error());
        }
        if (*count == 0) return false;
        std::string_view data(buffer_.data(), *count);
        if (options_.terminal)
            TRY(write_all(STDOUT_FILENO, data));
        else
            TRY(demultiplexer_.feed(data));
        return true;
    }

    // True when the detach keys were typed.
    Result<bool> read_input() {
        ssize_t count = ::read(STDIN_FILENO, input_.data(), input_.size());
        if (count < 0 && (errno == EINTR || errno == EAGAIN)) return false;
        if (count <= 0) {  // EIO of a hung-up terminal is an end, too
            reading_input_ = false;
            TRY(half_close());
            return false;
        }
        bool detached = detector_.feed({input_.data(), static_cast<std::size_t>(count)}, pending_);
        if (!pending_.empty()) TRY(send_pending());
        return detached;
    }

    Result<> send_pending() {
        if (!options_.can_poll) {
            std::string data = std::move(pending_);
            pending_.clear();
            return stream_.write_all(data);
        }
        // Never block here: the container may be waiting for us to take its output first.
        ssize_t sent = ::send(stream_.fd(), pending_.data(), pending_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN || errno == EINTR) return {};
            // The container is gone or has closed its input: what it still says is what matters.
            pending_.clear();
            reading_input_ = false;
            return {};
        }
        pending_.erase(0, static_cast<std::size_t>(sent));
        return {};
    }

    Result<> half_close() {
        auto closed = stream_.shutdown_write();
        if (!closed && closed.error().os_errno() != ENOTCONN) return closed;
        return {};
    }

    void take_signals() {
        while (int number = signals_->take()) {
            if (number == SIGWINCH) {
                if (options_.on_resize) options_.on_resize();
            } else if (options_.on_signal) {
                options_.on_signal(number);
            }
        }
    }

    http::RawStream& stream_;
    const PumpOptions& options_;
    SignalInbox* signals_;
    DetachDetector detector_;
    Demultiplexer demultiplexer_;
    bool reading_input_ = false;
    std::string pending_;
    std::vector<char> buffer_ = std::vector<char>(64U << 10U);
    std::vector<char> input_ = std::vector<char>(32U << 10U);
};

}  // namespace

Result<PumpEnd> pump(http::RawStream& stream, const PumpOptions& options, SignalInbox* signals) {
    return Pump(stream, options, signals).run();
}

}  // namespace wherry::cli
