// The thread that changes things: functions posted from other threads, timers, and a pool of threads for what blocks.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::dns {

class ControlLoop {
  public:
    static Result<std::unique_ptr<ControlLoop>> create();

    // From any thread. False when more than `most_waiting` are waiting already.
    bool post(std::function<void()> work, std::size_t most_waiting = 1U << 20U);
    // From the loop's thread.
    void after(std::int64_t milliseconds, std::function<void()> work);
    // Runs what is posted and due; `on_readable` when `fd` is. Returns after stop().
    void run(int fd, const std::function<void()>& on_readable);
    void stop() { stopping_ = true; }

  private:
    ControlLoop() = default;
    Fd wake_;
    bool stopping_ = false;
    std::mutex lock_;
    std::deque<std::function<void()>> posted_;
    std::multimap<std::int64_t, std::function<void()>> timers_;
};

class JobPool {
  public:
    explicit JobPool(std::size_t threads);
    ~JobPool();  // waits for what is running; what is not yet is dropped
    JobPool(const JobPool&) = delete;
    JobPool& operator=(const JobPool&) = delete;
    void submit(std::function<void()> job);
    const int* cancel_fd() const { return &cancel_number_; }  // readable once the pool is going down

  private:
    void work();
    Fd cancel_;
    int cancel_number_ = -1;
    bool stopping_ = false;
    std::mutex lock_;
    std::condition_variable wake_;
    std::deque<std::function<void()>> jobs_;
    std::vector<std::thread> threads_;
};

}  // namespace wherry::dns
