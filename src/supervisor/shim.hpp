// wherry-shim's life: from the command line to the end of the loop.
#pragma once

#include <span>
#include <string_view>

namespace wherry::supervisor {

// Arguments: --control-fd N (a connected stream socket inherited from the spawner), --directory PATH and
// --sandbox-id ID (optional: the first hello may bring them). Returns the exit code.
int run_shim(std::span<char*> arguments, std::string_view software);

}  // namespace wherry::supervisor
