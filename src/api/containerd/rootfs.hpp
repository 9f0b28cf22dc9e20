// The root file system of Create: the mounts containerd's snapshotter asks for.
//
// One overlay, or one bind of a folder, is what snapshotters give in practice. It is handed to the runtime, which
// assembles it inside the container's own mount namespace, so that nothing is mounted on the host and nothing has to be
// unmounted. Everything else, and every container with hooks (which may want to see the root from outside), is mounted
// at <bundle>/rootfs as runc's shim does.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "api/containerd/messages.hpp"
#include "base/result.hpp"
#include "supervisor/protocol.hpp"

namespace wherry::api::containerd {

struct PlannedRoot {
    std::optional<supervisor::RootFilesystem> overlay;  // inside the container's namespace
    std::string directory;                              // instead of the bundle's rootfs; empty: that one
    bool readonly = false;
    bool mount_on_host = false;  // all mounts, at the bundle's rootfs
};
PlannedRoot plan_root(const std::vector<Mount>& mounts, bool needs_host_mount);

// Mounts one over the other at `target`, which is made where missing. On failure what was mounted is taken back.
Result<> mount_all(const std::vector<Mount>& mounts, const std::string& target);
// Takes away every mount at `target`; a busy one is detached. None is fine.
Result<> unmount_all(const std::string& target);

}  // namespace wherry::api::containerd
