#include "api/docker/parallel.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <optional>

namespace wherry::api::docker {
namespace {

asio::awaitable<Result<>> quietly(asio::awaitable<Result<>> work) {
    co_await asio::this_coro::throw_if_cancelled(false);
    co_return co_await std::move(work);
}

}  // namespace

asio::awaitable<std::pair<Result<>, Result<>>> run_both(asio::awaitable<Result<>> first,
                                                        asio::awaitable<Result<>> second) {
    auto executor = co_await asio::this_coro::executor;
    asio::steady_timer ended(executor, asio::steady_timer::time_point::max());
    std::optional<Result<>> of_second;
    // Both live in this frame, which does not end before the handler ran.
    asio::co_spawn(executor, quietly(std::move(second)),
                   [&of_second, &ended](const std::exception_ptr& thrown, Result<> result) {
                       if (thrown)
                           of_second.emplace(fail(Code::internal, "the request failed"));
                       else
                           of_second.emplace(std::move(result));
                       ended.cancel();
                   });
    Result<> of_first = co_await std::move(first);
    while (!of_second) co_await ended.async_wait(asio::as_tuple(asio::use_awaitable));
    co_return std::pair<Result<>, Result<>>(std::move(of_first), std::move(*of_second));
}

}  // namespace wherry::api::docker
