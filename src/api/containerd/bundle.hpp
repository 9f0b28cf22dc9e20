// What the shim leaves in a bundle, so that `delete`, in a process of its own after the shim's death, can clean up.
#pragma once

#include <optional>
#include <string>

#include "base/json.hpp"
#include "base/result.hpp"
#include "supervisor/protocol.hpp"

namespace wherry::api::containerd {

inline constexpr std::string_view exit_record_name = "wherry-exit.json";
inline constexpr std::string_view bundle_state_name = "wherry-state.json";

// What containerd accepts as an identifier; ids become names of files and cgroups.
Result<> check_id(const std::string& id);
// `what` is named in the error.
Result<> check_absolute(const std::string& path, std::string_view what);

struct BundleState {
    json::object container;  // as oci::Container::state() gave it
    std::string cgroup_path;
    bool rootfs_mounted = false;
};
Result<> save_bundle_state(const std::string& bundle, const BundleState& state);
// not_found: no container was made.
Result<BundleState> load_bundle_state(const std::string& bundle);

struct CleanedUp {
    pid_t pid = 0;
    supervisor::ExitStatus status;
};
// Kills what is left of the container, removes its cgroup and mounts, runs its poststop hooks. The exit status is the
// recorded one where there is one, else that of SIGKILL. Nothing there is fine, too.
Result<CleanedUp> clean_up_bundle(const std::string& bundle);

}  // namespace wherry::api::containerd
