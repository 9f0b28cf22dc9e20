#include "engine/journal.hpp"

#include <boost/asio/async_result.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

#include "base/log.hpp"

namespace wherry::engine {

Journal::Journal(asio::any_io_executor loop, store::Store& store)
    : loop_(std::move(loop)), store_(store), thread_([this] { work(); }) {}

Journal::~Journal() {
    {
        const std::scoped_lock lock(mutex_);
        stopping_ = true;
    }
    wake_.notify_one();
}

asio::awaitable<Result<store::Revision>> Journal::commit(store::Transaction transaction) {
    co_return co_await asio::async_initiate<const asio::use_awaitable_t<>&, void(Result<store::Revision>)>(
        [this](auto handler, store::Transaction moved) {
            {
                const std::scoped_lock lock(mutex_);
                queue_.push_back({.transaction = std::move(moved), .handler = Handler(std::move(handler))});
            }
            wake_.notify_one();
        },
        asio::use_awaitable, std::move(transaction));
}

void Journal::post(store::Transaction transaction) {
    {
        const std::scoped_lock lock(mutex_);
        queue_.push_back({.transaction = std::move(transaction), .handler = {}});
    }
    wake_.notify_one();
}

void Journal::work() {
    while (true) {
        std::vector<Job> jobs;
        {
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
            if (queue_.empty()) return;
            jobs = std::exchange(queue_, {});
        }
        std::vector<store::Transaction> transactions;
        transactions.reserve(jobs.size());
        for (Job& job : jobs) transactions.push_back(std::move(job.transaction));
        std::vector<Result<store::Revision>> results = store_.commit_all(transactions);
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            if (jobs[i].handler) {
                asio::post(loop_, [handler = std::move(jobs[i].handler), result = std::move(results[i])]() mutable {
                    std::move(handler)(std::move(result));
                });
            } else if (!results[i]) {
                log_error("store.write_failed", {{"error", results[i].error()}});
            }
        }
    }
}

}  // namespace wherry::engine
