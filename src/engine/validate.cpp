#include "engine/validate.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "confine/cgroup_resources.hpp"
#include "engine/mounts.hpp"
#include "engine/names.hpp"
#include "engine/security.hpp"
#include "engine/spec_builder.hpp"
#include "net/files.hpp"
#include "net/ports.hpp"

namespace wherry::engine {
namespace {

bool is_container_mode(std::string_view mode) {
    return mode.starts_with("container:");
}

// The processors of "0-3,7"; empty for a malformed list.
std::set<unsigned> parse_processors(std::string_view list) {
    std::set<unsigned> processors;
    while (!list.empty()) {
        const std::size_t comma = list.find(',');
        const std::string_view part = list.substr(0, comma);
        unsigned first = 0;
        auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), first);
        if (error != std::errc{}) return {};
        unsigned last = first;
        if (end != part.data() + part.size()) {
            if (*end != '-') return {};
            auto [stop, wrong] = std::from_chars(end + 1, part.data() + part.size(), last);
            if (wrong != std::errc{} || stop != part.data() + part.size() || last < first || last > 8192) return {};
        }
        for (unsigned one = first; one <= last; ++one) processors.insert(one);
        if (comma == std::string_view::npos) break;
        list.remove_prefix(comma + 1);
    }
    return processors;
}

std::string available_processors() {
    const auto text = read_file("/sys/devices/system/cpu/online");
    if (!text) return "0";
    return text->substr(0, text->find('\n'));
}

Result<> check_processors(const std::string& wanted) {
    if (wanted.empty()) return {};
    const std::set<unsigned> processors = parse_processors(wanted);
    if (processors.empty()) return invalid("Invalid value " + wanted + " for cpuset cpus");
    const std::string available = available_processors();
    const std::set<unsigned> online = parse_processors(available);
    if (!std::ranges::includes(online, processors)) {
        return invalid("Requested CPUs are not available - requested " + wanted + ", available: " + available);
    }
    return {};
}

Result<> check_modes(const ContainerSpec& spec) {
    const HostConfig& host = spec.host_config;
    const std::string& network = host.network_mode;
    if (network == "container:") return invalid("Invalid network mode: invalid container format container:<name|id>");
    const bool shares_network = is_container_mode(network);
    if (shares_network) {
        if (!spec.config.hostname.empty()) return invalid("conflicting options: hostname and the network mode");
        if (!host.links.empty())
            return invalid(
                "conflicting options: container type network can't be used with links. This would result in undefined "
                "behavior");
        if (!host.dns.empty()) return invalid("conflicting options: dns and the network mode");
        if (!host.extra_hosts.empty())
            return invalid("conflicting options: custom host-to-IP mapping and the network mode");
        if (!host.port_bindings.empty() || host.publish_all_ports) {
            return invalid("conflicting options: port publishing and the container type network mode");
        }
        if (!spec.config.exposed_ports.empty()) {
            return invalid("conflicting options: port exposing and the container type network mode");
        }
    }
    if (network == "sandbox:") return invalid("Invalid network mode: invalid sandbox format sandbox:<name|id>");
    if (network.starts_with("sandbox:")) {
        const std::string in = " and a sandbox: the sandbox has them for all its containers";
        if (!spec.config.hostname.empty() || !spec.config.domainname.empty())
            return invalid("conflicting options: hostname" + in);
        if (!host.dns.empty() || !host.dns_search.empty() || !host.dns_options.empty())
            return invalid("conflicting options: dns" + in);
        if (!host.extra_hosts.empty()) return invalid("conflicting options: custom host-to-IP mapping" + in);
        if (!host.port_bindings.empty() || host.publish_all_ports)
            return invalid("conflicting options: port publishing" + in);
        if (!spec.config.mac_address.empty()) return invalid("conflicting options: mac-address" + in);
    }
    if ((shares_network || network == "host") && !spec.config.mac_address.empty()) {
        return invalid("conflicting options: mac-address and the network mode");
    }
    if (!host.uts_mode.empty() && host.uts_mode != "private" && host.uts_mode != "host" &&
        !is_container_mode(host.uts_mode)) {
        return invalid("invalid UTS mode: " + host.uts_mode);
    }
    if (host.uts_mode == "host" && !spec.config.hostname.empty()) {
        return invalid("conflicting options: hostname and the UTS mode");
    }
    if (!std::set<std::string>{"", "private", "host"}.contains(host.pid_mode) && !is_container_mode(host.pid_mode)) {
        return invalid("invalid PID mode: " + host.pid_mode);
    }
    if (!std::set<std::string>{"", "none", "private", "shareable", "host"}.contains(host.ipc_mode) &&
        !is_container_mode(host.ipc_mode)) {
        return invalid("invalid IPC mode: " + host.ipc_mode);
    }
    if (!std::set<std::string>{"", "private", "host"}.contains(host.cgroupns_mode)) {
        return invalid("invalid cgroup namespace mode: " + host.cgroupns_mode);
    }
    if (!host.userns_mode.empty() && host.userns_mode != "host")
        return invalid("invalid USER mode: " + host.userns_mode);
    if (!host.isolation.empty() && host.isolation != "default")
        return invalid("invalid isolation '" + host.isolation + "' on linux");
    if (!host.links.empty()) {
        return fail(Code::unimplemented, "links are not supported: they were superseded by networks long ago");
    }
    if (!host.storage_opt.empty()) return invalid("--storage-opt is not supported for overlay");
    if (host.runtime == "wherry-vm") {
        return fail(
            Code::unimplemented,
            "the runtime wherry-vm (microVMs) is not available in this version; leave --runtime out or use wherry");
    }
    if (!host.runtime.empty() && host.runtime != "wherry")
        return invalid("unknown or invalid runtime name: " + host.runtime);
    if (!host.cgroup.empty()) return invalid("invalid option: Cgroup");
    return {};
}

Result<> check_config(Config& config) {
    if (!config.working_dir.empty() && config.working_dir.front() != '/') {
        return invalid("the working directory '" + config.working_dir +
                       "' is invalid, it needs to be an absolute path");
    }
    if (!config.working_dir.empty()) config.working_dir = clean_path(config.working_dir);
    for (const std::string& entry : config.env) {
        if (entry.empty() || entry.front() == '=') return invalid("invalid environment variable: " + entry);
        if (entry.find('\0') != std::string::npos) return invalid("invalid environment variable: it holds a NUL");
    }
    if (!config.hostname.empty()) TRY(net::validate_hostname(config.hostname));
    if (!config.stop_signal.empty()) TRY(parse_signal(config.stop_signal));
    for (const std::string& port : config.exposed_ports) TRY(net::ContainerPort::parse(port));
    if (config.healthcheck) {
        const Healthcheck& health = *config.healthcheck;
        const auto too_short = [](std::int64_t ns) { return ns != 0 && ns < 1'000'000; };
        if (too_short(health.interval_ns)) return invalid("Interval in Healthcheck cannot be less than 1ms");
        if (too_short(health.timeout_ns)) return invalid("Timeout in Healthcheck cannot be less than 1ms");
        if (too_short(health.start_period_ns)) return invalid("StartPeriod in Healthcheck cannot be less than 1ms");
        if (too_short(health.start_interval_ns)) return invalid("StartInterval in Healthcheck cannot be less than 1ms");
        if (health.retries < 0) return invalid("Retries in Healthcheck cannot be negative");
    }
    if (config.stop_timeout_seconds && *config.stop_timeout_seconds < -1) {
        return invalid("invalid stop timeout: " + std::to_string(*config.stop_timeout_seconds));
    }
    return {};
}

Result<> check_devices(const Resources& resources) {
    if (resources.device_requests > 0) {
        return invalid("could not select device driver \"\" with capabilities: [[gpu]]");
    }
    for (const DeviceMapping& device : resources.devices) {
        if (!device.cgroup_permissions.empty() && !is_valid_device_permission(device.cgroup_permissions)) {
            return invalid("invalid device mode: " + device.cgroup_permissions);
        }
        struct stat info{};
        if (device.path_on_host.empty() || ::stat(device.path_on_host.c_str(), &info) != 0) {
            return invalid("error gathering device information while adding custom device \"" + device.path_on_host +
                           "\": no such file or directory");
        }
        if (!S_ISCHR(info.st_mode) && !S_ISBLK(info.st_mode) && !S_ISDIR(info.st_mode)) {
            return invalid("error gathering device information while adding custom device \"" + device.path_on_host +
                           "\": not a device node");
        }
    }
    for (const std::string& rule : resources.device_cgroup_rules) TRY(confine::parse_device_cgroup_rule(rule));
    for (const auto* devices : {&resources.blkio_device_read_bps, &resources.blkio_device_write_bps,
                                &resources.blkio_device_read_iops, &resources.blkio_device_write_iops}) {
        for (const ThrottleDevice& device : *devices) {
            struct stat info{};
            if (::stat(device.path.c_str(), &info) != 0 || !S_ISBLK(info.st_mode)) {
                return invalid("no such block device: " + device.path);
            }
        }
    }
    return {};
}

bool is_namespaced_sysctl(std::string_view name) {
    static const std::set<std::string_view> ipc{
        "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni",          "kernel.sem",        "kernel.shmall",
        "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced", "kernel.domainname", "kernel.hostname"};
    return name.starts_with("net.") || name.starts_with("fs.mqueue.") || ipc.contains(name);
}

Result<> check_sysctls(const HostConfig& host) {
    for (const auto& [name, value] : host.sysctls) {
        if (!is_namespaced_sysctl(name) || name.find("..") != std::string::npos ||
            name.find('/') != std::string::npos) {
            return invalid("sysctl '" + name + "' is not whitelisted");
        }
        if (name.starts_with("net.") && (host.network_mode == "host" || is_container_mode(host.network_mode))) {
            return invalid("sysctl '" + name + "' not allowed in host network namespace");
        }
    }
    return {};
}

}  // namespace

Result<> merge_image_config(Config& config, const image::RunConfig& image) {
    if (config.user.empty()) config.user = image.user;
    for (const std::string& port : image.exposed_ports) config.exposed_ports.insert(port);
    config.env = merge_environment(image.env, config.env);
    for (const auto& [key, value] : image.labels) config.labels.emplace(key, value);
    const bool own_entrypoint = config.entrypoint && !config.entrypoint->empty();
    if (!own_entrypoint) {
        // --entrypoint "" takes the image's away (the client sends [""]); then only the command counts.
        if (!config.cmd || config.cmd->empty()) {
            if (image.cmd && !config.entrypoint) config.cmd = image.cmd;
        }
        if (!config.entrypoint) config.entrypoint = image.entrypoint;
    }
    if (config.entrypoint && config.entrypoint->size() == 1 && config.entrypoint->front().empty())
        config.entrypoint.reset();
    if (config.working_dir.empty()) config.working_dir = image.working_dir;
    for (const std::string& path : image.volumes) config.volumes.insert(path);
    if (config.stop_signal.empty()) config.stop_signal = image.stop_signal;
    if (!config.stop_timeout_seconds && image.stop_timeout_seconds) {
        config.stop_timeout_seconds = static_cast<int>(*image.stop_timeout_seconds);
    }
    if (image.healthcheck) {
        const image::Healthcheck& theirs = *image.healthcheck;
        if (!config.healthcheck) config.healthcheck.emplace();
        Healthcheck& ours = *config.healthcheck;
        if (ours.test.empty()) ours.test = theirs.test;
        if (ours.interval_ns == 0) ours.interval_ns = theirs.interval_ns;
        if (ours.timeout_ns == 0) ours.timeout_ns = theirs.timeout_ns;
        if (ours.start_period_ns == 0) ours.start_period_ns = theirs.start_period_ns;
        if (ours.start_interval_ns == 0) ours.start_interval_ns = theirs.start_interval_ns;
        if (ours.retries == 0) ours.retries = static_cast<int>(theirs.retries);
    }
    const bool nothing_to_run =
        (!config.entrypoint || config.entrypoint->empty()) && (!config.cmd || config.cmd->empty());
    if (nothing_to_run) return invalid("no command specified");
    const std::string& program =
        config.entrypoint && !config.entrypoint->empty() ? config.entrypoint->front() : config.cmd->front();
    if (program.empty()) return invalid("no command specified");
    return {};
}

Result<> check_restart_policy(const RestartPolicy& policy, bool auto_remove) {
    static const std::set<std::string> known{"", "no", "always", "on-failure", "unless-stopped"};
    if (!known.contains(policy.name)) {
        return invalid("invalid restart policy: unknown policy '" + policy.name +
                       "'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'");
    }
    if (policy.maximum_retry_count != 0 && policy.name != "on-failure") {
        return invalid("invalid restart policy: maximum retry count can only be used with 'on-failure'");
    }
    if (policy.maximum_retry_count < 0)
        return invalid("invalid restart policy: maximum retry count cannot be negative");
    if (auto_remove && !policy.name.empty() && policy.name != "no") {
        return invalid("can't create 'AutoRemove' container with restart policy");
    }
    return {};
}

Result<Strings> check_resources(Resources& resources) {
    constexpr std::int64_t minimum_memory = 6 << 20;
    Strings warnings;
    if (resources.memory < 0) return invalid("invalid memory limit: " + std::to_string(resources.memory));
    if (resources.memory != 0 && resources.memory < minimum_memory)
        return invalid("Minimum memory limit allowed is 6MB");
    if (resources.memory > 0 && resources.memory_swap > 0 && resources.memory_swap < resources.memory) {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if (resources.memory == 0 && resources.memory_swap > 0) {
        return invalid("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if (resources.memory_swap < -1)
        return invalid("invalid memory swap limit: " + std::to_string(resources.memory_swap));
    if (resources.memory_swappiness && (*resources.memory_swappiness < -1 || *resources.memory_swappiness > 100)) {
        return invalid("Invalid value: " + std::to_string(*resources.memory_swappiness) +
                       ", valid memory swappiness range is 0-100");
    }
    if (resources.memory_reservation != 0 && resources.memory_reservation < minimum_memory) {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if (resources.memory > 0 && resources.memory_reservation > resources.memory) {
        return invalid("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if (resources.kernel_memory > 0) {
        warnings.emplace_back("Specifying a kernel memory limit is deprecated and has no effect on this kernel.");
        resources.kernel_memory = 0;
    }
    if (resources.memory > 0 && resources.memory_swap == 0) resources.memory_swap = resources.memory * 2;
    if (resources.nano_cpus > 0 && (resources.cpu_period > 0 || resources.cpu_quota > 0)) {
        return invalid(resources.cpu_period > 0 ? "Conflicting options: Nano CPUs and CPU Period cannot both be set"
                                                : "Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    const auto processors = ::sysconf(_SC_NPROCESSORS_ONLN);
    if (resources.nano_cpus < 0 || (resources.nano_cpus > 0 && resources.nano_cpus < 10'000'000) ||
        resources.nano_cpus > processors * 1'000'000'000) {
        return invalid("range of CPUs is from 0.01 to " + std::to_string(processors) + ".00, as there are only " +
                       std::to_string(processors) + " CPUs available");
    }
    if (resources.cpu_shares < 0)
        return invalid("invalid CPU shares (" + std::to_string(resources.cpu_shares) +
                       "): value must be a positive integer");
    if (resources.cpu_period != 0 && (resources.cpu_period < 1000 || resources.cpu_period > 1000000)) {
        return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
    }
    if (resources.cpu_quota > 0 && resources.cpu_quota < 1000)
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    TRY(check_processors(resources.cpuset_cpus));
    if (!resources.cpuset_mems.empty() && parse_processors(resources.cpuset_mems).empty()) {
        return invalid("Invalid value " + resources.cpuset_mems + " for cpuset mems");
    }
    if (resources.blkio_weight != 0 && (resources.blkio_weight < 10 || resources.blkio_weight > 1000)) {
        return invalid("Range of blkio weight is from 10 to 1000");
    }
    if (resources.oom_kill_disable && *resources.oom_kill_disable && resources.memory == 0) {
        warnings.emplace_back(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system "
            "running out of resources.");
    }
    if (!resources.cgroup_parent.empty()) {
        if (!resources.cgroup_parent.starts_with('/')) resources.cgroup_parent.insert(0, "/");
        if (clean_path(resources.cgroup_parent) != resources.cgroup_parent) {
            return invalid("invalid cgroup parent: " + resources.cgroup_parent);
        }
    }
    return warnings;
}

Result<supervisor::LogOptions> log_options(const LogConfig& log, const Config& config, const std::string& path) {
    supervisor::LogOptions options;
    const auto driver = supervisor::parse_log_driver(log.type);
    if (!driver) return invalid("logger: no log driver named '" + log.type + "' is registered");
    options.driver = *driver;
    options.path = path;
    if (options.driver == supervisor::LogDriver::local) {
        options.max_size_bytes = 20 << 20;
        options.max_files = 5;
        options.compress = true;
    }
    for (const auto& option : log.config) {
        const std::string &key = option.first, &value = option.second;
        const auto refused = [&] { return invalid("invalid value for log-opt " + key + ": '" + value + "'"); };
        if (options.driver == supervisor::LogDriver::none) {
            return invalid("unknown log opt '" + key + "' for none log driver");
        }
        if (key == "max-size") {
            const auto bytes = parse_bytes(value);
            if (!bytes || *bytes <= 0) return refused();
            options.max_size_bytes = static_cast<std::uint64_t>(*bytes);
        } else if (key == "max-file") {
            unsigned count = 0;
            const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), count);
            if (error != std::errc{} || end != value.data() + value.size()) return refused();
            if (count < 1) return invalid("max-file cannot be less than 1");
            options.max_files = count;
        } else if (key == "compress") {
            if (value != "true" && value != "false") return refused();
            options.compress = value == "true";
        } else if (key == "mode") {
            if (value != "blocking" && value != "non-blocking" && !value.empty()) return refused();
        } else if (key == "max-buffer-size") {
            if (!parse_bytes(value)) return refused();
        } else if (key == "labels" || key == "env") {
            std::string_view rest = value;
            while (!rest.empty()) {
                const std::size_t comma = rest.find(',');
                const std::string name(rest.substr(0, comma));
                if (key == "labels") {
                    if (const auto label = config.labels.find(name); label != config.labels.end()) {
                        options.attributes[name] = label->second;
                    }
                } else {
                    for (const std::string& entry : config.env) {
                        if (entry.starts_with(name + "=")) options.attributes[name] = entry.substr(name.size() + 1);
                    }
                }
                if (comma == std::string_view::npos) break;
                rest.remove_prefix(comma + 1);
            }
        } else if (key == "tag") {
            if (!value.empty()) options.attributes["tag"] = value;
        } else {
            return invalid("unknown log opt '" + key + "' for " + log.type + " log driver");
        }
    }
    const auto given = [&](const char* key) {
        const auto found = log.config.find(key);
        return found == log.config.end() ? std::string() : found->second;
    };
    if (given("compress") == "true" && (options.max_files < 2 || options.max_size_bytes == 0))
        return invalid("compress cannot be true when max-file is less than 2 or max-size is not set");
    if (!given("max-buffer-size").empty() && given("mode") != "non-blocking")
        return invalid("logger: max-buffer-size option is only supported with 'mode=non-blocking'");
    return options;
}

Result<Strings> check_and_complete(ContainerSpec& spec, const Defaults& defaults) {
    HostConfig& host = spec.host_config;
    TRY(check_config(spec.config));
    if (host.network_mode.empty() || host.network_mode == "default") host.network_mode = defaults.network;
    if (spec.config.network_disabled) host.network_mode = "none";
    TRY(check_modes(spec));
    TRY(check_restart_policy(host.restart_policy, host.auto_remove));
    if (host.restart_policy.name.empty()) host.restart_policy.name = "no";
    Strings warnings = TRY(check_resources(host.resources));
    TRY(check_devices(host.resources));
    TRY(check_sysctls(host));
    TRY(parse_security_options(host));
    TRY(container_capability_set(host));
    TRY(build_rlimits(defaults.ulimits, host.resources.ulimits));
    if (host.shm_size < 0) return invalid("SHM size can not be less than 0");
    if (host.shm_size == 0) host.shm_size = 64 << 20;
    if (host.oom_score_adj < -1000 || host.oom_score_adj > 1000) {
        return invalid("Invalid value " + std::to_string(host.oom_score_adj) +
                       ", range for oom score adj is [-1000, 1000]");
    }
    if (host.log_config.type.empty()) {
        StringMap own = std::move(host.log_config.config);
        host.log_config = defaults.log_config;
        for (auto& [key, value] : own) host.log_config.config[key] = value;
    }
    TRY(log_options(host.log_config, spec.config, "/"));
    for (const auto& [port, bindings] : host.port_bindings) {
        TRY(net::ContainerPort::parse(port));
        for (const PortBinding& binding : bindings) TRY(net::parse_binding(port, binding.host_ip, binding.host_port));
    }
    for (const std::string& entry : host.extra_hosts) {
        TRY(net::parse_extra_host(entry, net::IpAddress::ipv4(0x7f000001)));
    }
    TRY(net::validate({.servers = host.dns, .search = host.dns_search, .options = host.dns_options}));
    if (host.ipc_mode.empty()) host.ipc_mode = "private";
    if (host.cgroupns_mode.empty()) host.cgroupns_mode = defaults.unified_cgroups ? "private" : "host";
    if (host.runtime.empty()) host.runtime = "wherry";
    return warnings;
}

}  // namespace wherry::engine
