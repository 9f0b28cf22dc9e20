// The table of options of run and create, and the checks of their values.
#include <arpa/inet.h>

#include <array>
#include <charconv>

#include "cli/container_flags.hpp"
#include "cli/mounts.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

bool is_address(std::string_view text) {
    in6_addr address{};
    std::string copy(text);
    return ::inet_pton(AF_INET, copy.c_str(), &address) == 1 || ::inet_pton(AF_INET6, copy.c_str(), &address) == 1;
}

Result<> check_stream(std::string_view value) {
    std::string lower(value);
    for (char& c : lower)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (lower == "stdin" || lower == "stdout" || lower == "stderr") return {};
    return invalid("valid streams are STDIN, STDOUT and STDERR");
}

Result<> check_label(std::string_view value) {
    if (value.empty() || value.starts_with('='))
        return invalid("invalid label '" + std::string(value) + "': empty name");
    return {};
}

Result<> check_address(std::string_view value) {
    if (!is_address(value)) return invalid("IP address is not correctly formatted: " + std::string(value));
    return {};
}

Result<> check_extra_host(std::string_view value) {
    auto split = value.find_first_of("=:");
    auto bad = [&] { return invalid("bad format for add-host: \"" + std::string(value) + "\""); };
    if (split == std::string_view::npos || split == 0) return bad();
    std::string_view address = value.substr(split + 1);
    if (address.empty()) return bad();
    if (address == "host-gateway") return {};
    if (address.starts_with('[') && address.ends_with(']')) address = address.substr(1, address.size() - 2);
    if (!is_address(address)) return invalid("invalid IP address in add-host: \"" + std::string(address) + "\"");
    return {};
}

Result<> check_sysctl(std::string_view value) {
    auto refused = [&] { return invalid("sysctl '" + std::string(value) + "' is not allowed"); };
    auto equals = value.find('=');
    if (equals == std::string_view::npos) return refused();
    std::string_view name = value.substr(0, equals);
    for (std::string_view known : {"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
                                   "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"})
        if (name == known) return {};
    if (name.starts_with("net.") || name.starts_with("fs.mqueue.")) return {};
    return refused();
}

Result<> check_ulimit(std::string_view value) {
    auto bad = [&] { return invalid("invalid ulimit argument: " + std::string(value)); };
    auto equals = value.find('=');
    if (equals == std::string_view::npos || value.find('=', equals + 1) != std::string_view::npos) return bad();
    std::string_view name = value.substr(0, equals);
    bool known = false;
    for (std::string_view one : {"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile",
                                 "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"})
        known = known || one == name;
    if (!known) return invalid("invalid ulimit type: " + std::string(name));
    std::string_view limits = value.substr(equals + 1);
    auto colon = limits.find(':');
    auto number = [&](std::string_view text, std::int64_t& out) {
        auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
        return error == std::errc() && end == text.data() + text.size();
    };
    std::int64_t soft = 0;
    std::int64_t hard = 0;
    if (!number(limits.substr(0, colon), soft)) return bad();
    if (colon == std::string_view::npos) return {};
    if (!number(limits.substr(colon + 1), hard)) return bad();
    if (hard != -1 && (soft == -1 || soft > hard))
        return invalid("ulimit soft limit must be less than or equal to hard limit: " + std::to_string(soft) + " > " +
                       std::to_string(hard));
    return {};
}

Result<> check_device_rule(std::string_view value) {
    auto bad = [whole = std::string(value)] { return invalid("invalid device cgroup format '" + whole + "'"); };
    // "<a|b|c> <major|*>:<minor|*> <some of rwm>"
    std::array<std::string_view, 3> parts;
    for (std::size_t i = 0; i < 3; ++i) {
        auto space = value.find(' ');
        parts.at(i) = value.substr(0, space);
        value.remove_prefix(space == std::string_view::npos ? value.size() : space + 1);
    }
    if (!value.empty() || parts[0].size() != 1 || std::string_view("abc").find(parts[0]) == std::string_view::npos)
        return bad();
    auto colon = parts[1].find(':');
    if (colon == std::string_view::npos) return bad();
    for (std::string_view number : {parts[1].substr(0, colon), parts[1].substr(colon + 1)})
        if (number != "*" && (number.empty() || number.find_first_not_of("0123456789") != std::string_view::npos))
            return bad();
    if (parts[2].empty() || parts[2].size() > 3 || parts[2].find_first_not_of("rwm") != std::string_view::npos)
        return bad();
    return {};
}

Result<> split_device(std::string_view value, std::string_view what) {
    auto colon = value.rfind(':');
    if (colon == std::string_view::npos || colon == 0) return invalid("bad format: " + std::string(value));
    if (!value.starts_with("/dev/")) return invalid("bad format for device path: " + std::string(value));
    std::string_view amount = value.substr(colon + 1);
    auto number = what == "rate" ? parse_bytes(amount) : parse_bytes(amount);
    if (!number)
        return invalid("invalid rate for device: " + std::string(value) +
                       ". The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. "
                       "Unit is optional and can be kb, mb, or gb");
    return {};
}

Result<> check_device_rate(std::string_view value) {
    return split_device(value, "rate");
}

Result<> check_device_weight(std::string_view value) {
    auto colon = value.rfind(':');
    if (colon == std::string_view::npos || colon == 0) return invalid("bad format: " + std::string(value));
    if (!value.starts_with("/dev/")) return invalid("bad format for device path: " + std::string(value));
    std::string_view text = value.substr(colon + 1);
    unsigned weight = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), weight);
    if (error != std::errc() || end != text.data() + text.size() || (weight != 0 && (weight < 10 || weight > 1000)))
        return invalid("invalid weight for device: " + std::string(value));
    return {};
}

Result<> check_link_local(std::string_view value) {
    return check_address(value);
}

constexpr std::string_view no_gpus = "GPUs are not supported";
constexpr std::string_view windows_only = "is for Windows daemons only";
constexpr std::string_view no_storage =
    "storage options are not supported: layers live on the host's file system and have no quota";

constexpr Option table[] = {
    {"add-host", 0, "list", "Add a custom host-to-IP mapping (host:ip)", check_extra_host},
    {"annotation", 0, "map", "Add an annotation to the container (passed through to the OCI runtime)"},
    {"attach", 'a', "list", "Attach to STDIN, STDOUT or STDERR", check_stream},
    {"blkio-weight", 0, "uint16", "Block IO (relative weight), between 10 and 1000, or 0 to disable", check_uint16,
     "0"},
    {"blkio-weight-device", 0, "list", "Block IO weight (relative device weight)", check_device_weight},
    {"cap-add", 0, "list", "Add Linux capabilities"},
    {"cap-drop", 0, "list", "Drop Linux capabilities"},
    {"cgroup-parent", 0, "string", "Parent cgroup for the container"},
    {"cgroupns", 0, "string", "Cgroup namespace to use (host|private)"},
    {"cidfile", 0, "string", "Write the container ID to the file"},
    {"cpu-count", 0, "int", "CPU count", nullptr, {}, true, windows_only},
    {"cpu-percent", 0, "int", "CPU percent", nullptr, {}, true, windows_only},
    {"cpu-period", 0, "int", "Limit CPU CFS (Completely Fair Scheduler) period", check_integer},
    {"cpu-quota", 0, "int", "Limit CPU CFS (Completely Fair Scheduler) quota", check_integer},
    {"cpu-rt-period", 0, "int", "Limit CPU real-time period in microseconds", check_integer},
    {"cpu-rt-runtime", 0, "int", "Limit CPU real-time runtime in microseconds", check_integer},
    {"cpu-shares", 'c', "int", "CPU shares (relative weight)", check_integer},
    {"cpus", 0, "decimal", "Number of CPUs", check_cpus},
    {"cpuset-cpus", 0, "string", "CPUs in which to allow execution (0-3, 0,1)"},
    {"cpuset-mems", 0, "string", "MEMs in which to allow execution (0-3, 0,1)"},
    {"device", 0, "list", "Add a host device to the container"},
    {"device-cgroup-rule", 0, "list", "Add a rule to the cgroup allowed devices list", check_device_rule},
    {"device-read-bps", 0, "list", "Limit read rate (bytes per second) from a device", check_device_rate},
    {"device-read-iops", 0, "list", "Limit read rate (IO per second) from a device", check_device_rate},
    {"device-write-bps", 0, "list", "Limit write rate (bytes per second) to a device", check_device_rate},
    {"device-write-iops", 0, "list", "Limit write rate (IO per second) to a device", check_device_rate},
    {"disable-content-trust",
     0,
     {},
     "Skip image verification (images are never verified by notaries)",
     nullptr,
     "true",
     true},
    {"dns", 0, "list", "Set custom DNS servers", check_address},
    {"dns-opt", 0, "list", "Set DNS options", nullptr, {}, true},
    {"dns-option", 0, "list", "Set DNS options"},
    {"dns-search", 0, "list", "Set custom DNS search domains"},
    {"domainname", 0, "string", "Container NIS domain name"},
    {"entrypoint", 0, "string", "Overwrite the default ENTRYPOINT of the image"},
    {"env", 'e', "list", "Set environment variables", check_environment},
    {"env-file", 0, "list", "Read in a file of environment variables"},
    {"expose", 0, "list", "Expose a port or a range of ports"},
    {"gpus", 0, "gpu-request", "GPU devices to add to the container", nullptr, {}, true, no_gpus},
    {"group-add", 0, "list", "Add additional groups to join"},
    {"health-cmd", 0, "string", "Command to run to check health"},
    {"health-interval", 0, "duration", "Time between running the check (ms|s|m|h)", check_duration, "0s"},
    {"health-retries", 0, "int", "Consecutive failures needed to report unhealthy", check_integer},
    {"health-start-interval", 0, "duration", "Time between running the check during the start period (ms|s|m|h)",
     check_duration, "0s"},
    {"health-start-period", 0, "duration",
     "Start period for the container to initialize before counting retries (ms|s|m|h)", check_duration, "0s"},
    {"health-timeout", 0, "duration", "Maximum time to allow one check to run (ms|s|m|h)", check_duration, "0s"},
    {"hostname", 'h', "string", "Container host name"},
    {"init", 0, {}, "Run an init inside the container that forwards signals and reaps processes"},
    {"interactive", 'i', {}, "Keep STDIN open even if not attached"},
    {"io-maxbandwidth", 0, "bytes", "Maximum IO bandwidth", nullptr, {}, true, windows_only},
    {"io-maxiops", 0, "uint", "Maximum IOps", nullptr, {}, true, windows_only},
    {"ip", 0, "string", "IPv4 address (e.g., 172.30.100.104)"},
    {"ip6", 0, "string", "IPv6 address (e.g., 2001:db8::33)"},
    {"ipc", 0, "string", "IPC mode to use"},
    {"isolation", 0, "string", "Container isolation technology"},
    {"kernel-memory", 0, "bytes", "Kernel memory limit (accepted; kernels ignore it)", check_bytes, {}, true},
    {"label", 'l', "list", "Set meta data on a container", check_label},
    {"label-file", 0, "list", "Read in a line delimited file of labels"},
    {"link", 0, "list", "Add link to another container"},
    {"link-local-ip", 0, "list", "Container IPv4/IPv6 link-local addresses", check_link_local},
    {"log-driver", 0, "string", "Logging driver for the container"},
    {"log-opt", 0, "list", "Log driver options"},
    {"mac-address", 0, "string", "Container MAC address (e.g., 92:d0:c6:0a:29:33)"},
    {"memory", 'm', "bytes", "Memory limit", check_bytes},
    {"memory-reservation", 0, "bytes", "Memory soft limit", check_bytes},
    {"memory-swap", 0, "bytes", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap",
     check_swap_bytes},
    {"memory-swappiness", 0, "int", "Tune container memory swappiness (0 to 100)", check_integer, "-1"},
    {"mount", 0, "mount", "Attach a filesystem mount to the container", check_mount},
    {"name", 0, "string", "Assign a name to the container"},
    {"net", 0, "network", "Connect a container to a network", nullptr, {}, true},
    {"net-alias", 0, "list", "Add network-scoped alias for the container", nullptr, {}, true},
    {"network", 0, "network", "Connect a container to a network"},
    {"network-alias", 0, "list", "Add network-scoped alias for the container"},
    {"no-healthcheck", 0, {}, "Disable any container-specified HEALTHCHECK"},
    {"oom-kill-disable", 0, {}, "Disable OOM Killer"},
    {"oom-score-adj", 0, "int", "Tune host's OOM preferences (-1000 to 1000)", check_integer},
    {"pid", 0, "string", "PID namespace to use"},
    {"pids-limit", 0, "int", "Tune container pids limit (set -1 for unlimited)", check_integer},
    {"platform", 0, "string", "Set platform if server is multi-platform capable"},
    {"privileged", 0, {}, "Give extended privileges to this container"},
    {"publish", 'p', "list", "Publish a container's port(s) to the host"},
    {"publish-all", 'P', {}, "Publish all exposed ports to random ports"},
    {"pull", 0, "string", "Pull image before running (\"always\", \"missing\", \"never\")", nullptr, "\"missing\""},
    {"quiet", 'q', {}, "Suppress the pull output"},
    {"read-only", 0, {}, "Mount the container's root filesystem as read only"},
    {"restart", 0, "string", "Restart policy to apply when a container exits", nullptr, "\"no\""},
    {"rm", 0, {}, "Automatically remove the container and its associated anonymous volumes when it exits"},
    {"runtime", 0, "string", "Runtime to use for this container"},
    {"sandbox", 0, "string", "Sandbox to share with other containers (wherry sandbox create)"},
    {"security-opt", 0, "list", "Security Options"},
    {"shm-size", 0, "bytes", "Size of /dev/shm", check_bytes},
    {"stop-signal", 0, "string", "Signal to stop the container"},
    {"stop-timeout", 0, "int", "Timeout (in seconds) to stop a container", check_integer},
    {"storage-opt", 0, "list", "Storage driver options for the container", nullptr, {}, true, no_storage},
    {"sysctl", 0, "map", "Sysctl options", check_sysctl},
    {"tmpfs", 0, "list", "Mount a tmpfs directory"},
    {"tty", 't', {}, "Allocate a pseudo-TTY"},
    {"ulimit", 0, "ulimit", "Ulimit options", check_ulimit},
    {"use-api-socket", 0, {}, "Bind mount the API socket into the container"},
    {"user", 'u', "string", "Username or UID (format: <name|uid>[:<group|gid>])"},
    {"userns", 0, "string", "User namespace to use"},
    {"uts", 0, "string", "UTS namespace to use"},
    {"volume", 'v', "list", "Bind mount a volume"},
    {"volume-driver", 0, "string", "Volume driver for the container"},
    {"volumes-from", 0, "list", "Mount volumes from the specified container(s)"},
    {"workdir", 'w', "string", "Working directory inside the container"},
};

}  // namespace

std::span<const Option> container_options() {
    return table;
}

Result<> check_environment(std::string_view value) {
    if (value.empty() || value.starts_with('=')) return invalid("invalid environment variable: " + std::string(value));
    return {};
}

}  // namespace wherry::cli
