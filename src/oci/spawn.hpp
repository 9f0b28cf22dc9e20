// Making a process by clone3(2) in given namespaces. Internal to the room.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::oci {

struct SpawnRequest {
    std::uint64_t flags = 0;  // CLONE_NEW...
    int cgroup = -1;          // directory of the v2 cgroup to be born in
    int user_namespace = -1;  // joined before the flags take effect
    int pid_namespace = -1;   // descriptor of the namespace, or a pidfd
};

struct Spawned {
    pid_t pid = -1;
    Fd pidfd;
};

// Runs entry(argument) in a child that is the caller's own and never returns here. The caller must be single-threaded.
// For a pid namespace to join the caller's "namespace for children" changes for the moment of the clone. When a user
// namespace has to be joined first, a process in between does both and ends; it is reaped here.
Result<Spawned> spawn(const SpawnRequest& request, void (*entry)(void*), void* argument);

// The binary this process runs can't be written through /proc/<pid>/exe (see protect_own_binary).
Result<> require_protected_binary();

}  // namespace wherry::oci
