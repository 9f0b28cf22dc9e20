#include "vmm/core/event_loop.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

namespace wherry::vmm {

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
    if (loop_ != nullptr) std::exchange(loop_, nullptr)->remove(id_, fd_);
}

void Watch::set_events(std::uint32_t events) {
    if (loop_ == nullptr || events == events_) return;
    events_ = events;
    epoll_event event = {};
    event.events = events;
    event.data.u64 = id_;
    epoll_ctl(loop_->epoll_.get(), EPOLL_CTL_MOD, fd_, &event);
}

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
    std::unique_ptr<EventLoop> loop(new EventLoop);
    // SAFETY: makes a descriptor, owned at once.
    loop->epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
    if (!loop->epoll_) return fail_errno("epoll_create1");
    loop->wake_ = TRY(make_eventfd());
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.u64 = 0;
    if (epoll_ctl(loop->epoll_.get(), EPOLL_CTL_ADD, loop->wake_.get(), &event) < 0) return fail_errno("epoll_ctl");
    return loop;
}

Result<Watch> EventLoop::watch(int fd, std::uint32_t events, Callback callback) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t id = next_id_++;
    epoll_event event = {};
    event.events = events;
    event.data.u64 = id;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return fail_errno("epoll_ctl");
    callbacks_.emplace(id, std::make_shared<Callback>(std::move(callback)));
    Watch watch;
    watch.loop_ = this;
    watch.id_ = id;
    watch.fd_ = fd;
    watch.events_ = events;
    return watch;
}

void EventLoop::remove(std::uint64_t id, int fd) {
    std::shared_ptr<Callback> last;  // destroyed without the lock: it may own watches of its own
    const std::lock_guard lock(mutex_);
    auto found = callbacks_.find(id);
    if (found == callbacks_.end()) return;
    last = std::move(found->second);
    callbacks_.erase(found);
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void EventLoop::post(std::function<void()> work) {
    {
        const std::lock_guard lock(mutex_);
        posted_.push_back(std::move(work));
    }
    signal_eventfd(wake_.get());
}

void EventLoop::stop() {
    stopping_ = true;
    signal_eventfd(wake_.get());
}

void EventLoop::run_posted() {
    drain_eventfd(wake_.get());
    std::vector<std::function<void()>> work;
    {
        const std::lock_guard lock(mutex_);
        work.swap(posted_);
    }
    for (auto& item : work) item();
}

Result<> EventLoop::run() {
    std::array<epoll_event, 32> events;
    while (!stopping_) {
        const int count = epoll_wait(epoll_.get(), events.data(), events.size(), -1);
        if (count < 0) {
            if (errno == EINTR) continue;
            return fail_errno("epoll_wait");
        }
        for (int i = 0; i < count && !stopping_; ++i) {
            const epoll_event& event = events[static_cast<std::size_t>(i)];
            const std::uint64_t id = event.data.u64;  // a packed structure: no reference into it
            if (id == 0) {
                run_posted();
                continue;
            }
            std::shared_ptr<Callback> callback;
            {
                const std::lock_guard lock(mutex_);
                auto found = callbacks_.find(id);
                if (found != callbacks_.end()) callback = found->second;
            }
            if (callback) (*callback)(event.events);
        }
    }
    return {};
}

Result<std::unique_ptr<Timer>> Timer::create(EventLoop& loop, std::function<void()> expired) {
    std::unique_ptr<Timer> timer(new Timer);
    // SAFETY: makes a descriptor, owned at once.
    timer->fd_ = Fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!timer->fd_) return fail_errno("timerfd_create");
    const int fd = timer->fd_.get();
    timer->watch_ = TRY(loop.watch(fd, EPOLLIN, [fd, expired = std::move(expired)](std::uint32_t) {
        std::uint64_t count = 0;
        if (read(fd, &count, sizeof count) == static_cast<ssize_t>(sizeof count)) expired();
    }));
    return timer;
}

void Timer::arm(std::chrono::nanoseconds delay) {
    const std::int64_t nanoseconds = delay.count() > 0 ? delay.count() : 1;
    itimerspec spec = {};
    spec.it_value.tv_sec = nanoseconds / 1'000'000'000;
    spec.it_value.tv_nsec = nanoseconds % 1'000'000'000;
    timerfd_settime(fd_.get(), 0, &spec, nullptr);
}

void Timer::disarm() {
    const itimerspec spec = {};
    timerfd_settime(fd_.get(), 0, &spec, nullptr);
}

Result<Fd> make_eventfd() {
    // SAFETY: makes a descriptor, owned at once.
    Fd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd) return fail_errno("eventfd");
    return fd;
}

void signal_eventfd(int fd) {
    const std::uint64_t one = 1;
    // A full counter is a signal too.
    [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof one);
}

void drain_eventfd(int fd) {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = read(fd, &count, sizeof count);
}

}  // namespace wherry::vmm
