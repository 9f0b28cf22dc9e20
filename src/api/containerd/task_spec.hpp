// A bundle's config.json as the supervisor takes it.
#pragma once

#include <string>

#include "api/containerd/messages.hpp"
#include "api/containerd/rootfs.hpp"
#include "base/json.hpp"
#include "base/result.hpp"

namespace wherry::api::containerd {

Result<json::object> read_config(const std::string& bundle);

// The id of the group a container belongs to: containers of one Kubernetes pod, whose sandbox containerd names in the
// annotations, share one shim. Its own id when it stands alone.
std::string group_of(const json::object& config, const std::string& container_id);

// Whether hooks may want to see the root file system on the host, before the container is on its own.
bool has_host_hooks(const json::object& config);

// Where systemd would put "system.slice:prefix:name" (kubelet's and dockerd's form for its driver); other paths as they
// are, made absolute. invalid_argument for a slice that is none.
Result<std::string> cgroup_path_of(const std::string& cgroups_path);

// What the request and the plan of the root change in the configuration.
Result<> adapt_config(json::object& config, bool terminal, const PlannedRoot& root);

// A network namespace that the configuration wants new becomes the one at `path`.
Result<> give_network(json::object& config, const std::string& path);

// Takes linux.seccomp out and compiles it: the path of the program, empty without a profile.
Result<std::string> compile_seccomp_of(json::object& config, const std::string& cache_directory);

}  // namespace wherry::api::containerd
