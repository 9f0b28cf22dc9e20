// Starting the shim's process. Private to the room.
#pragma once

#include <boost/asio/any_io_executor.hpp>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "supervisor/client/client.hpp"

namespace wherry::supervisor {

// Starts wherry-shim in a session of its own, without our environment, and reaps it whenever it ends. Returns our end
// of the control connection. Takes about half a millisecond (vfork and exec).
Result<Fd> spawn_shim(const asio::any_io_executor& executor, const SpawnOptions& options);

}  // namespace wherry::supervisor
