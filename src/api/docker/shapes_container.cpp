#include <chrono>

#include "api/docker/shapes.hpp"

namespace wherry::api::docker {

std::int64_t unix_seconds(WallTime time) {
    return std::chrono::floor<std::chrono::seconds>(time.time_since_epoch()).count();
}

void write_endpoint(JsonWriter& w, const engine::EndpointView& endpoint) {
    const engine::EndpointSettings& settings = endpoint.settings;
    w.begin_object();
    if (settings.ipv4_address.empty() && settings.ipv6_address.empty()) {
        w.null_member("IPAMConfig");
    } else {
        w.key("IPAMConfig").begin_object();
        if (!settings.ipv4_address.empty()) w.member("IPv4Address", settings.ipv4_address);
        if (!settings.ipv6_address.empty()) w.member("IPv6Address", settings.ipv6_address);
        w.end_object();
    }
    w.member_or_null("Links", settings.links)
        .member_or_null("Aliases", endpoint.aliases)
        .member("MacAddress", endpoint.mac_address)
        .member_or_null("DriverOpts", settings.driver_opts)
        .member("NetworkID", endpoint.network_id)
        .member("EndpointID", endpoint.endpoint_id)
        .member("Gateway", endpoint.gateway)
        .member("IPAddress", endpoint.ip_address)
        .member("IPPrefixLen", endpoint.ip_prefix_length)
        .member("IPv6Gateway", endpoint.ipv6_gateway)
        .member("GlobalIPv6Address", endpoint.global_ipv6_address)
        .member("GlobalIPv6PrefixLen", endpoint.global_ipv6_prefix_length)
        .member_or_null("DNSNames", endpoint.aliases)
        .end_object();
}

void write_mount(JsonWriter& w, const engine::MountPoint& mount) {
    w.begin_object().member("Type", mount.type);
    if (!mount.name.empty()) w.member("Name", mount.name);
    w.member("Source", mount.source).member("Destination", mount.destination);
    if (!mount.driver.empty()) w.member("Driver", mount.driver);
    w.member("Mode", mount.mode).member("RW", mount.read_write).member("Propagation", mount.propagation).end_object();
}

void write_container_summary(JsonWriter& w, const engine::ContainerSummary& container) {
    w.begin_object().member("Id", container.id).key("Names").begin_array();
    w.value("/" + container.name).end_array();
    w.member("Image", container.image)
        .member("ImageID", container.image_id)
        .member("Command", container.command)
        .member("Created", unix_seconds(container.created))
        .key("Ports")
        .begin_array();
    for (const engine::PublishedPort& port : container.ports) {
        w.begin_object();
        if (!port.host_ip.empty()) w.member("IP", port.host_ip);
        w.member("PrivatePort", port.container_port);
        if (port.host_port != 0) w.member("PublicPort", port.host_port);
        w.member("Type", port.protocol).end_object();
    }
    w.end_array();
    if (container.size_rw_bytes) w.member("SizeRw", *container.size_rw_bytes);
    if (container.size_root_fs_bytes) w.member("SizeRootFs", *container.size_root_fs_bytes);
    w.member("Labels", container.labels).member("State", container.state).member("Status", container.status);
    if (!container.sandbox.empty()) w.member("Sandbox", container.sandbox);
    w.key("HostConfig").begin_object().member("NetworkMode", container.network_mode).end_object();
    w.key("NetworkSettings").begin_object().key("Networks").begin_object();
    for (const auto& [name, endpoint] : container.networks) {
        w.key(name);
        write_endpoint(w, endpoint);
    }
    w.end_object().end_object().key("Mounts").begin_array();
    for (const engine::MountPoint& mount : container.mounts) write_mount(w, mount);
    w.end_array().end_object();
}

namespace {

void write_state(JsonWriter& w, const engine::ContainerView& container) {
    const engine::ContainerState& state = container.state;
    w.begin_object()
        .member("Status", state.status)
        .member("Running", state.running)
        .member("Paused", state.paused)
        .member("Restarting", state.restarting)
        .member("OOMKilled", state.oom_killed)
        .member("Dead", state.dead)
        .member("Pid", state.pid)
        .member("ExitCode", state.exit_code)
        .member("Error", state.error)
        .member("StartedAt", state.started_at)
        .member("FinishedAt", state.finished_at);
    if (container.health) {
        w.key("Health").begin_object().member("Status", container.health->status);
        w.member("FailingStreak", container.health->failing_streak).key("Log").begin_array();
        for (const engine::HealthLogEntry& entry : container.health->log)
            w.begin_object()
                .member("Start", entry.start)
                .member("End", entry.end)
                .member("ExitCode", entry.exit_code)
                .member("Output", entry.output)
                .end_object();
        w.end_array().end_object();
    }
    w.end_object();
}

// "80/tcp" -> its bindings; exposed and unpublished ones are null.
void write_ports(JsonWriter& w, const engine::ContainerView& container) {
    std::map<std::string, std::vector<const engine::PublishedPort*>> ports;
    for (const engine::PublishedPort& port : container.ports) {
        auto& bindings = ports[std::to_string(port.container_port) + "/" + port.protocol];
        if (port.host_port != 0) bindings.push_back(&port);
    }
    w.begin_object();
    for (const auto& [name, bindings] : ports) {
        w.key(name);
        if (bindings.empty()) {
            w.null();
            continue;
        }
        w.begin_array();
        for (const engine::PublishedPort* port : bindings)
            w.begin_object()
                .member("HostIp", port->host_ip)
                .member("HostPort", std::to_string(port->host_port))
                .end_object();
        w.end_array();
    }
    w.end_object();
}

std::string join(const std::vector<std::string>& items, char separator) {
    std::string text;
    for (const std::string& item : items) {
        if (!text.empty()) text += separator;
        text += item;
    }
    return text;
}

void write_network_settings(JsonWriter& w, const engine::ContainerView& container) {
    // The members at the top repeat the default bridge's, for clients from before there were several networks.
    auto bridge = container.networks.find("bridge");
    static const engine::EndpointView none;
    const engine::EndpointView& first = bridge == container.networks.end() ? none : bridge->second;
    w.begin_object()
        .member("Bridge", "")
        .member("SandboxID", container.sandbox_id)
        .member("SandboxKey", "")
        .key("Ports");
    write_ports(w, container);
    w.member("HairpinMode", false)
        .member("LinkLocalIPv6Address", "")
        .member("LinkLocalIPv6PrefixLen", 0)
        .null_member("SecondaryIPAddresses")
        .null_member("SecondaryIPv6Addresses")
        .member("EndpointID", first.endpoint_id)
        .member("Gateway", first.gateway)
        .member("GlobalIPv6Address", first.global_ipv6_address)
        .member("GlobalIPv6PrefixLen", first.global_ipv6_prefix_length)
        .member("IPAddress", first.ip_address)
        .member("IPPrefixLen", first.ip_prefix_length)
        .member("IPv6Gateway", first.ipv6_gateway)
        .member("MacAddress", first.mac_address)
        .key("Networks")
        .begin_object();
    for (const auto& [name, endpoint] : container.networks) {
        w.key(name);
        write_endpoint(w, endpoint);
    }
    w.end_object().end_object();
}

}  // namespace

void write_container(JsonWriter& w, const engine::ContainerView& container, int minor) {
    w.reserve(8192);
    w.begin_object()
        .member("Id", container.id)
        .member("Created", container.created)
        .member("Path", container.path)
        .member("Args", container.args)
        .key("State");
    write_state(w, container);
    w.member("Image", container.image_id)
        .member("ResolvConfPath", container.resolv_conf_path)
        .member("HostnamePath", container.hostname_path)
        .member("HostsPath", container.hosts_path)
        .member("LogPath", container.log_path)
        .member("Name", "/" + container.name)
        .member("RestartCount", container.restart_count);
    if (!container.sandbox.empty())
        w.key("Sandbox")
            .begin_object()
            .member("Id", container.sandbox_id)
            .member("Name", container.sandbox)
            .end_object();
    w.member("Driver", "overlayfs")
        .member("Platform", container.platform)
        .member("MountLabel", "")
        .member("ProcessLabel", "")
        .member("AppArmorProfile", "")
        .member_or_null("ExecIDs", container.exec_ids);
    w.key("HostConfig").value(json::value(engine::encode_host_config(container.host_config)));
    // No MergedDir: the overlay is mounted in the container's own mount namespace alone.
    w.key("GraphDriver").begin_object().key("Data").begin_object();
    w.member("ID", container.id)
        .member("LowerDir", join(container.lower_directories, ':'))
        .member("UpperDir", container.upper_directory)
        .member("WorkDir", container.work_directory)
        .end_object()
        .member("Name", "overlayfs")
        .end_object();
    if (container.size_rw_bytes) w.member("SizeRw", *container.size_rw_bytes);
    if (container.size_root_fs_bytes) w.member("SizeRootFs", *container.size_root_fs_bytes);
    w.key("Mounts").begin_array();
    for (const engine::MountPoint& mount : container.mounts) write_mount(w, mount);
    w.end_array();
    w.key("Config").value(json::value(engine::encode_config(container.config)));
    w.key("NetworkSettings");
    write_network_settings(w, container);
    w.end_object();
    static_cast<void>(minor);
}

void write_exec(JsonWriter& w, const engine::ExecView& exec) {
    const engine::ExecSpec& spec = exec.spec;
    w.begin_object().member("ID", exec.id).member("Running", exec.running).key("ExitCode");
    if (exec.exit_code)
        w.value(*exec.exit_code);
    else
        w.null();
    w.key("ProcessConfig")
        .begin_object()
        .member("tty", spec.tty)
        .member("entrypoint", spec.cmd.empty() ? std::string() : spec.cmd.front());
    w.key("arguments").begin_array();
    for (std::size_t i = 1; i < spec.cmd.size(); ++i) w.value(spec.cmd[i]);
    w.end_array().member("privileged", spec.privileged);
    if (!spec.user.empty()) w.member("user", spec.user);
    w.end_object()
        .member("OpenStdin", spec.attach_stdin)
        .member("OpenStderr", spec.attach_stderr)
        .member("OpenStdout", spec.attach_stdout)
        .member("CanRemove", false)
        .member("ContainerID", exec.container_id)
        .member("DetachKeys", spec.detach_keys)
        .member("Pid", exec.pid)
        .end_object();
}

namespace {

void write_cpu_stats(JsonWriter& w, const engine::StatsView* stats) {
    w.begin_object().key("cpu_usage").begin_object();
    w.member("total_usage", stats ? stats->cpu_total_ns : 0)
        .member("usage_in_kernelmode", stats ? stats->cpu_system_ns : 0)
        .member("usage_in_usermode", stats ? stats->cpu_user_ns : 0)
        .end_object();
    if (stats) w.member("system_cpu_usage", stats->host_cpu_ns).member("online_cpus", stats->online_cpus);
    w.key("throttling_data")
        .begin_object()
        .member("periods", stats ? stats->periods : 0)
        .member("throttled_periods", stats ? stats->throttled_periods : 0)
        .member("throttled_time", stats ? stats->throttled_ns : 0)
        .end_object()
        .end_object();
}

void write_block_io(JsonWriter& w, const char* name, const std::vector<engine::BlockIoStats>& entries) {
    if (entries.empty()) {
        w.null_member(name);
        return;
    }
    w.key(name).begin_array();
    for (const engine::BlockIoStats& entry : entries)
        w.begin_object()
            .member("major", entry.major)
            .member("minor", entry.minor)
            .member("op", entry.operation)
            .member("value", entry.value)
            .end_object();
    w.end_array();
}

}  // namespace

void write_stats(JsonWriter& w, const engine::StatsView& stats, const engine::StatsView* previous) {
    w.begin_object()
        .member("read", stats.read)
        .member("preread", previous ? previous->read : WallTime{})
        .key("pids_stats")
        .begin_object();
    if (stats.pids > 0) w.member("current", stats.pids);
    if (stats.pids_limit > 0) w.member("limit", stats.pids_limit);
    w.end_object().key("blkio_stats").begin_object();
    write_block_io(w, "io_service_bytes_recursive", stats.block_bytes);
    write_block_io(w, "io_serviced_recursive", stats.block_operations);
    for (const char* name : {"io_queue_recursive", "io_service_time_recursive", "io_wait_time_recursive",
                             "io_merged_recursive", "io_time_recursive", "sectors_recursive"})
        w.null_member(name);
    w.end_object().member("num_procs", 0).key("storage_stats").begin_object().end_object().key("cpu_stats");
    write_cpu_stats(w, &stats);
    w.key("precpu_stats");
    write_cpu_stats(w, previous);
    w.key("memory_stats").begin_object();
    if (stats.memory_limit_bytes > 0 || stats.memory_bytes > 0) {
        w.member("usage", stats.memory_bytes);
        if (stats.memory_max_bytes > 0) w.member("max_usage", stats.memory_max_bytes);
        w.key("stats").begin_object();
        for (const auto& [name, bytes] : stats.memory_details) w.member(name, bytes);
        w.end_object();
        if (stats.memory_failures > 0) w.member("failcnt", stats.memory_failures);
        w.member("limit", stats.memory_limit_bytes);
    }
    w.end_object();
    w.member("name", "/" + stats.name).member("id", stats.id);
    w.key("networks").begin_object();
    for (const auto& [name, counters] : stats.interfaces)
        w.key(name)
            .begin_object()
            .member("rx_bytes", counters.received_bytes)
            .member("rx_packets", counters.received_packets)
            .member("rx_errors", counters.received_errors)
            .member("rx_dropped", counters.received_dropped)
            .member("tx_bytes", counters.sent_bytes)
            .member("tx_packets", counters.sent_packets)
            .member("tx_errors", counters.sent_errors)
            .member("tx_dropped", counters.sent_dropped)
            .end_object();
    w.end_object().end_object();
}

}  // namespace wherry::api::docker
