// What other endpoints use of registries. Room-internal.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <string>

#include "base/result.hpp"
#include "engine/images.hpp"

namespace wherry::api::docker {

namespace asio = boost::asio;
struct Call;

// POST /images/create?fromImage: the stream of steps, or an error before the first of them.
asio::awaitable<Result<>> pull(Call& call);

// A step as dockerd writes it, with its line end.
std::string step_line(const engine::TransferStep& step);

}  // namespace wherry::api::docker
