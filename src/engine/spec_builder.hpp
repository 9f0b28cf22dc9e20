// From what a user asked for to the OCI specification of the container. Pure, but for looking at device nodes.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"
#include "confine/cgroup_resources.hpp"
#include "engine/container_spec.hpp"
#include "engine/mount_point.hpp"
#include "oci/spec.hpp"

namespace wherry::engine {

enum class NetworkKind : std::uint8_t { bridge, none, host, container, sandbox };

struct SpecInput {
    const std::string& id;
    const Config& config;
    const HostConfig& host_config;
    const std::string& path;
    const Strings& args;
    const std::vector<MountPoint>& mounts;
    std::string hostname;
    std::string hostname_file, hosts_file, resolv_conf_file;  // empty: none is mounted
    std::string cgroup_parent;
    const std::vector<Ulimit>& default_ulimits;
    NetworkKind network = NetworkKind::bridge;
    // /proc/<pid>/ns/... of the containers whose namespaces are shared; empty: as HostConfig says.
    std::string pid_namespace, ipc_namespace, uts_namespace;
    // In a sandbox that several share: its shim gives the namespaces, and this folder is /dev/shm.
    bool in_sandbox = false;
    std::string shared_memory;
    bool unified_cgroups = false;  // pure v2: a cgroup namespace by default
};

Result<oci::Spec> build_spec(const SpecInput& input);
// Without the device rules.
confine::CgroupResources build_resources(const Resources& resources);
// The environment a process starts with, before the configuration's.
Strings base_environment(const std::string& hostname, bool terminal);
// `over` wins: later NAME= replaces earlier; "NAME" alone removes it.
Strings merge_environment(Strings base, const Strings& over);
// A process added to a running container: what it shares with the first one.
Result<oci::ProcessSpec> build_exec_process(const SpecInput& input, const Strings& command, const Strings& environment,
                                            const std::string& user, const std::string& working_directory,
                                            bool terminal, bool privileged);
// Every limit named, with what is not allowed here refused.
Result<std::vector<oci::Rlimit>> build_rlimits(const std::vector<Ulimit>& defaults, const std::vector<Ulimit>& wanted);
bool is_valid_device_permission(std::string_view text);

}  // namespace wherry::engine
