// --security-opt, --cap-add, --cap-drop, --privileged: what they come to.
#pragma once

#include <string>

#include "base/result.hpp"
#include "confine/capabilities.hpp"
#include "engine/container_spec.hpp"

namespace wherry::engine {

struct SecurityOptions {
    bool no_new_privileges = false;
    bool seccomp_unconfined = false;
    std::string seccomp_profile;  // JSON; empty: the default one
};

// invalid_argument with Docker's words; AppArmor and SELinux profiles are refused: there is nothing that enforces them.
Result<SecurityOptions> parse_security_options(const HostConfig& host_config);
// What a container's processes can have, cut to what this daemon can give.
Result<confine::CapabilitySet> container_capability_set(const HostConfig& host_config);

}  // namespace wherry::engine
