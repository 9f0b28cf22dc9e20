#include "api/docker/shapes.hpp"

namespace wherry::api::docker {

void write_version(JsonWriter& w, const engine::SystemVersion& version) {
    w.begin_object().key("Platform").begin_object().member("Name", "wherry").end_object();
    w.key("Components").begin_array().begin_object().member("Name", "Engine").member("Version", version.version);
    w.key("Details")
        .begin_object()
        .member("ApiVersion", version.api_version)
        .member("Arch", version.architecture)
        .member("BuildTime", version.build_time)
        .member("Experimental", "false")
        .member("GitCommit", version.git_commit)
        .member("GoVersion", "none")
        .member("KernelVersion", version.kernel_version)
        .member("MinAPIVersion", version.minimum_api_version)
        .member("Os", version.os)
        .end_object()
        .end_object()
        .end_array();
    w.member("Version", version.version)
        .member("ApiVersion", version.api_version)
        .member("MinAPIVersion", version.minimum_api_version)
        .member("GitCommit", version.git_commit)
        .member("GoVersion", "none")
        .member("Os", version.os)
        .member("Arch", version.architecture)
        .member("KernelVersion", version.kernel_version)
        .member("BuildTime", version.build_time)
        .end_object();
}

namespace {

std::vector<std::string> insecure_subnets(const engine::SystemInfo& info) {
    std::vector<std::string> subnets{"::1/128", "127.0.0.0/8"};
    for (const std::string& entry : info.insecure_registries)
        if (entry.contains('/')) subnets.push_back(entry);
    return subnets;
}

void write_index_config(JsonWriter& w, const std::string& name, const std::vector<std::string>& mirrors,
                        bool official) {
    w.key(name)
        .begin_object()
        .member("Mirrors", mirrors)
        .member("Name", name)
        .member("Official", official)
        .member("Secure", official)
        .end_object();
}

}  // namespace

void write_info(JsonWriter& w, const engine::SystemInfo& info, const engine::SystemVersion& version) {
    w.reserve(4096);
    w.begin_object()
        .member("ID", info.id)
        .member("Containers", info.containers)
        .member("ContainersRunning", info.containers_running)
        .member("ContainersPaused", info.containers_paused)
        .member("ContainersStopped", info.containers_stopped)
        .member("Images", info.images)
        .member("Driver", info.driver)
        .key("DriverStatus")
        .begin_array()
        .end_array();
    w.key("Plugins")
        .begin_object()
        .member("Volume", info.volume_drivers)
        .member("Network", info.network_drivers)
        .null_member("Authorization")
        .member("Log", info.log_drivers)
        .end_object();
    w.member("MemoryLimit", info.memory_limit)
        .member("SwapLimit", info.swap_limit)
        .member("CpuCfsPeriod", info.cpu_quota)
        .member("CpuCfsQuota", info.cpu_quota)
        .member("CPUShares", info.cpu_shares)
        .member("CPUSet", info.cpu_set)
        .member("PidsLimit", info.pids_limit)
        .member("IPv4Forwarding", info.ipv4_forwarding)
        .member("BridgeNfIptables", info.bridge_nf_iptables)
        .member("BridgeNfIp6tables", info.bridge_nf_ip6tables)
        .member("Debug", info.debug)
        .member("NFd", info.file_descriptors)
        .member("OomKillDisable", info.oom_kill_disable)
        .member("NGoroutines", info.threads)
        .member("SystemTime", format_rfc3339(info.system_time))
        .member("LoggingDriver", info.logging_driver)
        .member("CgroupDriver", info.cgroup_driver)
        .member("CgroupVersion", info.cgroup_version)
        .member("NEventsListener", info.event_listeners)
        .member("KernelVersion", info.kernel_version)
        .member("OperatingSystem", info.operating_system)
        .member("OSVersion", info.os_version)
        .member("OSType", "linux")
        .member("Architecture", info.architecture)
        .member("IndexServerAddress", "https://index.docker.io/v1/");
    w.key("RegistryConfig")
        .begin_object()
        .member("AllowNondistributableArtifactsCIDRs", std::vector<std::string>{})
        .member("AllowNondistributableArtifactsHostnames", std::vector<std::string>{})
        .member("InsecureRegistryCIDRs", insecure_subnets(info))
        .key("IndexConfigs")
        .begin_object();
    write_index_config(w, "docker.io", info.registry_mirrors, true);
    for (const std::string& host : info.insecure_registries)
        if (!host.contains('/')) write_index_config(w, host, {}, false);
    w.end_object().member("Mirrors", info.registry_mirrors).end_object();
    w.member("NCPU", info.cpus)
        .member("MemTotal", info.memory_bytes)
        .null_member("GenericResources")
        .member("DockerRootDir", info.docker_root_dir)
        .member("HttpProxy", "")
        .member("HttpsProxy", "")
        .member("NoProxy", "")
        .member("Name", info.name)
        .member("Labels", info.labels)
        .member("ExperimentalBuild", false)
        .member("ServerVersion", version.version);
    w.key("Runtimes").begin_object();
    for (const std::string& runtime : info.runtimes) w.key(runtime).begin_object().member("path", runtime).end_object();
    w.end_object().member("DefaultRuntime", info.default_runtime);
    w.key("Swarm")
        .begin_object()
        .member("NodeID", "")
        .member("NodeAddr", "")
        .member("LocalNodeState", "inactive")
        .member("ControlAvailable", false)
        .member("Error", "")
        .null_member("RemoteManagers")
        .end_object();
    w.member("LiveRestoreEnabled", info.live_restore)
        .member("Isolation", "")
        .member("InitBinary", "wherry-init-process");
    for (const char* name : {"ContainerdCommit", "RuncCommit", "InitCommit"})
        w.key(name).begin_object().member("ID", "").member("Expected", "").end_object();
    w.member("SecurityOptions", info.security_options)
        .member("ProductLicense", "")
        .member_or_null("Warnings", info.warnings)
        .end_object();
}

void write_event(JsonWriter& w, const engine::Event& event, int minor) {
    std::int64_t nanoseconds = event.time.time_since_epoch().count();
    w.begin_object();
    // What events were before they had types; clients of that time read it still.
    if (event.type == "container" || event.type == "image") {
        w.member("status", event.action).member("id", event.id);
        auto image = event.attributes.find("image");
        if (event.type == "container" && image != event.attributes.end()) w.member("from", image->second);
    }
    w.member("Type", event.type)
        .member("Action", event.action)
        .key("Actor")
        .begin_object()
        .member("ID", event.id)
        .member("Attributes", event.attributes)
        .end_object()
        .member("scope", "local")
        .member("time", unix_seconds(event.time))
        .member("timeNano", nanoseconds)
        .end_object();
    static_cast<void>(minor);
}

void write_image_summary(JsonWriter& w, const engine::ImageSummary& image, int minor) {
    w.begin_object()
        .member("Containers", image.containers)
        .member("Created", unix_seconds(image.created))
        .member("Id", image.id)
        .member_or_null("Labels", image.labels)
        .member("ParentId", image.parent_id)
        .member("RepoDigests", image.repo_digests)
        .member("RepoTags", image.repo_tags)
        .member("SharedSize", image.shared_size_bytes)
        .member("Size", image.size_bytes);
    if (minor < 44) w.member("VirtualSize", image.size_bytes);
    w.end_object();
}

void write_image(JsonWriter& w, const engine::ImageView& image, int minor) {
    const engine::ImageSummary& summary = image.summary;
    w.begin_object()
        .member("Id", summary.id)
        .member("RepoTags", summary.repo_tags)
        .member("RepoDigests", summary.repo_digests)
        .member("Parent", summary.parent_id)
        .member("Comment", image.comment)
        .member("Created", summary.created);
    if (minor < 45) w.member("Container", "");
    w.member("DockerVersion", image.docker_version).member("Author", image.author);
    w.key("Config").value(json::value(engine::encode_config(image.config)));
    w.member("Architecture", image.architecture);
    if (!image.variant.empty()) w.member("Variant", image.variant);
    w.member("Os", image.os).member("Size", summary.size_bytes);
    if (minor < 44) w.member("VirtualSize", summary.size_bytes);
    w.key("GraphDriver").begin_object().null_member("Data").member("Name", "overlayfs").end_object();
    w.key("RootFS").begin_object().member("Type", "layers").member("Layers", image.diff_ids).end_object();
    w.key("Metadata").begin_object().member("LastTagTime", image.last_tag_time.value_or(WallTime{})).end_object();
    w.end_object();
}

void write_history(JsonWriter& w, const std::vector<engine::ImageHistory>& history) {
    w.begin_array();
    for (const engine::ImageHistory& entry : history)
        w.begin_object()
            .member("Comment", entry.comment)
            .member("Created", unix_seconds(entry.created))
            .member("CreatedBy", entry.created_by)
            .member("Id", entry.id)
            .member("Size", entry.size_bytes)
            .member_or_null("Tags", entry.tags)
            .end_object();
    w.end_array();
}

void write_volume(JsonWriter& w, const engine::VolumeView& volume, UsageData usage) {
    w.begin_object()
        .member("CreatedAt", volume.created)
        .member("Driver", volume.driver)
        .member_or_null("Labels", volume.labels)
        .member("Mountpoint", volume.mountpoint)
        .member("Name", volume.name)
        .member_or_null("Options", volume.options)
        .member("Scope", "local");
    if (usage == UsageData::shown)
        w.key("UsageData")
            .begin_object()
            .member("RefCount", volume.reference_count)
            .member("Size", volume.size_bytes.value_or(-1))
            .end_object();
    w.end_object();
}

void write_network(JsonWriter& w, const engine::NetworkView& network) {
    w.begin_object()
        .member("Name", network.name)
        .member("Id", network.id)
        .member("Created", network.created)
        .member("Scope", network.scope)
        .member("Driver", network.driver)
        .member("EnableIPv4", true)
        .member("EnableIPv6", network.enable_ipv6)
        .key("IPAM")
        .begin_object()
        .member("Driver", "default")
        .null_member("Options")
        .key("Config")
        .begin_array();
    for (const engine::NetworkView::Pool& pool : network.pools) {
        w.begin_object().member("Subnet", pool.subnet);
        if (!pool.gateway.empty()) w.member("Gateway", pool.gateway);
        w.end_object();
    }
    w.end_array()
        .end_object()
        .member("Internal", network.internal)
        .member("Attachable", network.attachable)
        .member("Ingress", false)
        .key("ConfigFrom")
        .begin_object()
        .member("Network", "")
        .end_object()
        .member("ConfigOnly", false)
        .key("Containers")
        .begin_object();
    for (const auto& [id, container] : network.containers)
        w.key(id)
            .begin_object()
            .member("Name", container.name)
            .member("EndpointID", container.endpoint_id)
            .member("MacAddress", container.mac_address)
            .member("IPv4Address", container.ipv4_address)
            .member("IPv6Address", container.ipv6_address)
            .end_object();
    w.end_object().member("Options", network.options).member("Labels", network.labels).end_object();
}

}  // namespace wherry::api::docker
