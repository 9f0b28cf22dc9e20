#include "supervisor/input.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace wherry::supervisor {

Result<> InputSink::open(Fd target) {
    TRY(set_nonblocking(target.get()));
    target_ = std::move(target);
    flush();
    return {};
}

void InputSink::write(std::string_view bytes) {
    if (closed_ || ending_) return;
    queue_.append(bytes);
    flush();
}

void InputSink::flush() {
    auto keep_alive = shared_from_this();
    while (target_ && sent_ < queue_.size()) {
        ssize_t written = ::write(target_.get(), queue_.data() + sent_, queue_.size() - sent_);
        if (written > 0) {
            sent_ += static_cast<std::size_t>(written);
            continue;
        }
        if (written < 0 && errno == EINTR) continue;
        if (written < 0 && errno == EAGAIN) {
            if (!watch_) {
                auto watch = loop_.watch(target_.get(), EPOLLOUT, [this](std::uint32_t) { flush(); });
                if (watch) watch_ = std::move(*watch);
            }
            if (sent_ >= high_water_bytes) {
                queue_.erase(0, sent_);
                sent_ = 0;
            }
            if (!full()) wake();
            return;
        }
        // The process has closed its input: nobody will read the rest.
        close();
        return;
    }
    if (!target_) return;
    watch_.reset();
    std::string().swap(queue_);
    sent_ = 0;
    if (ending_) {
        close();
        return;
    }
    wake();
}

void InputSink::end() {
    if (kind_ == Kind::terminal || closed_) return;
    ending_ = true;
    flush();
}

void InputSink::client_left() {
    if (once_) end();
}

void InputSink::close() {
    closed_ = true;
    watch_.reset();
    target_.reset();
    std::string().swap(queue_);
    sent_ = 0;
    wake();
}

void InputSink::wake() {
    for (auto& callback : std::exchange(waiting_, {})) loop_.defer(std::move(callback));
}

}  // namespace wherry::supervisor
