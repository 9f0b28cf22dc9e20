// Work that leaves nothing in this process: done by a forked child that hands back a line of text. What libcrypto and
// libseccomp initialise and allocate would otherwise stay with a shim for the life of its container.
#pragma once

#include <functional>
#include <string>

#include "base/result.hpp"

namespace wherry::api::containerd {

// Blocks until the child has ended. The calling process must be single-threaded. An error of the child's is handed on
// as its code and text.
Result<std::string> in_child(const std::function<Result<std::string>()>& work);

}  // namespace wherry::api::containerd
