// Two things at once, both awaited: neither outlives the caller's frame. Room-internal.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <utility>

#include "base/result.hpp"

namespace wherry::api::docker {

namespace asio = boost::asio;

// Runs both to their ends, whatever they return.
asio::awaitable<std::pair<Result<>, Result<>>> run_both(asio::awaitable<Result<>> first,
                                                        asio::awaitable<Result<>> second);

}  // namespace wherry::api::docker
