// The system calls wherry-unpack may make; any other ends it.
#pragma once

#include "confine/seccomp.hpp"

namespace wherry {

confine::SeccompProgram allowed_system_calls();

}  // namespace wherry
