// One epoll loop, with timers. One thread; callbacks run from run() and may add and remove watches and timers,
// their own included.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::supervisor {

class EventLoop;

// Interest in a descriptor; ends when destroyed. The descriptor must stay open for as long.
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
    // Changes the wanted events (EPOLLIN, ...); 0 leaves only errors and hang-ups.
    void set_events(std::uint32_t events);
    std::uint32_t events() const { return events_; }

  private:
    friend class EventLoop;
    EventLoop* loop_ = nullptr;
    std::uint64_t id_ = 0;
    int fd_ = -1;
    std::uint32_t events_ = 0;
};

// A single shot; cancelled when destroyed.
class Timer {
  public:
    Timer() = default;
    Timer(Timer&& other) noexcept;
    Timer& operator=(Timer&& other) noexcept;
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;
    ~Timer() { reset(); }

    explicit operator bool() const { return loop_ != nullptr; }
    void reset();

  private:
    friend class EventLoop;
    EventLoop* loop_ = nullptr;
    std::pair<std::int64_t, std::uint64_t> key_{};
};

class EventLoop {
  public:
    using Callback = std::function<void(std::uint32_t events)>;

    static Result<std::unique_ptr<EventLoop>> create();
    EventLoop(const EventLoop&) = delete;
    EventLoop& operator=(const EventLoop&) = delete;

    Result<Watch> watch(int fd, std::uint32_t events, Callback callback);
    // Makes `timer` run `callback` after `delay` (and forgets what it was set to before).
    void schedule(Timer& timer, std::chrono::milliseconds delay, std::function<void()> callback);
    // Runs once everything of this round is done: for the removal of whoever is on the stack.
    void defer(std::function<void()> callback);
    // Called when nothing happened for `delay`, once until something happens again: for giving memory back.
    void set_idle_callback(std::chrono::milliseconds delay, std::function<void()> callback);

    void run();  // until stop()
    void stop() { stopped_ = true; }

  private:
    friend class Watch;
    friend class Timer;
    explicit EventLoop(Fd epoll) : epoll_(std::move(epoll)) {}
    int next_timeout(bool idle_pending) const;
    void run_timers();
    void run_deferred();

    Fd epoll_;
    std::unordered_map<std::uint64_t, std::shared_ptr<Callback>> callbacks_;
    std::map<std::pair<std::int64_t, std::uint64_t>, std::pair<Timer*, std::function<void()>>> timers_;
    std::vector<std::function<void()>> deferred_;
    std::function<void()> idle_callback_;
    std::int64_t idle_ns_ = 0;
    std::int64_t last_activity_ns_ = 0;
    std::uint64_t next_id_ = 1;
    bool stopped_ = false;
};

}  // namespace wherry::supervisor
