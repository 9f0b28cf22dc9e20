#include "engine/container_spec.hpp"

#include <utility>

#include "engine/field_codec.hpp"

namespace wherry::engine {

using codec::Empty;

template <class C>
void members(C& c, Healthcheck& v) {
    c("Test", v.test, Empty::left_out);
    c("Interval", v.interval_ns, Empty::left_out);
    c("Timeout", v.timeout_ns, Empty::left_out);
    c("StartPeriod", v.start_period_ns, Empty::left_out);
    c("StartInterval", v.start_interval_ns, Empty::left_out);
    c("Retries", v.retries, Empty::left_out);
}

template <class C>
void members(C& c, Config& v) {
    c("Hostname", v.hostname);
    c("Domainname", v.domainname);
    c("User", v.user);
    c("AttachStdin", v.attach_stdin);
    c("AttachStdout", v.attach_stdout);
    c("AttachStderr", v.attach_stderr);
    c("ExposedPorts", v.exposed_ports, Empty::left_out);
    c("Tty", v.tty);
    c("OpenStdin", v.open_stdin);
    c("StdinOnce", v.stdin_once);
    c("Env", v.env);
    c("Cmd", v.cmd);
    c("Healthcheck", v.healthcheck, Empty::left_out);
    if (v.args_escaped || std::is_same_v<C, codec::Decoder>) c("ArgsEscaped", v.args_escaped);
    c("Image", v.image);
    c("Volumes", v.volumes, Empty::as_null);
    c("WorkingDir", v.working_dir);
    c("Entrypoint", v.entrypoint);
    if (v.network_disabled || std::is_same_v<C, codec::Decoder>) c("NetworkDisabled", v.network_disabled);
    c("MacAddress", v.mac_address, Empty::left_out);
    c("OnBuild", v.on_build, Empty::as_null);
    c("Labels", v.labels);
    c("StopSignal", v.stop_signal, Empty::left_out);
    c("StopTimeout", v.stop_timeout_seconds, Empty::left_out);
    c("Shell", v.shell, Empty::left_out);
}

template <class C>
void members(C& c, PortBinding& v) {
    c("HostIp", v.host_ip);
    c("HostPort", v.host_port);
}

template <class C>
void members(C& c, RestartPolicy& v) {
    c("Name", v.name);
    c("MaximumRetryCount", v.maximum_retry_count);
}

template <class C>
void members(C& c, LogConfig& v) {
    c("Type", v.type);
    c("Config", v.config);
}

template <class C>
void members(C& c, SandboxSpec& v) {
    c("Hostname", v.hostname);
    c("Domainname", v.domainname);
    c("NetworkMode", v.network_mode);
    c("PortBindings", v.port_bindings);
    c("Dns", v.dns);
    c("DnsOptions", v.dns_options);
    c("DnsSearch", v.dns_search);
    c("ExtraHosts", v.extra_hosts);
    c("Labels", v.labels);
    c("SharePid", v.share_pid);
}

template <class C>
void members(C& c, DeviceMapping& v) {
    c("PathOnHost", v.path_on_host);
    c("PathInContainer", v.path_in_container);
    c("CgroupPermissions", v.cgroup_permissions);
}

template <class C>
void members(C& c, Ulimit& v) {
    c("Name", v.name);
    c("Hard", v.hard);
    c("Soft", v.soft);
}

template <class C>
void members(C& c, WeightDevice& v) {
    c("Path", v.path);
    c("Weight", v.weight);
}

template <class C>
void members(C& c, ThrottleDevice& v) {
    c("Path", v.path);
    c("Rate", v.rate);
}

template <class C>
void members(C& c, BindOptions& v) {
    c("Propagation", v.propagation, Empty::left_out);
    c("NonRecursive", v.non_recursive, Empty::left_out);
    c("CreateMountpoint", v.create_mountpoint, Empty::left_out);
    c("ReadOnlyNonRecursive", v.read_only_non_recursive, Empty::left_out);
    c("ReadOnlyForceRecursive", v.read_only_force_recursive, Empty::left_out);
}

namespace {
struct DriverConfig {
    std::string* name;
    StringMap* options;
};
template <class C>
void members(C& c, DriverConfig& v) {
    c("Name", *v.name, Empty::left_out);
    c("Options", *v.options, Empty::left_out);
}
}  // namespace

template <class C>
void members(C& c, VolumeOptions& v) {
    c("NoCopy", v.no_copy, Empty::left_out);
    c("Labels", v.labels, Empty::left_out);
    c("Subpath", v.subpath, Empty::left_out);
    DriverConfig driver{.name = &v.driver, .options = &v.driver_options};
    if (std::is_same_v<C, codec::Decoder> || !v.driver.empty() || !v.driver_options.empty()) c("DriverConfig", driver);
}

template <class C>
void members(C& c, TmpfsOptions& v) {
    c("SizeBytes", v.size_bytes, Empty::left_out);
    c("Mode", v.mode, Empty::left_out);
}

template <class C>
void members(C& c, MountRequest& v) {
    c("Type", v.type, Empty::left_out);
    c("Source", v.source, Empty::left_out);
    c("Target", v.target, Empty::left_out);
    c("ReadOnly", v.read_only, Empty::left_out);
    c("Consistency", v.consistency, Empty::left_out);
    c("BindOptions", v.bind_options, Empty::left_out);
    c("VolumeOptions", v.volume_options, Empty::left_out);
    c("TmpfsOptions", v.tmpfs_options, Empty::left_out);
}

namespace {
// Requests for GPUs and the like: counted, so that they can be refused by name.
struct Anything {};
template <class C>
void members(C&, Anything&) {}
}  // namespace

template <class C>
void members(C& c, Resources& v) {
    c("CpuShares", v.cpu_shares);
    c("Memory", v.memory);
    c("NanoCpus", v.nano_cpus);
    c("CgroupParent", v.cgroup_parent);
    c("BlkioWeight", v.blkio_weight);
    c("BlkioWeightDevice", v.blkio_weight_device);
    c("BlkioDeviceReadBps", v.blkio_device_read_bps);
    c("BlkioDeviceWriteBps", v.blkio_device_write_bps);
    c("BlkioDeviceReadIOps", v.blkio_device_read_iops);
    c("BlkioDeviceWriteIOps", v.blkio_device_write_iops);
    c("CpuPeriod", v.cpu_period);
    c("CpuQuota", v.cpu_quota);
    c("CpuRealtimePeriod", v.cpu_realtime_period);
    c("CpuRealtimeRuntime", v.cpu_realtime_runtime);
    c("CpusetCpus", v.cpuset_cpus);
    c("CpusetMems", v.cpuset_mems);
    c("Devices", v.devices);
    c("DeviceCgroupRules", v.device_cgroup_rules, Empty::as_null);
    std::vector<Anything> requests(v.device_requests);
    c("DeviceRequests", requests, Empty::as_null);
    v.device_requests = requests.size();
    c("KernelMemory", v.kernel_memory, Empty::left_out);
    c("MemoryReservation", v.memory_reservation);
    c("MemorySwap", v.memory_swap);
    c("MemorySwappiness", v.memory_swappiness);
    c("OomKillDisable", v.oom_kill_disable);
    c("PidsLimit", v.pids_limit);
    c("Ulimits", v.ulimits);
}

template <class C>
void members(C& c, HostConfig& v) {
    c("Binds", v.binds, Empty::as_null);
    c("ContainerIDFile", v.container_id_file);
    c("LogConfig", v.log_config);
    c("NetworkMode", v.network_mode);
    c("PortBindings", v.port_bindings);
    c("RestartPolicy", v.restart_policy);
    c("AutoRemove", v.auto_remove);
    c("VolumeDriver", v.volume_driver);
    c("VolumesFrom", v.volumes_from, Empty::as_null);
    std::vector<unsigned> console{v.console_height, v.console_width};
    c("ConsoleSize", console);
    if (console.size() == 2) {
        v.console_height = console[0];
        v.console_width = console[1];
    }
    c("CapAdd", v.cap_add, Empty::as_null);
    c("CapDrop", v.cap_drop, Empty::as_null);
    c("CgroupnsMode", v.cgroupns_mode);
    c("Dns", v.dns);
    c("DnsOptions", v.dns_options);
    c("DnsSearch", v.dns_search);
    c("ExtraHosts", v.extra_hosts, Empty::as_null);
    c("GroupAdd", v.group_add, Empty::as_null);
    c("IpcMode", v.ipc_mode);
    c("Cgroup", v.cgroup);
    c("Links", v.links, Empty::as_null);
    c("OomScoreAdj", v.oom_score_adj);
    c("PidMode", v.pid_mode);
    c("Privileged", v.privileged);
    c("PublishAllPorts", v.publish_all_ports);
    c("ReadonlyRootfs", v.readonly_rootfs);
    c("SecurityOpt", v.security_opt, Empty::as_null);
    c("StorageOpt", v.storage_opt, Empty::left_out);
    c("Tmpfs", v.tmpfs, Empty::left_out);
    c("UTSMode", v.uts_mode);
    c("UsernsMode", v.userns_mode);
    c("ShmSize", v.shm_size);
    c("Sysctls", v.sysctls, Empty::left_out);
    c("Annotations", v.annotations, Empty::left_out);
    c("Runtime", v.runtime);
    c("Isolation", v.isolation);
    c.inlined(v.resources);
    c("Mounts", v.mounts, Empty::left_out);
    c("MaskedPaths", v.masked_paths);
    c("ReadonlyPaths", v.readonly_paths);
    c("Init", v.init, Empty::left_out);
}

namespace {
struct IpamConfig {
    std::string* ipv4;
    std::string* ipv6;
};
template <class C>
void members(C& c, IpamConfig& v) {
    c("IPv4Address", *v.ipv4, Empty::left_out);
    c("IPv6Address", *v.ipv6, Empty::left_out);
}
}  // namespace

template <class C>
void members(C& c, EndpointSettings& v) {
    IpamConfig ipam{.ipv4 = &v.ipv4_address, .ipv6 = &v.ipv6_address};
    if (std::is_same_v<C, codec::Decoder> || !v.ipv4_address.empty() || !v.ipv6_address.empty()) c("IPAMConfig", ipam);
    c("Links", v.links, Empty::as_null);
    c("Aliases", v.aliases, Empty::as_null);
    c("MacAddress", v.mac_address);
    c("DriverOpts", v.driver_opts, Empty::as_null);
}

template <class C>
void members(C& c, NetworkingConfig& v) {
    c("EndpointsConfig", v.endpoints);
}

namespace {

// Cmd, Entrypoint and Shell may be one string. Gives a copy of the object in which they are arrays.
json::object with_arrays(const json::object& object) {
    json::object copy = object;
    for (const char* name : {"Cmd", "Entrypoint"}) {
        json::value* value = copy.if_contains(name);
        if (value != nullptr && value->is_string()) *value = json::array{*value};
    }
    return copy;
}

bool needs_arrays(const json::object& object) {
    for (const char* name : {"Cmd", "Entrypoint"}) {
        const json::value* value = object.if_contains(name);
        if (value != nullptr && value->is_string()) return true;
    }
    return false;
}

Result<json::object> object_member(const json::object& body, std::string_view name) {
    const json::value* value = body.if_contains(name);
    if (value == nullptr || value->is_null()) return json::object{};
    if (!value->is_object()) return fail(Code::invalid_argument, std::string(name) + ": expected an object");
    return value->get_object();
}

}  // namespace

Result<Config> decode_config(const json::object& object, const std::string& path) {
    return needs_arrays(object) ? codec::decode<Config>(with_arrays(object), path)
                                : codec::decode<Config>(object, path);
}

Result<HostConfig> decode_host_config(const json::object& object, const std::string& path) {
    return codec::decode<HostConfig>(object, path);
}

Result<NetworkingConfig> decode_networking_config(const json::object& object, const std::string& path) {
    return codec::decode<NetworkingConfig>(object, path);
}

Result<SandboxSpec> decode_sandbox_spec(const json::object& object, const std::string& path) {
    return codec::decode<SandboxSpec>(object, path);
}

json::object encode_sandbox_spec(const SandboxSpec& spec) {
    return codec::encode(spec);
}

Result<ContainerSpec> decode_create_request(const json::object& body) {
    Config config = TRY(decode_config(body));
    HostConfig host_config = TRY(decode_host_config(TRY(object_member(body, "HostConfig"))));
    NetworkingConfig networking = TRY(decode_networking_config(TRY(object_member(body, "NetworkingConfig"))));
    return ContainerSpec{
        .config = std::move(config), .host_config = std::move(host_config), .networking = std::move(networking)};
}

Result<UpdateRequest> decode_update_request(const json::object& object) {
    UpdateRequest request;
    request.resources = TRY(codec::decode<Resources>(object));
    for (const auto& member : object) {
        if (!member.value().is_null()) request.present.emplace(member.key());
    }
    if (request.present.contains("RestartPolicy")) {
        request.restart_policy =
            TRY(codec::decode<RestartPolicy>(TRY(object_member(object, "RestartPolicy")), "RestartPolicy"));
    }
    return request;
}

json::object encode_config(const Config& config) {
    return codec::encode(config);
}
json::object encode_host_config(const HostConfig& host_config) {
    return codec::encode(host_config);
}
json::object encode_networking_config(const NetworkingConfig& networking) {
    return codec::encode(networking);
}

}  // namespace wherry::engine
