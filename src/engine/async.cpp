#include "engine/async.hpp"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/this_coro.hpp>

namespace wherry::engine {

asio::awaitable<void> Signal::wait(Clock::time_point deadline) {
    asio::steady_timer timer(co_await asio::this_coro::executor, deadline);
    // Also when the caller is cancelled, which Asio says by throwing.
    struct Registration {
        std::vector<asio::steady_timer*>& list;
        asio::steady_timer* timer;
        ~Registration() { std::erase(list, timer); }
    } const registration{.list = waiting_, .timer = &timer};
    waiting_.push_back(&timer);
    co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
}

void Signal::notify_all() {
    // Those who wait again from their own wake-up do so later, on the loop: cancel() only queues.
    for (asio::steady_timer* timer : std::exchange(waiting_, {})) timer->cancel();
}

asio::awaitable<Mutex::Guard> Mutex::lock() {
    if (!locked_) {
        locked_ = true;
        co_return Guard(this);
    }
    bool granted = false;
    asio::steady_timer timer(co_await asio::this_coro::executor, asio::steady_timer::time_point::max());
    struct Registration {
        std::deque<Waiter>& list;
        asio::steady_timer* timer;
        ~Registration() {
            std::erase_if(list, [this](const Waiter& waiter) { return waiter.timer == timer; });
        }
    } const registration{.list = waiting_, .timer = &timer};
    waiting_.push_back({.timer = &timer, .granted = &granted});
    while (!granted) co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
    co_return Guard(this);
}

void Mutex::unlock() {
    if (waiting_.empty()) {
        locked_ = false;
        return;
    }
    const Waiter next = waiting_.front();
    waiting_.pop_front();
    *next.granted = true;
    next.timer->cancel();
}

void Gate::spawn(asio::awaitable<void> task) {
    if (closing_) return;
    ++running_;
    asio::co_spawn(executor_, guarded(std::move(task)), asio::detached);
}

asio::awaitable<void> Gate::guarded(asio::awaitable<void> task) {
    co_await std::move(task);
    if (--running_ == 0) empty_.notify_all();
}

asio::awaitable<void> Gate::close() {
    closing_ = true;
    while (running_ > 0) co_await empty_.wait();
}

}  // namespace wherry::engine
