#include "dns/control_loop.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>

#include "base/clock.hpp"

namespace wherry::dns {

Result<std::unique_ptr<ControlLoop>> ControlLoop::create() {
    std::unique_ptr<ControlLoop> loop(new ControlLoop());
    loop->wake_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!loop->wake_) return fail_errno("eventfd");
    return loop;
}

bool ControlLoop::post(std::function<void()> work, std::size_t most_waiting) {
    {
        std::lock_guard lock(lock_);
        if (posted_.size() >= most_waiting) return false;
        posted_.push_back(std::move(work));
    }
    std::uint64_t one = 1;
    [[maybe_unused]] auto written = ::write(wake_.get(), &one, sizeof one);
    return true;
}

void ControlLoop::after(std::int64_t milliseconds, std::function<void()> work) {
    timers_.emplace(monotonic_ns() + milliseconds * 1'000'000, std::move(work));
}

void ControlLoop::run(int fd, const std::function<void()>& on_readable) {
    while (!stopping_) {
        int timeout = -1;
        if (!timers_.empty()) {
            const std::int64_t left = timers_.begin()->first - monotonic_ns();
            timeout = static_cast<int>(std::clamp<std::int64_t>((left + 999'999) / 1'000'000, 0, 3'600'000));
        }
        std::array<pollfd, 2> polled{{{wake_.get(), POLLIN, 0}, {fd, POLLIN, 0}}};
        (void)::poll(polled.data(), polled.size(), timeout);
        if ((polled[1].revents & POLLIN) != 0) on_readable();
        if ((polled[0].revents & POLLIN) != 0) {
            std::uint64_t count = 0;
            [[maybe_unused]] auto got = ::read(wake_.get(), &count, sizeof count);
        }
        std::deque<std::function<void()>> posted;
        {
            std::lock_guard lock(lock_);
            posted.swap(posted_);
        }
        for (auto& work : posted) work();
        while (!timers_.empty() && timers_.begin()->first <= monotonic_ns()) {
            auto work = std::move(timers_.begin()->second);
            timers_.erase(timers_.begin());
            work();
        }
    }
}

JobPool::JobPool(std::size_t threads) : cancel_(::eventfd(0, EFD_CLOEXEC)), cancel_number_(cancel_.get()) {
    for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

JobPool::~JobPool() {
    {
        std::lock_guard lock(lock_);
        stopping_ = true;
        jobs_.clear();
    }
    std::uint64_t one = 1;
    [[maybe_unused]] auto written = ::write(cancel_.get(), &one, sizeof one);
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void JobPool::submit(std::function<void()> job) {
    {
        std::lock_guard lock(lock_);
        if (stopping_) return;
        jobs_.push_back(std::move(job));
    }
    wake_.notify_one();
}

void JobPool::work() {
    std::unique_lock lock(lock_);
    while (true) {
        wake_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
        if (stopping_) return;
        auto job = std::move(jobs_.front());
        jobs_.pop_front();
        lock.unlock();
        job();
        lock.lock();
    }
}

}  // namespace wherry::dns
