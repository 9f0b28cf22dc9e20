// The engine's way to the store: one thread that commits what the loop hands it, everything that queued up meanwhile in
// one disk write. Transactions take effect in the order of the calls.
#pragma once

#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/result.hpp"
#include "store/store.hpp"

namespace wherry::engine {

namespace asio = boost::asio;

class Journal {
  public:
    Journal(asio::any_io_executor loop, store::Store& store);
    ~Journal();  // commits what is queued
    Journal(const Journal&) = delete;
    Journal& operator=(const Journal&) = delete;

    // Returns when it is durable.
    asio::awaitable<Result<store::Revision>> commit(store::Transaction transaction);
    // For what can be found out again after a crash: nobody waits. A failure is logged.
    void post(store::Transaction transaction);

  private:
    using Handler = asio::any_completion_handler<void(Result<store::Revision>)>;
    struct Job {
        store::Transaction transaction;
        Handler handler;  // empty for post()
    };
    void work();

    asio::any_io_executor loop_;
    store::Store& store_;
    std::mutex mutex_;  // guards the next two
    std::vector<Job> queue_;
    bool stopping_ = false;
    std::condition_variable wake_;
    std::jthread thread_;
};

}  // namespace wherry::engine
