// wherry-fs as a program.
#pragma once

#include <span>

namespace wherry::fs {

// The whole program; the process' exit code: 0 when the monitor is done, 1 for what failed, 2 for wrong arguments.
int run(std::span<const char* const> arguments);

}  // namespace wherry::fs
