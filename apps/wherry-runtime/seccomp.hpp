// linux.seccomp of a configuration as a program.
#pragma once

#include <string>

#include "base/json.hpp"
#include "base/result.hpp"
#include "confine/seccomp.hpp"

namespace wherry::runtime {

// Compiled once for equal profiles: programs are kept in <root>/.seccomp.
Result<confine::SeccompProgram> compile_seccomp_of(const json::object& profile, const std::string& root);

}  // namespace wherry::runtime
