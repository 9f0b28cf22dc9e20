// linux.seccomp of a configuration as a program.
#pragma once

#include <optional>
#include <string>

#include "base/json.hpp"
#include "base/result.hpp"
#include "confine/seccomp.hpp"
#include "oci/container.hpp"

namespace wherry::runtime {

struct PreparedSeccomp {
    confine::SeccompProgram program;
    std::optional<oci::SeccompListener> listener;  // of a profile that notifies
};

// Compiled once for equal profiles: programs are kept in <root>/.seccomp.
Result<PreparedSeccomp> prepare_seccomp(const json::object& profile, const std::string& root,
                                        const std::string& bundle);
json::object seccomp_features();
std::string seccomp_library_version();

}  // namespace wherry::runtime
