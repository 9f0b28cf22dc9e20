// What the engine's coroutines need of concurrency: a pool for blocking work, a mutex and a condition for coroutines,
// a gate that knows what is still running. Everything but Pool's workers lives on the one loop.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace wherry::engine {

namespace asio = boost::asio;

// Threads for what blocks. `co_await pool.run([] { return blocking(); })` goes on where it was, with the result.
class Pool {
  public:
    explicit Pool(unsigned threads) : workers_(threads) {}

    template <class Work>
    asio::awaitable<std::invoke_result_t<Work&>> run(Work work) {
        using Value = std::invoke_result_t<Work&>;
        static_assert(!std::is_void_v<Value>, "blocking work returns a Result");
        co_return co_await asio::async_initiate<const asio::use_awaitable_t<>&, void(Value)>(
            [this](auto handler, Work job) {
                auto guard = asio::make_work_guard(asio::get_associated_executor(handler));
                asio::post(
                    workers_, [handler = std::move(handler), job = std::move(job), guard = std::move(guard)]() mutable {
                        auto executor = guard.get_executor();
                        // What the work holds is let go before the loop goes on: were its references the
                        // last ones, what belongs to the loop would be undone on this thread.
                        Value result = [&job] {
                            Work whole = std::move(job);
                            return whole();
                        }();
                        asio::dispatch(executor, [handler = std::move(handler), value = std::move(result)]() mutable {
                            std::move(handler)(std::move(value));
                        });
                    });
            },
            asio::use_awaitable, std::move(work));
    }

    // Work that nobody waits for (deleting what is no longer visible).
    template <class Work>
    void post(Work work) {
        asio::post(workers_, std::move(work));
    }

    void join() { workers_.join(); }

  private:
    asio::thread_pool workers_;
};

// A condition for coroutines: wait in a loop that tests what it waits for.
class Signal {
  public:
    using Clock = std::chrono::steady_clock;

    // Returns after notify_all() or at the deadline, whichever is first.
    asio::awaitable<void> wait(Clock::time_point deadline = Clock::time_point::max());
    void notify_all();

  private:
    std::vector<asio::steady_timer*> waiting_;
};

// First come, first served.
class Mutex {
  public:
    class [[nodiscard]] Guard {
      public:
        explicit Guard(Mutex* mutex) : mutex_(mutex) {}
        Guard(Guard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
        Guard& operator=(Guard&&) = delete;
        Guard(const Guard&) = delete;
        Guard& operator=(const Guard&) = delete;
        ~Guard() { unlock(); }
        void unlock() {
            if (mutex_ != nullptr) std::exchange(mutex_, nullptr)->unlock();
        }

      private:
        Mutex* mutex_;
    };

    asio::awaitable<Guard> lock();

  private:
    struct Waiter {
        asio::steady_timer* timer;
        bool* granted;
    };
    void unlock();

    bool locked_ = false;
    std::deque<Waiter> waiting_;
};

// Knows every coroutine that was started on its own. close() lets no new one in and returns when the last has ended.
class Gate {
  public:
    explicit Gate(asio::any_io_executor executor) : executor_(std::move(executor)) {}

    void spawn(asio::awaitable<void> task);
    bool closing() const { return closing_; }
    asio::awaitable<void> close();

  private:
    asio::awaitable<void> guarded(asio::awaitable<void> task);

    asio::any_io_executor executor_;
    std::size_t running_ = 0;
    bool closing_ = false;
    Signal empty_;
};

// Two things at once: start one with `Task<T> later(executor, f())`, do the other, then `co_await later.result()`.
template <class T>
class Task {
  public:
    Task(const asio::any_io_executor& executor, asio::awaitable<Result<T>> work) : state_(std::make_shared<State>()) {
        asio::co_spawn(executor, run(state_, std::move(work)), asio::detached);
    }
    asio::awaitable<Result<T>> result() {
        auto state = state_;
        while (!state->value) co_await state->done.wait();
        co_return std::move(*state->value);
    }

  private:
    struct State {
        std::optional<Result<T>> value;
        Signal done;
    };
    static asio::awaitable<void> run(std::shared_ptr<State> state, asio::awaitable<Result<T>> work) {
        Result<T> value = co_await std::move(work);
        state->value.emplace(std::move(value));
        state->done.notify_all();
    }
    std::shared_ptr<State> state_;
};

}  // namespace wherry::engine
