// Blocking work that takes long (a pull, a push): each on a thread of its own, so that it never keeps the pool's few
// threads from the short work that everybody waits for.
#pragma once

#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>

#include "base/result.hpp"

namespace wherry::engine {

namespace asio = boost::asio;

class LongWork {
  public:
    LongWork() = default;
    LongWork(const LongWork&) = delete;
    LongWork& operator=(const LongWork&) = delete;
    // Waits for what is under way: tell it to end before.
    ~LongWork() {
        std::unique_lock lock(mutex_);
        ended_.wait(lock, [this] { return running_ == 0; });
    }

    // Like Pool::run().
    template <class Work>
    asio::awaitable<std::invoke_result_t<Work&>> run(Work work) {
        using Value = std::invoke_result_t<Work&>;
        co_return co_await asio::async_initiate<const asio::use_awaitable_t<>&, void(Value)>(
            [this](auto handler, Work job) {
                begin();
                auto guard = asio::make_work_guard(asio::get_associated_executor(handler));
                std::thread([this, handler = std::move(handler), job = std::move(job),
                             guard = std::move(guard)]() mutable {
                    auto executor = guard.get_executor();
                    asio::dispatch(executor, [handler = std::move(handler), value = job()]() mutable {
                        std::move(handler)(std::move(value));
                    });
                    guard.reset();
                    end();
                }).detach();
            },
            asio::use_awaitable, std::move(work));
    }

  private:
    void begin() {
        std::lock_guard lock(mutex_);
        ++running_;
    }
    void end() {
        // Under the lock: the one who waits may take this object away right after.
        std::lock_guard lock(mutex_);
        --running_;
        ended_.notify_all();
    }

    std::mutex mutex_;
    std::condition_variable ended_;
    int running_ = 0;
};

}  // namespace wherry::engine
