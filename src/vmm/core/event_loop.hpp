// The device thread's loop over epoll. One thread runs it; any thread may watch, unwatch and post.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::vmm {

class EventLoop;

// Interest in a descriptor; ends when destroyed. A callback that already runs on the loop's thread may still finish.
class Watch {
  public:
    Watch() = default;
    Watch(Watch&& other) noexcept;
    Watch& operator=(Watch&& other) noexcept;
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    ~Watch() { reset(); }

    explicit operator bool() const { return loop_ != nullptr; }
    void reset();
    void set_events(std::uint32_t events);  // EPOLLIN, ...; 0: only errors and hang-ups

  private:
    friend class EventLoop;
    EventLoop* loop_ = nullptr;
    std::uint64_t id_ = 0;
    int fd_ = -1;
    std::uint32_t events_ = 0;
};

class EventLoop {
  public:
    using Callback = std::function<void(std::uint32_t events)>;

    static Result<std::unique_ptr<EventLoop>> create();

    // The descriptor must stay open until the watch is gone.
    Result<Watch> watch(int fd, std::uint32_t events, Callback callback);
    void post(std::function<void()> work);
    // Until stop(). Callbacks and posted work run here, never two at once.
    Result<> run();
    void stop();

  private:
    friend class Watch;
    EventLoop() = default;
    void remove(std::uint64_t id, int fd);
    void run_posted();

    Fd epoll_;
    Fd wake_;
    std::mutex mutex_;  // guards callbacks_, next_id_, posted_
    std::unordered_map<std::uint64_t, std::shared_ptr<Callback>> callbacks_;
    std::uint64_t next_id_ = 1;
    std::vector<std::function<void()>> posted_;
    std::atomic<bool> stopping_ = false;
};

// A one-shot timer on the loop.
class Timer {
  public:
    static Result<std::unique_ptr<Timer>> create(EventLoop& loop, std::function<void()> expired);
    // From now; zero or less means as soon as possible. A second call moves it.
    void arm(std::chrono::nanoseconds delay);
    void disarm();

  private:
    Timer() = default;
    Fd fd_;
    Watch watch_;
};

Result<Fd> make_eventfd();    // non-blocking
void signal_eventfd(int fd);  // adds one
void drain_eventfd(int fd);   // back to zero

}  // namespace wherry::vmm
