// Handing the descriptor of seccomp notifications to whoever answers them. Internal to the room.
#pragma once

#include <optional>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "oci/container.hpp"
#include "oci/hooks.hpp"

namespace wherry::oci {

// Sends a ContainerProcessState of process `pid` with the descriptor as "seccompFd" (config-linux.md "Seccomp").
Result<> send_listener(const std::optional<SeccompListener>& listener, Fd descriptor, const HookState& container,
                       pid_t pid);

}  // namespace wherry::oci
