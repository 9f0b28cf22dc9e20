// Docker's Config, HostConfig and NetworkingConfig as structs, and their JSON: the body of POST /containers/create, the
// parts of an inspect answer, and the form in which a container is kept in the store are one codec.
// Unknown members are ignored (as dockerd does); a member of a wrong type is invalid_argument with its path.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"

namespace wherry::engine {

using Strings = std::vector<std::string>;
using StringMap = std::map<std::string, std::string>;

struct Healthcheck {
    Strings test;  // {} inherit, {"NONE"}, {"CMD", ...}, {"CMD-SHELL", command}
    std::int64_t interval_ns = 0;
    std::int64_t timeout_ns = 0;
    std::int64_t start_period_ns = 0;
    std::int64_t start_interval_ns = 0;
    int retries = 0;
};

// The portable part: what an image can carry too.
struct Config {
    std::string hostname;
    std::string domainname;
    std::string user;
    bool attach_stdin = false;
    bool attach_stdout = false;
    bool attach_stderr = false;
    std::set<std::string> exposed_ports;  // "80/tcp"
    bool tty = false;
    bool open_stdin = false;
    bool stdin_once = false;
    Strings env;
    std::optional<Strings> cmd;
    std::optional<Healthcheck> healthcheck;
    bool args_escaped = false;
    std::string image;
    std::set<std::string> volumes;
    std::string working_dir;
    std::optional<Strings> entrypoint;
    bool network_disabled = false;
    std::string mac_address;
    Strings on_build;
    StringMap labels;
    std::string stop_signal;
    std::optional<int> stop_timeout_seconds;
    std::optional<Strings> shell;
};

struct PortBinding {
    std::string host_ip;
    std::string host_port;  // "", "8080" or "8080-8090"
};

struct RestartPolicy {
    std::string name;  // "", "no", "always", "unless-stopped", "on-failure"
    int maximum_retry_count = 0;
};

struct LogConfig {
    std::string type;  // "": the daemon's default
    StringMap config;
};

struct DeviceMapping {
    std::string path_on_host;
    std::string path_in_container;
    std::string cgroup_permissions;  // "rwm"
};

struct Ulimit {
    std::string name;
    std::int64_t hard = 0;
    std::int64_t soft = 0;
};

struct WeightDevice {
    std::string path;
    std::uint16_t weight = 0;
};

struct ThrottleDevice {
    std::string path;
    std::uint64_t rate = 0;
};

struct BindOptions {
    std::string propagation;
    bool non_recursive = false;
    bool create_mountpoint = false;
    bool read_only_non_recursive = false;
    bool read_only_force_recursive = false;
};

struct VolumeOptions {
    bool no_copy = false;
    StringMap labels;
    std::string subpath;
    std::string driver;
    StringMap driver_options;
};

struct TmpfsOptions {
    std::int64_t size_bytes = 0;
    std::uint32_t mode = 0;
};

struct MountRequest {
    std::string type;  // "bind", "volume", "tmpfs"
    std::string source;
    std::string target;
    bool read_only = false;
    std::string consistency;
    std::optional<BindOptions> bind_options;
    std::optional<VolumeOptions> volume_options;
    std::optional<TmpfsOptions> tmpfs_options;
};

struct Resources {
    std::int64_t cpu_shares = 0;
    std::int64_t memory = 0;  // bytes, as all of these
    std::int64_t nano_cpus = 0;
    std::string cgroup_parent;
    std::uint16_t blkio_weight = 0;
    std::vector<WeightDevice> blkio_weight_device;
    std::vector<ThrottleDevice> blkio_device_read_bps;
    std::vector<ThrottleDevice> blkio_device_write_bps;
    std::vector<ThrottleDevice> blkio_device_read_iops;
    std::vector<ThrottleDevice> blkio_device_write_iops;
    std::int64_t cpu_period = 0;
    std::int64_t cpu_quota = 0;
    std::int64_t cpu_realtime_period = 0;
    std::int64_t cpu_realtime_runtime = 0;
    std::string cpuset_cpus;
    std::string cpuset_mems;
    std::vector<DeviceMapping> devices;
    Strings device_cgroup_rules;
    std::size_t device_requests = 0;  // how many were asked for; none can be met
    std::int64_t kernel_memory = 0;
    std::int64_t memory_reservation = 0;
    std::int64_t memory_swap = 0;  // -1: unlimited
    std::optional<std::int64_t> memory_swappiness;
    std::optional<bool> oom_kill_disable;
    std::optional<std::int64_t> pids_limit;
    std::vector<Ulimit> ulimits;
};

// What belongs to this host.
struct HostConfig {
    Strings binds;
    std::string container_id_file;
    LogConfig log_config;
    std::string network_mode;
    std::map<std::string, std::vector<PortBinding>> port_bindings;  // "80/tcp" ->
    RestartPolicy restart_policy;
    bool auto_remove = false;
    std::string volume_driver;
    Strings volumes_from;
    unsigned console_height = 0;
    unsigned console_width = 0;
    Strings cap_add;
    Strings cap_drop;
    std::string cgroupns_mode;
    Strings dns;
    Strings dns_options;
    Strings dns_search;
    Strings extra_hosts;
    Strings group_add;
    std::string ipc_mode;
    std::string cgroup;
    Strings links;
    int oom_score_adj = 0;
    std::string pid_mode;
    bool privileged = false;
    bool publish_all_ports = false;
    bool readonly_rootfs = false;
    Strings security_opt;
    StringMap storage_opt;
    StringMap tmpfs;  // path -> options
    std::string uts_mode;
    std::string userns_mode;
    std::int64_t shm_size = 0;
    StringMap sysctls;
    StringMap annotations;
    std::string runtime;
    std::string isolation;
    Resources resources;
    std::vector<MountRequest> mounts;
    std::optional<Strings> masked_paths;    // nullopt: the defaults
    std::optional<Strings> readonly_paths;  // nullopt: the defaults
    std::optional<bool> init;
};

struct EndpointSettings {
    std::string ipv4_address;  // wished (IPAMConfig)
    std::string ipv6_address;
    Strings links;
    Strings aliases;
    std::string mac_address;
    StringMap driver_opts;
};

struct NetworkingConfig {
    std::map<std::string, EndpointSettings> endpoints;
};

struct ContainerSpec {
    Config config;
    HostConfig host_config;
    NetworkingConfig networking;
};

// What the containers of a sandbox have in common.
struct SandboxSpec {
    std::string hostname;  // empty: the sandbox's name, where that can be one
    std::string domainname;
    std::string network_mode = "bridge";  // or "none", "host"
    std::map<std::string, std::vector<PortBinding>> port_bindings;
    Strings dns;
    Strings dns_options;
    Strings dns_search;
    Strings extra_hosts;
    StringMap labels;
    bool share_pid = false;  // one numbering of processes; always shared are network, ipc and uts
};
Result<SandboxSpec> decode_sandbox_spec(const json::object& object, const std::string& path = {});
json::object encode_sandbox_spec(const SandboxSpec& spec);

// The body of POST /containers/create: Config's members at the top, HostConfig and NetworkingConfig beside them.
Result<ContainerSpec> decode_create_request(const json::object& body);

Result<Config> decode_config(const json::object& object, const std::string& path = {});
Result<HostConfig> decode_host_config(const json::object& object, const std::string& path = "HostConfig");
Result<NetworkingConfig> decode_networking_config(const json::object& object,
                                                  const std::string& path = "NetworkingConfig");
// Members present in `object` replace those of `into` (POST /containers/{id}/update: Resources and RestartPolicy).
struct UpdateRequest {
    Resources resources;
    std::optional<RestartPolicy> restart_policy;
    std::set<std::string> present;  // names of the members that were given
};
Result<UpdateRequest> decode_update_request(const json::object& object);

// As inspect shows them.
json::object encode_config(const Config& config);
json::object encode_host_config(const HostConfig& host_config);
json::object encode_networking_config(const NetworkingConfig& networking);

}  // namespace wherry::engine
