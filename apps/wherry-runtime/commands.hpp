// The commands of wherry-runtime. Each gives the exit code of the process.
#pragma once

#include "base/result.hpp"
#include "command_line.hpp"

namespace wherry::runtime {

Result<int> run_command(const CommandLine& line);

}  // namespace wherry::runtime
