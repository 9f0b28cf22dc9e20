#include "oci/default_spec.hpp"

#include <unistd.h>

#include <array>
#include <vector>

#include "confine/capabilities.hpp"

namespace wherry::oci {

namespace {

constexpr std::array<std::string_view, 14> capability_names{
    "CAP_CHOWN",   "CAP_DAC_OVERRIDE", "CAP_FSETID",           "CAP_FOWNER",
    "CAP_MKNOD",   "CAP_NET_RAW",      "CAP_SETGID",           "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP",      "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT",
    "CAP_KILL",    "CAP_AUDIT_WRITE"};

constexpr std::array<std::string_view, 5> readonly_names{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                                                         "/proc/sysrq-trigger"};

// Docker masks the thermal throttle counters of every processor that is there when the daemon starts.
const std::vector<std::string>& throttle_paths() {
    static const std::vector<std::string> paths = [] {
        std::vector<std::string> found;
        long processors = ::sysconf(_SC_NPROCESSORS_CONF);
        for (long processor = 0; processor < processors; ++processor) {
            std::string path = "/sys/devices/system/cpu/cpu" + std::to_string(processor) + "/thermal_throttle";
            if (::access(path.c_str(), F_OK) == 0) found.push_back(std::move(path));
        }
        return found;
    }();
    return paths;
}

const std::vector<std::string_view>& masked_names() {
    static const std::vector<std::string_view> names = [] {
        std::vector<std::string_view> all{"/proc/acpi",
                                          "/proc/asound",
                                          "/proc/interrupts",
                                          "/proc/kcore",
                                          "/proc/keys",
                                          "/proc/latency_stats",
                                          "/proc/sched_debug",
                                          "/proc/scsi",
                                          "/proc/timer_list",
                                          "/proc/timer_stats",
                                          "/sys/devices/virtual/powercap",
                                          "/sys/firmware"};
        for (const std::string& path : throttle_paths()) all.emplace_back(path);
        return all;
    }();
    return names;
}

Mount mount(std::string destination, std::string type, std::string source, std::vector<std::string> options) {
    Mount entry;
    entry.destination = std::move(destination);
    entry.type = std::move(type);
    entry.source = std::move(source);
    entry.options = std::move(options);
    return entry;
}

std::vector<std::string> copied(std::span<const std::string_view> names) {
    return {names.begin(), names.end()};
}

}  // namespace

std::span<const std::string_view> default_capabilities() {
    return capability_names;
}
std::span<const std::string_view> default_masked_paths() {
    return masked_names();
}
std::span<const std::string_view> default_readonly_paths() {
    return readonly_names;
}

std::vector<Mount> default_mounts(const DefaultSpecOptions& options) {
    const std::string access = options.privileged ? "rw" : "ro";
    return {
        mount("/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}),
        mount("/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}),
        mount("/dev/pts", "devpts", "devpts",
              {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}),
        mount("/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", access}),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", {access, "nosuid", "noexec", "nodev"}),
        mount("/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}),
        mount("/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=" + options.shm_size}),
    };
}

Spec default_spec(const DefaultSpecOptions& options) {
    Spec spec;
    ProcessSpec process;
    process.env = {std::string(default_path)};
    Capabilities capabilities;
    std::vector<std::string> names = copied(capability_names);
    if (options.privileged) {
        auto available = confine::bounding_set();
        names = (available ? *available : confine::all_capabilities()).names();
    }
    // None inheritable (CVE-2022-24769).
    capabilities.bounding = capabilities.effective = capabilities.permitted = std::move(names);
    process.capabilities = std::move(capabilities);
    spec.process = std::move(process);
    spec.mounts = default_mounts(options);
    LinuxSpec& lin = spec.linux_spec;
    for (const char* type : {"mount", "network", "uts", "pid", "ipc"}) lin.namespaces.push_back({type, {}});
    if (options.cgroup_namespace) lin.namespaces.push_back({"cgroup", {}});
    if (!options.privileged) {
        lin.masked_paths = copied(masked_names());
        lin.readonly_paths = copied(readonly_names);
        lin.resources.devices = confine::default_device_rules();
    }
    return spec;
}

}  // namespace wherry::oci
