#include "engine/spec_builder.hpp"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <set>
#include <utility>

#include "confine/capabilities.hpp"
#include "confine/cgroup_resources.hpp"
#include "confine/rlimits.hpp"
#include "engine/mounts.hpp"
#include "engine/security.hpp"
#include "oci/default_spec.hpp"

namespace wherry::engine {
namespace {

Result<oci::Device> device_from_host(const std::string& host_path, const std::string& container_path) {
    struct stat info{};
    if (::stat(host_path.c_str(), &info) != 0) {
        return fail(Code::invalid_argument, "error gathering device information while adding custom device \"" +
                                                host_path + "\": no such file or directory");
    }
    if (!S_ISCHR(info.st_mode) && !S_ISBLK(info.st_mode)) {
        return fail(Code::invalid_argument, "error gathering device information while adding custom device \"" +
                                                host_path + "\": not a device node");
    }
    return oci::Device{.path = container_path,
                       .type = S_ISBLK(info.st_mode) ? 'b' : 'c',
                       .major = static_cast<std::int64_t>(major(info.st_rdev)),
                       .minor = static_cast<std::int64_t>(minor(info.st_rdev)),
                       .mode = info.st_mode & 07777U,
                       .uid = info.st_uid,
                       .gid = info.st_gid};
}

// All device nodes below a directory of the host; what can't be read is left out.
void collect_devices(const std::string& host_directory, const std::string& container_directory,
                     std::vector<oci::Device>& devices, int depth = 0) {
    const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(host_directory.c_str()), &::closedir);
    if (!directory || depth > 8) return;
    while (const dirent* entry = ::readdir(directory.get())) {
        const std::string name = entry->d_name;
        if (name == "." || name == ".." || name == "pts" || name == "shm" || name == "fd" || name == "mqueue" ||
            name == "console" || name.starts_with(".")) {
            continue;
        }
        const std::string path = host_directory + "/" + name;
        if (entry->d_type == DT_DIR) {
            collect_devices(path, container_directory + "/" + name, devices, depth + 1);
        } else if (entry->d_type == DT_CHR || entry->d_type == DT_BLK) {
            if (auto device = device_from_host(path, container_directory + "/" + name))
                devices.push_back(std::move(*device));
        }
    }
}

confine::DeviceRule device_rule(const oci::Device& device, std::string_view access) {
    return {.allow = true,
            .type = device.type,
            .major = device.major,
            .minor = device.minor,
            .read = access.contains('r'),
            .write = access.contains('w'),
            .make_node = access.contains('m')};
}

Result<> add_devices(const HostConfig& host_config, oci::Spec& spec) {
    std::vector<confine::DeviceRule> rules = confine::default_device_rules();
    if (host_config.privileged) {
        rules = {confine::DeviceRule{.allow = true}};
        collect_devices("/dev", "/dev", spec.linux_spec.devices);
    }
    for (const DeviceMapping& mapping : host_config.resources.devices) {
        const std::string access = mapping.cgroup_permissions.empty() ? "rwm" : mapping.cgroup_permissions;
        if (!is_valid_device_permission(access)) {
            return fail(Code::invalid_argument, "invalid device mode: " + mapping.cgroup_permissions);
        }
        const std::string inside = mapping.path_in_container.empty() ? mapping.path_on_host : mapping.path_in_container;
        std::vector<oci::Device> devices;
        std::error_code ignored;
        if (std::filesystem::is_directory(mapping.path_on_host, ignored)) {
            collect_devices(mapping.path_on_host, inside, devices);
            if (devices.empty()) {
                return fail(Code::invalid_argument, "error gathering device information while adding custom device \"" +
                                                        mapping.path_on_host + "\": no devices found");
            }
        } else {
            devices.push_back(TRY(device_from_host(mapping.path_on_host, inside)));
        }
        for (oci::Device& device : devices) {
            rules.push_back(device_rule(device, access));
            std::erase_if(spec.linux_spec.devices, [&](const oci::Device& one) { return one.path == device.path; });
            spec.linux_spec.devices.push_back(std::move(device));
        }
    }
    for (const std::string& text : host_config.resources.device_cgroup_rules) {
        rules.push_back(TRY(confine::parse_device_cgroup_rule(text)));
    }
    spec.linux_spec.resources.devices = std::move(rules);
    return {};
}

void set_namespace(oci::Spec& spec, const std::string& type, const std::string& path) {
    for (oci::Namespace& one : spec.linux_spec.namespaces) {
        if (one.type == type) {
            one.path = path;
            return;
        }
    }
    spec.linux_spec.namespaces.push_back({.type = type, .path = path});
}

void drop_namespace(oci::Spec& spec, std::string_view type) {
    std::erase_if(spec.linux_spec.namespaces, [&](const oci::Namespace& one) { return one.type == type; });
}

void drop_mount(oci::Spec& spec, std::string_view destination) {
    std::erase_if(spec.mounts, [&](const oci::Mount& one) { return one.destination == destination; });
}

void apply_namespaces(const SpecInput& input, oci::Spec& spec) {
    const HostConfig& host = input.host_config;
    if (input.network == NetworkKind::host) drop_namespace(spec, "network");
    if (host.pid_mode == "host") drop_namespace(spec, "pid");
    if (!input.pid_namespace.empty()) set_namespace(spec, "pid", input.pid_namespace);
    if (host.ipc_mode == "host") {
        drop_namespace(spec, "ipc");
        for (const char* path : {"/dev/shm", "/dev/mqueue"}) {
            drop_mount(spec, path);
            std::error_code ignored;
            if (std::filesystem::is_directory(path, ignored)) {
                spec.mounts.push_back(
                    {.destination = path, .type = "bind", .source = path, .options = {"rbind", "rprivate", "rw"}});
            }
        }
    } else if (host.ipc_mode == "none") {
        drop_mount(spec, "/dev/shm");
    } else if (input.in_sandbox && input.ipc_namespace.empty() && !input.shared_memory.empty()) {
        drop_mount(spec, "/dev/shm");
        spec.mounts.push_back({.destination = "/dev/shm",
                               .type = "bind",
                               .source = input.shared_memory,
                               .options = {"bind", "rprivate", "rw", "nosuid", "nodev", "noexec"}});
    }
    if (!input.ipc_namespace.empty()) set_namespace(spec, "ipc", input.ipc_namespace);
    if (!input.ipc_namespace.empty() && host.ipc_mode.starts_with("container:")) {
        // Shared memory is a file system: the other's is mounted here, too.
        drop_mount(spec, "/dev/shm");
        const std::string process = input.ipc_namespace.substr(0, input.ipc_namespace.find("/ns/"));
        spec.mounts.push_back({.destination = "/dev/shm",
                               .type = "bind",
                               .source = process + "/root/dev/shm",
                               .options = {"bind", "rprivate", "rw", "nosuid", "nodev", "noexec"}});
    }
    if (host.uts_mode == "host") drop_namespace(spec, "uts");
    if (!input.uts_namespace.empty()) set_namespace(spec, "uts", input.uts_namespace);
    if (host.cgroupns_mode == "host" || (host.cgroupns_mode.empty() && !input.unified_cgroups)) {
        drop_namespace(spec, "cgroup");
    }
}

Result<> add_mounts(const SpecInput& input, oci::Spec& spec) {
    std::set<std::string> destinations;
    for (const MountPoint& point : input.mounts) destinations.insert(point.destination);
    for (const auto& [path, options] : input.host_config.tmpfs) destinations.insert(clean_path(path));
    for (const std::string& destination : destinations) drop_mount(spec, destination);
    const auto bind_file = [&](const std::string& source, const char* destination) {
        if (source.empty() || destinations.contains(destination)) return;
        Strings options{"rbind", "rprivate"};
        if (input.host_config.readonly_rootfs) options.emplace_back("ro");
        spec.mounts.push_back(
            {.destination = destination, .type = "bind", .source = source, .options = std::move(options)});
    };
    bind_file(input.resolv_conf_file, "/etc/resolv.conf");
    bind_file(input.hostname_file, "/etc/hostname");
    bind_file(input.hosts_file, "/etc/hosts");

    std::vector<oci::Mount> wanted;
    for (const auto& [path, options] : input.host_config.tmpfs) {
        wanted.push_back({.destination = clean_path(path),
                          .type = "tmpfs",
                          .source = "tmpfs",
                          .options = TRY(parse_tmpfs_options(options))});
    }
    for (const MountPoint& point : input.mounts) {
        const MountRequest* request = nullptr;
        for (const MountRequest& one : input.host_config.mounts) {
            if (clean_path(one.target) == point.destination) request = &one;
        }
        oci::Mount mount{.destination = point.destination};
        if (point.type == "tmpfs") {
            mount.type = "tmpfs";
            mount.source = "tmpfs";
            mount.options = {"noexec", "nosuid", "nodev", point.read_write ? "rw" : "ro"};
            if (request == nullptr || !request->tmpfs_options || request->tmpfs_options->mode == 0)
                mount.options.emplace_back("mode=1777");
            if (request != nullptr && request->tmpfs_options) {
                const TmpfsOptions& options = *request->tmpfs_options;
                if (options.size_bytes > 0) mount.options.push_back("size=" + std::to_string(options.size_bytes));
                if (options.mode > 0) {
                    std::string octal;
                    for (std::uint32_t rest = options.mode; rest > 0; rest >>= 3U) {
                        octal.insert(octal.begin(), static_cast<char>('0' + (rest & 7U)));
                    }
                    mount.options.push_back("mode=" + octal);
                }
            }
        } else {
            mount.type = "bind";
            mount.source = point.source;
            const bool flat = request != nullptr && request->bind_options && request->bind_options->non_recursive;
            mount.options = {flat ? "bind" : "rbind", point.propagation.empty() ? "rprivate" : point.propagation};
            // Read-only down to the mounts below it where the kernel can (5.12), as Docker 25 and later.
            const bool top_only =
                request != nullptr && request->bind_options && request->bind_options->read_only_non_recursive;
            if (!point.read_write) mount.options.emplace_back(flat || top_only ? "ro" : "rro");
        }
        wanted.push_back(std::move(mount));
    }
    std::ranges::sort(wanted, {}, [](const oci::Mount& mount) {
        return std::pair(std::ranges::count(mount.destination, '/'), mount.destination);
    });
    std::ranges::move(wanted, std::back_inserter(spec.mounts));
    return {};
}

}  // namespace

bool is_valid_device_permission(std::string_view text) {
    return !text.empty() && text.size() <= 3 && text.find_first_not_of("rwm") == std::string_view::npos &&
           std::set<char>(text.begin(), text.end()).size() == text.size();
}

confine::CgroupResources build_resources(const Resources& resources) {
    confine::CgroupResources out;
    if (resources.memory > 0) out.memory.limit = resources.memory;
    if (resources.memory_reservation > 0) out.memory.reservation = resources.memory_reservation;
    if (resources.memory_swap != 0) out.memory.swap = resources.memory_swap;
    if (resources.memory_swappiness && *resources.memory_swappiness >= 0) {
        out.memory.swappiness = static_cast<std::uint64_t>(*resources.memory_swappiness);
    }
    if (resources.oom_kill_disable && *resources.oom_kill_disable) out.memory.disable_oom_killer = true;
    if (resources.cpu_shares > 0) out.cpu.shares = static_cast<std::uint64_t>(resources.cpu_shares);
    if (resources.nano_cpus > 0) {
        constexpr std::int64_t period_us = 100'000;
        out.cpu.period_us = period_us;
        out.cpu.quota_us = resources.nano_cpus / 1'000 * period_us / 1'000'000;
    }
    if (resources.cpu_period > 0) out.cpu.period_us = static_cast<std::uint64_t>(resources.cpu_period);
    if (resources.cpu_quota != 0) out.cpu.quota_us = resources.cpu_quota;
    if (resources.cpu_realtime_period > 0) {
        out.cpu.realtime_period_us = static_cast<std::uint64_t>(resources.cpu_realtime_period);
    }
    if (resources.cpu_realtime_runtime > 0) out.cpu.realtime_runtime_us = resources.cpu_realtime_runtime;
    out.cpu.cpus = resources.cpuset_cpus;
    out.cpu.mems = resources.cpuset_mems;
    if (resources.pids_limit && *resources.pids_limit != 0)
        out.pids_limit = std::max<std::int64_t>(*resources.pids_limit, -1);
    if (resources.blkio_weight > 0) out.block_io.weight = resources.blkio_weight;
    const auto throttle = [](const std::vector<ThrottleDevice>& devices, std::vector<confine::BlockThrottle>& to) {
        for (const ThrottleDevice& device : devices) {
            struct stat info{};
            if (::stat(device.path.c_str(), &info) != 0 || !S_ISBLK(info.st_mode)) continue;  // refused at create
            to.push_back({.major = static_cast<std::int64_t>(major(info.st_rdev)),
                          .minor = static_cast<std::int64_t>(minor(info.st_rdev)),
                          .rate = device.rate});
        }
    };
    throttle(resources.blkio_device_read_bps, out.block_io.read_bps);
    throttle(resources.blkio_device_write_bps, out.block_io.write_bps);
    throttle(resources.blkio_device_read_iops, out.block_io.read_iops);
    throttle(resources.blkio_device_write_iops, out.block_io.write_iops);
    return out;
}

Strings base_environment(const std::string& hostname, bool terminal) {
    Strings environment{std::string(oci::default_path), "HOSTNAME=" + hostname};
    if (terminal) environment.emplace_back("TERM=xterm");
    return environment;
}

Strings merge_environment(Strings base, const Strings& over) {
    for (const std::string& entry : over) {
        const std::size_t equals = entry.find('=');
        const std::string name = entry.substr(0, equals);
        const auto same = std::ranges::find_if(base, [&](const std::string& one) {
            return one.size() > name.size() && one.starts_with(name) && one[name.size()] == '=';
        });
        if (equals == std::string::npos) {
            if (same != base.end()) base.erase(same);
        } else if (same != base.end()) {
            *same = entry;
        } else {
            base.push_back(entry);
        }
    }
    return base;
}

Result<std::vector<oci::Rlimit>> build_rlimits(const std::vector<Ulimit>& defaults, const std::vector<Ulimit>& wanted) {
    std::vector<confine::ResourceLimit> limits;
    const auto add = [&](const Ulimit& ulimit) -> Result<> {
        const auto number = confine::resource_number(ulimit.name);
        if (!number) return fail(Code::invalid_argument, "invalid ulimit type: " + ulimit.name);
        if (ulimit.hard >= 0 && (ulimit.soft > ulimit.hard || ulimit.soft < 0)) {
            return fail(Code::invalid_argument, "ulimit soft limit must be less than or equal to hard limit: " +
                                                    std::to_string(ulimit.soft) + " > " + std::to_string(ulimit.hard));
        }
        std::erase_if(limits, [&](const confine::ResourceLimit& one) { return one.resource == *number; });
        limits.push_back({.resource = *number,
                          .soft = ulimit.soft < 0 ? confine::unlimited : static_cast<std::uint64_t>(ulimit.soft),
                          .hard = ulimit.hard < 0 ? confine::unlimited : static_cast<std::uint64_t>(ulimit.hard)});
        return {};
    };
    for (const Ulimit& ulimit : defaults) TRY(add(ulimit));
    for (const Ulimit& ulimit : wanted) TRY(add(ulimit));
    TRY(confine::check_resource_limits(limits));
    std::vector<oci::Rlimit> out;
    for (const confine::ResourceLimit& limit : limits) {
        out.push_back(
            {.type = std::string(confine::resource_name(limit.resource)), .soft = limit.soft, .hard = limit.hard});
    }
    return out;
}

Result<oci::ProcessSpec> build_exec_process(const SpecInput& input, const Strings& command, const Strings& environment,
                                            const std::string& user, const std::string& working_directory,
                                            bool terminal, bool privileged) {
    oci::ProcessSpec process;
    process.terminal = terminal;
    process.args = command;
    process.env =
        merge_environment(merge_environment(base_environment(input.hostname, terminal), input.config.env), environment);
    process.cwd = !working_directory.empty()         ? working_directory
                  : input.config.working_dir.empty() ? std::string("/")
                                                     : input.config.working_dir;
    process.user.username = user;
    process.user.additional_group_names = input.host_config.group_add;
    HostConfig rights = input.host_config;
    rights.privileged = rights.privileged || privileged;
    const confine::CapabilitySet set = TRY(container_capability_set(rights));
    const std::vector<std::string> names = set.names();
    process.capabilities = oci::Capabilities{.bounding = names, .effective = names, .permitted = names};
    process.rlimits = TRY(build_rlimits(input.default_ulimits, input.host_config.resources.ulimits));
    process.no_new_privileges = TRY(parse_security_options(input.host_config)).no_new_privileges;
    if (input.host_config.oom_score_adj != 0) process.oom_score_adj = input.host_config.oom_score_adj;
    return process;
}

Result<oci::Spec> build_spec(const SpecInput& input) {
    const HostConfig& host = input.host_config;
    oci::DefaultSpecOptions options;
    options.privileged = host.privileged;
    options.cgroup_namespace = true;  // taken away again below where it is not wanted
    if (host.shm_size > 0) options.shm_size = std::to_string(host.shm_size);
    oci::Spec spec = oci::default_spec(options);

    Strings command{input.path};
    command.insert(command.end(), input.args.begin(), input.args.end());
    spec.process = TRY(build_exec_process(input, command, {}, input.config.user, {}, input.config.tty, false));
    if (host.console_height > 0 && host.console_width > 0) {
        spec.process->console_size = oci::ConsoleSize{.height = static_cast<std::uint16_t>(host.console_height),
                                                      .width = static_cast<std::uint16_t>(host.console_width)};
    }
    spec.root.path = "rootfs";  // the overlay takes its place
    spec.root.readonly = host.readonly_rootfs;
    if (host.uts_mode != "host" && input.uts_namespace.empty() && !input.in_sandbox) {
        spec.hostname = input.hostname;
        spec.domainname = input.config.domainname;
    }
    apply_namespaces(input, spec);
    TRY(add_mounts(input, spec));
    spec.linux_spec.resources = build_resources(host.resources);
    TRY(add_devices(host, spec));
    if (host.masked_paths) spec.linux_spec.masked_paths = *host.masked_paths;
    if (host.readonly_paths) spec.linux_spec.readonly_paths = *host.readonly_paths;
    spec.linux_spec.sysctl = host.sysctls;
    for (const auto& [name, value] : host.annotations) spec.annotations[name] = value;
    spec.linux_spec.cgroups_path = input.cgroup_parent + "/" + input.id;
    return spec;
}

}  // namespace wherry::engine
