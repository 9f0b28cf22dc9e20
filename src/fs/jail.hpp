// What is left of this process' rights before it reads the first foreign byte.
#pragma once

#include <vector>

#include "base/result.hpp"
#include "confine/seccomp.hpp"
#include "fs/options.hpp"

namespace wherry::fs {

// The system calls that serving takes; any other ends the process.
confine::SeccompProgram allowed_system_calls();

// Enters the jail: the directory is the root (and read-only, when it is to be), with nothing of the host but `keep`.
// Without root's rights it makes itself a user namespace first, in which this user is the only one.
Result<> enter_jail(const Options& options, std::vector<int> keep);

}  // namespace wherry::fs
