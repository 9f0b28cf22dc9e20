// The daemon's log sink: spdlog, asynchronous enough for a server and readable by people and journald.
#pragma once

#include <string>

#include "base/result.hpp"

namespace wherry {

// Sends log lines through spdlog, to stderr or, when `file` is not empty, appended to that file.
Result<> install_spdlog_sink(const std::string& file);

}  // namespace wherry
