#include "supervisor/event_loop.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>

#include "base/clock.hpp"
#include "base/log.hpp"

namespace wherry::supervisor {

Watch::Watch(Watch&& other) noexcept
    : loop_(std::exchange(other.loop_, nullptr)), id_(other.id_), fd_(other.fd_), events_(other.events_) {}

Watch& Watch::operator=(Watch&& other) noexcept {
    if (this != &other) {
        reset();
        loop_ = std::exchange(other.loop_, nullptr);
        id_ = other.id_;
        fd_ = other.fd_;
        events_ = other.events_;
    }
    return *this;
}

void Watch::reset() {
    if (loop_ == nullptr) return;
    ::epoll_ctl(loop_->epoll_.get(), EPOLL_CTL_DEL, fd_, nullptr);
    loop_->callbacks_.erase(id_);
    loop_ = nullptr;
}

void Watch::set_events(std::uint32_t events) {
    if (loop_ == nullptr || events == events_) return;
    epoll_event event{};
    event.events = events;
    event.data.u64 = id_;
    if (::epoll_ctl(loop_->epoll_.get(), EPOLL_CTL_MOD, fd_, &event) < 0)
        log_warn("loop.modify_failed", {{"errno", errno}});
    events_ = events;
}

Timer::Timer(Timer&& other) noexcept : loop_(std::exchange(other.loop_, nullptr)), key_(std::move(other.key_)) {
    if (loop_ != nullptr) loop_->timers_.at(key_).first = this;
}

Timer& Timer::operator=(Timer&& other) noexcept {
    if (this != &other) {
        reset();
        loop_ = std::exchange(other.loop_, nullptr);
        key_ = other.key_;
        if (loop_ != nullptr) loop_->timers_.at(key_).first = this;
    }
    return *this;
}

void Timer::reset() {
    if (loop_ == nullptr) return;
    loop_->timers_.erase(key_);
    loop_ = nullptr;
}

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
    Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll) return fail_errno("epoll_create1");
    return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll)));
}

Result<Watch> EventLoop::watch(int fd, std::uint32_t events, Callback callback) {
    Watch watch;
    watch.id_ = next_id_++;
    watch.fd_ = fd;
    watch.events_ = events;
    epoll_event event{};
    event.events = events;
    event.data.u64 = watch.id_;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return fail_errno("epoll_ctl");
    callbacks_.emplace(watch.id_, std::make_shared<Callback>(std::move(callback)));
    watch.loop_ = this;
    return watch;
}

void EventLoop::schedule(Timer& timer, std::chrono::milliseconds delay, std::function<void()> callback) {
    timer.reset();
    timer.key_ = {monotonic_ns() + std::chrono::nanoseconds(delay).count(), next_id_++};
    timer.loop_ = this;
    timers_.emplace(timer.key_, std::pair(&timer, std::move(callback)));
}

void EventLoop::defer(std::function<void()> callback) {
    deferred_.push_back(std::move(callback));
}

void EventLoop::set_idle_callback(std::chrono::milliseconds delay, std::function<void()> callback) {
    idle_ns_ = std::chrono::nanoseconds(delay).count();
    idle_callback_ = std::move(callback);
}

int EventLoop::next_timeout(bool idle_pending) const {
    std::int64_t next = LLONG_MAX;
    if (!timers_.empty()) next = timers_.begin()->first.first;
    if (idle_pending) next = std::min(next, last_activity_ns_ + idle_ns_);
    if (next == LLONG_MAX) return -1;
    std::int64_t wait_ns = next - monotonic_ns();
    if (wait_ns <= 0) return 0;
    return static_cast<int>(std::min<std::int64_t>(wait_ns / 1'000'000 + 1, INT_MAX));
}

void EventLoop::run_timers() {
    std::int64_t now = monotonic_ns();
    while (!timers_.empty() && timers_.begin()->first.first <= now) {
        auto node = timers_.extract(timers_.begin());
        auto& [timer, callback] = node.mapped();
        timer->loop_ = nullptr;
        callback();
    }
}

void EventLoop::run_deferred() {
    while (!deferred_.empty()) {
        std::vector<std::function<void()>> callbacks = std::exchange(deferred_, {});
        for (auto& callback : callbacks) callback();
    }
}

void EventLoop::run() {
    bool idle_pending = static_cast<bool>(idle_callback_);
    last_activity_ns_ = monotonic_ns();
    std::array<epoll_event, 16> events{};
    while (!stopped_) {
        run_deferred();
        if (stopped_) break;
        int count =
            ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), next_timeout(idle_pending));
        if (count < 0) {
            if (errno == EINTR) continue;
            log_error("loop.wait_failed", {{"errno", errno}});
            return;
        }
        run_timers();
        if (count > 0 && idle_callback_) {
            idle_pending = true;
            last_activity_ns_ = monotonic_ns();
        } else if (idle_pending && monotonic_ns() >= last_activity_ns_ + idle_ns_) {
            idle_pending = false;
            idle_callback_();
        }
        for (int i = 0; i < count; ++i) {
            // Copies: the kernel's struct is packed, and its members are not aligned.
            const epoll_event event = events.at(static_cast<std::size_t>(i));
            const std::uint64_t id = event.data.u64;
            const std::uint32_t what = event.events;
            // A watch that was removed earlier in this round is not found any more; ids are never used again.
            auto found = callbacks_.find(id);
            if (found == callbacks_.end()) continue;
            std::shared_ptr<Callback> callback = found->second;
            (*callback)(what);
        }
    }
}

}  // namespace wherry::supervisor
