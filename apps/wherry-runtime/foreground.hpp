// Staying with a process of a container: forwards signals and, with a terminal, bytes both ways.
#pragma once

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::runtime {

// Until the child behind pidfd has ended and its terminal is drained. -> its exit code, as a shell says it.
Result<int> attend(int pidfd, Fd terminal);

}  // namespace wherry::runtime
