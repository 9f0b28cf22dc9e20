// Docker's defaults (28.2) as a Spec: mounts, devices, masked and read-only paths, capabilities, namespaces.
//
//     Spec spec = default_spec();
//     spec.process->args = {"/bin/true"};
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "oci/spec.hpp"

namespace wherry::oci {

struct DefaultSpecOptions {
    bool privileged = false;            // every capability this process may give, no masks, writable /sys and cgroup
    bool cgroup_namespace = true;       // docker's --cgroupns=private
    std::string shm_size = "67108864";  // bytes, as tmpfs takes it
};

// New pid, network, mount, ipc, uts and (if asked) cgroup namespaces; user root, cwd /, Docker's PATH; args empty.
Spec default_spec(const DefaultSpecOptions& options = {});

std::span<const std::string_view> default_capabilities();  // the 14 "CAP_..." names
std::span<const std::string_view> default_masked_paths();
std::span<const std::string_view> default_readonly_paths();
std::vector<Mount> default_mounts(const DefaultSpecOptions& options = {});
inline constexpr std::string_view default_path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

}  // namespace wherry::oci
