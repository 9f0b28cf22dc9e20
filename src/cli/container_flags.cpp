#include "cli/container_flags.hpp"

#include <algorithm>
#include <boost/json/array.hpp>
#include <charconv>
#include <cstdlib>
#include <set>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "cli/bodies.hpp"
#include "cli/mounts.hpp"
#include "cli/ports.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace {

std::string lower(std::string_view text) {
    std::string out(text);
    for (char& c : out)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return out;
}

// "key=value" into a map; a bare key has an empty value.
void set_text(const ParsedOptions& options, std::string_view name, json::object& object, std::string_view key) {
    if (options.given(name)) object[key] = options.text(name);
}
void set_list(const ParsedOptions& options, std::string_view name, json::object& object, std::string_view key) {
    if (options.given(name)) object[key] = strings(options.list(name));
}
void set_flag(const ParsedOptions& options, std::string_view name, json::object& object, std::string_view key) {
    if (options.given(name)) object[key] = options.flag(name);
}
void set_integer(const ParsedOptions& options, std::string_view name, json::object& object, std::string_view key) {
    if (options.given(name)) object[key] = options.integer(name);
}

// Lines without comments and blank ones; a NUL or bad start makes the file unusable.
Result<std::vector<std::string>> read_lines(const std::string& path) {
    auto content = read_file(path, 16U << 20U);
    if (!content) {
        std::string reason =
            content.error().code() == Code::not_found ? "no such file or directory" : content.error().describe();
        return invalid("open " + path + ": " + reason);
    }
    std::vector<std::string> lines;
    std::string_view rest = *content;
    if (rest.starts_with("\xef\xbb\xbf")) rest.remove_prefix(3);
    while (!rest.empty()) {
        auto end = rest.find('\n');
        std::string_view line = rest.substr(0, end);
        rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
        if (line.ends_with('\r')) line.remove_suffix(1);
        while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
        if (line.empty() || line.front() == '#') continue;
        lines.emplace_back(line);
    }
    return lines;
}

Result<json::object> parse_device(std::string_view text) {
    std::vector<std::string> parts;
    for (std::string_view rest = text;;) {
        auto colon = rest.find(':');
        parts.emplace_back(rest.substr(0, colon));
        if (colon == std::string_view::npos) break;
        rest.remove_prefix(colon + 1);
    }
    auto is_mode = [](std::string_view mode) {
        return !mode.empty() && mode.size() <= 3 && mode.find_first_not_of("rwm") == std::string_view::npos;
    };
    if (text.empty()) return invalid("bad format for path: ");
    if (parts.size() > 3) return invalid("invalid device specification: " + std::string(text));
    json::object device;
    std::string inside = parts[0];
    std::string mode = "rwm";
    if (parts.size() == 2 && is_mode(parts[1]))
        mode = parts[1];
    else if (parts.size() >= 2)
        inside = parts[1];
    if (parts.size() == 3) mode = parts[2];
    if (!is_mode(mode)) return invalid("bad mode specified: " + mode);
    for (const std::string& path : {parts[0], inside})
        if (!path.starts_with('/')) return invalid(path + " is not an absolute path");
    device["PathOnHost"] = parts[0];
    device["PathInContainer"] = inside;
    device["CgroupPermissions"] = mode;
    return device;
}

Result<json::array> security_options(const std::vector<std::string>& given, json::object& host) {
    json::array out;
    for (const std::string& option : given) {
        auto split = option.find('=');
        if (split == std::string::npos) split = option.find(':');
        std::string name = option.substr(0, split);
        if (split == std::string::npos && option != "no-new-privileges" && option != "disable")
            return invalid("Invalid --security-opt: \"" + option + "\"");
        std::string value = split == std::string::npos ? "" : option.substr(split + 1);
        if (name == "systempaths" && value == "unconfined") {
            host["MaskedPaths"] = json::array();
            host["ReadonlyPaths"] = json::array();
            continue;
        }
        if (name == "seccomp" && value != "unconfined" && value != "builtin") {
            auto profile = read_file(value, 4U << 20U);
            if (!profile)
                return invalid("opening seccomp profile (" + value + ") failed: open " + value + ": " +
                               (profile.error().code() == Code::not_found ? "no such file or directory"
                                                                          : profile.error().describe()));
            auto document = parse_json(*profile);
            if (!document)
                return invalid("compacting json for seccomp profile (" + value +
                               ") failed: " + document.error().describe());
            out.emplace_back("seccomp=" + to_json(*document));
            continue;
        }
        out.emplace_back(option);
    }
    return out;
}

Result<> add_health(const ParsedOptions& options, json::object& config) {
    static constexpr std::pair<std::string_view, std::string_view> durations[] = {
        {"health-interval", "Interval"},
        {"health-timeout", "Timeout"},
        {"health-start-period", "StartPeriod"},
        {"health-start-interval", "StartInterval"}};
    json::object health;
    for (const auto& [name, key] : durations) {
        if (!options.given(name)) continue;
        std::int64_t value = TRY(parse_duration(options.text(name)));
        if (value < 0) return invalid("--" + std::string(name) + " cannot be negative");
        health[key] = value;
    }
    if (options.given("health-retries")) {
        if (options.integer("health-retries") < 0) return invalid("--health-retries cannot be negative");
        health["Retries"] = options.integer("health-retries");
    }
    if (options.given("health-cmd")) {
        json::array test;
        test.emplace_back("CMD-SHELL");
        test.emplace_back(options.text("health-cmd"));
        health["Test"] = std::move(test);
    }
    if (options.flag("no-healthcheck")) {
        if (!health.empty()) return invalid("--no-healthcheck conflicts with --health-* options");
        json::array test;
        test.emplace_back("NONE");
        health["Test"] = std::move(test);
    }
    if (!health.empty()) config["Healthcheck"] = std::move(health);
    return {};
}

Result<> check_mode(const ParsedOptions& options, std::string_view option, std::string_view label,
                    std::initializer_list<std::string_view> words, bool container_allowed) {
    if (!options.given(option)) return {};
    std::string value = options.text(option);
    if (value.empty()) return {};
    for (std::string_view word : words)
        if (value == word) return {};
    if (container_allowed && value.starts_with("container:") && value.size() > 10) return {};
    return invalid("--" + std::string(option) + ": invalid " + std::string(label) + " mode");
}

struct NetworkAttachment {
    std::string target;
    json::object endpoint;
};

// "name" or "name=…,alias=…,ip=…,ip6=…,driver-opt=k=v,mac-address=…,link-local-ip=…".
Result<NetworkAttachment> parse_network(const std::string& text) {
    NetworkAttachment network;
    if (text.find('=') == std::string::npos) {
        network.target = text;
    } else {
        for (std::string_view rest = text; !rest.empty();) {
            auto comma = rest.find(',');
            std::string_view field = rest.substr(0, comma);
            rest.remove_prefix(comma == std::string_view::npos ? rest.size() : comma + 1);
            auto equals = field.find('=');
            if (equals == std::string_view::npos)
                return invalid("invalid field '" + std::string(field) + "' must be a key=value pair");
            std::string key = lower(field.substr(0, equals));
            std::string value(field.substr(equals + 1));
            if (key == "name")
                network.target = value;
            else if (key == "alias")
                child_array(network.endpoint, "Aliases").emplace_back(value);
            else if (key == "ip")
                child(network.endpoint, "IPAMConfig")["IPv4Address"] = value;
            else if (key == "ip6")
                child(network.endpoint, "IPAMConfig")["IPv6Address"] = value;
            else if (key == "mac-address")
                network.endpoint["MacAddress"] = value;
            else if (key == "link-local-ip")
                child_array(child(network.endpoint, "IPAMConfig"), "LinkLocalIPs").emplace_back(value);
            else if (key == "driver-opt")
                add_pair(child(network.endpoint, "DriverOpts"), value);
            else
                return invalid("invalid field key " + key);
        }
    }
    if (network.target.empty()) return invalid("no name set for network");
    return network;
}

bool valid_mac(std::string_view text) {
    if (text.size() != 17) return false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        bool separator = i % 3 == 2;
        bool hexadecimal = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f') ||
                           (text[i] >= 'A' && text[i] <= 'F');
        if (separator ? (text[i] != ':' && text[i] != '-') : !hexadecimal) return false;
    }
    return true;
}

Result<> add_networks(const ParsedOptions& options, json::object& body, json::object& host) {
    std::vector<std::string> wanted = options.list("network");
    for (const std::string& more : options.list("net")) wanted.push_back(more);
    if (options.given("sandbox")) {
        if (!wanted.empty()) return invalid("conflicting options: --sandbox and --network");
        host["NetworkMode"] = "sandbox:" + options.text("sandbox");
        return {};
    }
    std::vector<NetworkAttachment> networks;
    for (const std::string& text : wanted) networks.push_back(TRY(parse_network(text)));
    if (networks.empty()) networks.push_back({"default", {}});
    NetworkAttachment& first = networks.front();
    host["NetworkMode"] = first.target;
    std::vector<std::string> aliases = options.list("network-alias");
    for (const std::string& more : options.list("net-alias")) aliases.push_back(more);
    bool user_defined = first.target != "default" && first.target != "bridge" && first.target != "host" &&
                        first.target != "none" && !first.target.starts_with("container:");
    if (!aliases.empty() && !user_defined)
        return invalid("network-scoped aliases are only supported for user-defined networks");
    for (const std::string& alias : aliases) child_array(first.endpoint, "Aliases").emplace_back(alias);
    if (options.given("ip")) child(first.endpoint, "IPAMConfig")["IPv4Address"] = options.text("ip");
    if (options.given("ip6")) child(first.endpoint, "IPAMConfig")["IPv6Address"] = options.text("ip6");
    for (const std::string& address : options.list("link-local-ip"))
        child_array(child(first.endpoint, "IPAMConfig"), "LinkLocalIPs").emplace_back(address);
    if (options.given("mac-address")) {
        std::string address = options.text("mac-address");
        if (!valid_mac(address)) return invalid(address + " is not a valid mac address");
        body["MacAddress"] = address;
        first.endpoint["MacAddress"] = address;
    }
    if (options.given("link")) {
        if (user_defined) child_array(first.endpoint, "Links") = strings(options.list("link"));
        host["Links"] = strings(options.list("link"));
    }
    json::object endpoints;
    for (NetworkAttachment& network : networks) {
        bool plain = network.endpoint.empty() && networks.size() == 1;
        if (!plain) endpoints[network.target] = std::move(network.endpoint);
    }
    if (!endpoints.empty()) child(body, "NetworkingConfig")["EndpointsConfig"] = std::move(endpoints);
    return {};
}

Result<> add_mounts(const ParsedOptions& options, json::object& config, json::object& host) {
    for (const std::string& text : options.list("volume")) {
        VolumeArgument volume = TRY(parse_volume(text));
        if (volume.bind.empty())
            child(config, "Volumes")[volume.destination] = json::object();
        else
            child_array(host, "Binds").emplace_back(volume.bind);
    }
    for (const std::string& text : options.list("mount"))
        child_array(host, "Mounts").emplace_back(TRY(parse_mount(text)));
    for (const std::string& text : options.list("tmpfs")) {
        auto colon = text.find(':');
        child(host, "Tmpfs")[text.substr(0, colon)] = colon == std::string::npos ? "" : text.substr(colon + 1);
    }
    return {};
}

Result<> add_ports(const ParsedOptions& options, json::object& config, json::object& host) {
    for (const std::string& text : options.list("publish")) {
        for (const PortBinding& binding : TRY(parse_publish(text))) {
            child(config, "ExposedPorts")[binding.port] = json::object();
            json::object entry;
            entry["HostIp"] = binding.host_ip;
            entry["HostPort"] = binding.host_port;
            child_array(child(host, "PortBindings"), binding.port).emplace_back(std::move(entry));
        }
    }
    for (const std::string& text : options.list("expose"))
        for (const std::string& port : TRY(parse_expose(text))) child(config, "ExposedPorts")[port] = json::object();
    set_flag(options, "publish-all", host, "PublishAllPorts");
    return {};
}

Result<> add_labels(const ParsedOptions& options, json::object& config, json::object& host) {
    for (const std::string& path : options.list("label-file"))
        for (const std::string& line : TRY(read_lines(path))) {
            if (line.starts_with('=')) return invalid("invalid label '" + line + "': empty name");
            add_pair(child(config, "Labels"), line);
        }
    for (const std::string& label : options.list("label")) add_pair(child(config, "Labels"), label);
    for (const std::string& annotation : options.list("annotation")) add_pair(child(host, "Annotations"), annotation);
    return {};
}

// "net_admin" is CAP_NET_ADMIN; ALL makes the others of its list needless; what is added is not dropped.
std::set<std::string> capability_set(const std::vector<std::string>& names) {
    std::set<std::string> out;
    for (std::string name : names) {
        for (char& c : name)
            if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
        if (name != "ALL" && !name.starts_with("CAP_")) name = "CAP_" + name;
        if (name == "ALL") return {"ALL"};
        out.insert(std::move(name));
    }
    return out;
}

void add_capabilities(const ParsedOptions& options, json::object& host) {
    auto add = capability_set(options.list("cap-add"));
    auto drop = capability_set(options.list("cap-drop"));
    for (const std::string& name : add) {
        child_array(host, "CapAdd").emplace_back(name);
        drop.erase(name);
    }
    for (const std::string& name : drop) child_array(host, "CapDrop").emplace_back(name);
}

Result<> add_host(const ParsedOptions& options, json::object& host) {
    TRY(check_mode(options, "pid", "PID", {"host"}, true));
    TRY(check_mode(options, "uts", "UTS", {"host"}, false));
    TRY(check_mode(options, "userns", "USER", {"host"}, false));
    TRY(check_mode(options, "cgroupns", "CGROUP", {"host", "private"}, false));
    set_text(options, "pid", host, "PidMode");
    set_text(options, "ipc", host, "IpcMode");
    set_text(options, "uts", host, "UTSMode");
    set_text(options, "userns", host, "UsernsMode");
    set_text(options, "cgroupns", host, "CgroupnsMode");
    set_text(options, "runtime", host, "Runtime");
    set_text(options, "isolation", host, "Isolation");
    set_text(options, "cgroup-parent", host, "CgroupParent");
    set_text(options, "volume-driver", host, "VolumeDriver");
    set_text(options, "cidfile", host, "ContainerIDFile");
    set_flag(options, "privileged", host, "Privileged");
    set_flag(options, "read-only", host, "ReadonlyRootfs");
    set_flag(options, "init", host, "Init");
    set_flag(options, "rm", host, "AutoRemove");
    add_capabilities(options, host);
    set_list(options, "group-add", host, "GroupAdd");
    set_list(options, "dns", host, "Dns");
    set_list(options, "dns-search", host, "DnsSearch");
    set_list(options, "volumes-from", host, "VolumesFrom");
    for (std::string_view name : {"dns-option", "dns-opt"})
        for (const std::string& value : options.list(name)) child_array(host, "DnsOptions").emplace_back(value);
    for (const std::string& entry : options.list("add-host")) {
        auto split = entry.find_first_of("=:");
        std::string address = entry.substr(split + 1);
        if (address.starts_with('[') && address.ends_with(']')) address = address.substr(1, address.size() - 2);
        child_array(host, "ExtraHosts").emplace_back(entry.substr(0, split) + ":" + address);
    }
    if (options.given("security-opt")) {
        json::array security = TRY(security_options(options.list("security-opt"), host));
        if (!security.empty()) host["SecurityOpt"] = std::move(security);
    }
    if (options.given("log-driver")) child(host, "LogConfig")["Type"] = options.text("log-driver");
    for (const std::string& option : options.list("log-opt"))
        add_pair(child(child(host, "LogConfig"), "Config"), option);
    if (options.text("log-driver") == "none" && options.given("log-opt"))
        return invalid("invalid logging opts for driver none");
    for (const std::string& option : options.list("sysctl")) add_pair(child(host, "Sysctls"), option);
    if (options.given("shm-size")) host["ShmSize"] = TRY(parse_bytes(options.text("shm-size")));
    set_integer(options, "oom-score-adj", host, "OomScoreAdj");
    if (options.given("restart")) {
        json::object policy = TRY(parse_restart_policy(options.text("restart")));
        if (options.flag("rm") && policy["Name"] != "no" && policy["Name"] != "")
            return invalid("conflicting options: cannot specify both --restart and --rm");
        host["RestartPolicy"] = std::move(policy);
    }
    return {};
}

void add_devices_rates(const ParsedOptions& options, json::object& host) {
    static constexpr std::pair<std::string_view, std::string_view> rates[] = {
        {"device-read-bps", "BlkioDeviceReadBps"},
        {"device-write-bps", "BlkioDeviceWriteBps"},
        {"device-read-iops", "BlkioDeviceReadIOps"},
        {"device-write-iops", "BlkioDeviceWriteIOps"}};
    auto add = [&](std::string_view option, std::string_view key, std::string_view member) {
        for (const std::string& text : options.list(option)) {
            auto colon = text.rfind(':');
            json::object entry;
            entry["Path"] = text.substr(0, colon);
            entry[member] = parse_bytes(text.substr(colon + 1)).value_or(0);
            child_array(host, key).emplace_back(std::move(entry));
        }
    };
    for (const auto& [option, key] : rates) add(option, key, "Rate");
    add("blkio-weight-device", "BlkioWeightDevice", "Weight");
}

Result<> add_container_resources(const ParsedOptions& options, json::object& host) {
    if (options.given("memory-swappiness")) {
        std::int64_t value = options.integer("memory-swappiness");
        if (value < -1 || value > 100)
            return invalid("invalid value: " + std::to_string(value) + ". Valid memory swappiness range is 0-100");
        host["MemorySwappiness"] = value;
    }
    set_flag(options, "oom-kill-disable", host, "OomKillDisable");
    set_list(options, "device-cgroup-rule", host, "DeviceCgroupRules");
    for (const std::string& text : options.list("device"))
        child_array(host, "Devices").emplace_back(TRY(parse_device(text)));
    for (const std::string& text : options.list("ulimit")) {
        auto equals = text.find('=');
        auto colon = text.find(':', equals);
        auto number = [&](std::string_view part) {
            std::int64_t value = 0;
            std::from_chars(part.data(), part.data() + part.size(), value);
            return value;
        };
        json::object limit;
        std::string_view limits = std::string_view(text).substr(equals + 1);
        std::int64_t soft = number(limits.substr(0, limits.find(':')));
        limit["Name"] = text.substr(0, equals);
        limit["Soft"] = soft;
        limit["Hard"] = colon == std::string::npos ? soft : number(limits.substr(limits.find(':') + 1));
        child_array(host, "Ulimits").emplace_back(std::move(limit));
    }
    add_devices_rates(options, host);
    return {};
}

}  // namespace

Result<std::vector<std::string>> read_environment_file(const std::string& path) {
    std::vector<std::string> out;
    for (const std::string& line : TRY(read_lines(path))) {
        std::string name = line.substr(0, line.find('='));
        if (name.empty()) return invalid("no variable name on line '" + line + "'");
        if (name.find_first_of(" \t") != std::string::npos)
            return invalid("poorly formatted environment: variable '" + name + "' contains whitespaces");
        if (line.find('=') != std::string::npos)
            out.push_back(line);
        else if (const char* value = std::getenv(name.c_str()))
            out.push_back(name + "=" + value);
    }
    return out;
}

Result<std::vector<std::string>> collect_environment(const ParsedOptions& options) {
    std::vector<std::string> out;
    for (const std::string& path : options.list("env-file"))
        for (std::string& line : TRY(read_environment_file(path))) out.push_back(std::move(line));
    for (const std::string& entry : options.list("env")) {
        // A bare name takes this process's value; when it has none, the name alone removes what the image sets.
        const char* value = entry.find('=') == std::string::npos ? std::getenv(entry.c_str()) : nullptr;
        out.push_back(value == nullptr ? entry : entry + "=" + value);
    }
    return out;
}

Result<json::object> parse_restart_policy(std::string_view text) {
    json::object policy;
    if (text.empty()) return policy;
    auto colon = text.find(':');
    std::string_view name = text.substr(0, colon);
    if (name.empty()) return invalid("invalid restart policy format: no policy provided before colon");
    policy["Name"] = name;
    if (colon != std::string_view::npos) {
        std::string_view count = text.substr(colon + 1);
        int value = 0;
        auto [end, error] = std::from_chars(count.data(), count.data() + count.size(), value);
        if (count.empty() || error != std::errc() || end != count.data() + count.size())
            return invalid("invalid restart policy format: maximum retry count must be an integer");
        policy["MaximumRetryCount"] = value;
    }
    return policy;
}

Result<> add_resources(const ParsedOptions& options, json::object& host) {
    if (options.given("memory")) host["Memory"] = TRY(parse_bytes(options.text("memory")));
    if (options.given("memory-reservation"))
        host["MemoryReservation"] = TRY(parse_bytes(options.text("memory-reservation")));
    if (options.given("memory-swap")) host["MemorySwap"] = TRY(parse_swap_bytes(options.text("memory-swap")));
    if (options.given("cpus")) host["NanoCpus"] = TRY(parse_nano_cpus(options.text("cpus")));
    if (options.given("kernel-memory")) host["KernelMemory"] = TRY(parse_bytes(options.text("kernel-memory")));
    set_integer(options, "blkio-weight", host, "BlkioWeight");
    set_integer(options, "cpu-period", host, "CpuPeriod");
    set_integer(options, "cpu-quota", host, "CpuQuota");
    set_integer(options, "cpu-rt-period", host, "CpuRealtimePeriod");
    set_integer(options, "cpu-rt-runtime", host, "CpuRealtimeRuntime");
    set_integer(options, "cpu-shares", host, "CpuShares");
    set_integer(options, "pids-limit", host, "PidsLimit");
    set_text(options, "cpuset-cpus", host, "CpusetCpus");
    set_text(options, "cpuset-mems", host, "CpusetMems");
    return {};
}

Result<ContainerRequest> make_container_request(const ParsedOptions& options, const std::vector<std::string>& arguments,
                                                bool detached) {
    ContainerRequest request;
    request.name = options.text("name");
    request.platform = options.text("platform");
    request.interactive = options.flag("interactive");
    request.terminal = options.flag("tty");
    request.auto_remove = options.flag("rm");
    if (arguments.empty()) return invalid("no image given");
    request.image = arguments.front();

    bool chosen = options.given("attach");
    for (const std::string& stream : options.list("attach")) {
        std::string name = lower(stream);
        request.attach_stdin = request.attach_stdin || name == "stdin";
        request.attach_stdout = request.attach_stdout || name == "stdout";
        request.attach_stderr = request.attach_stderr || name == "stderr";
    }
    if (!chosen && !detached) request.attach_stdout = request.attach_stderr = true;
    if (request.interactive && !detached) request.attach_stdin = true;

    json::object& config = request.body;
    json::object host;
    config["Image"] = request.image;
    config["AttachStdin"] = request.attach_stdin;
    config["AttachStdout"] = request.attach_stdout;
    config["AttachStderr"] = request.attach_stderr;
    if (request.terminal) config["Tty"] = true;
    if (request.interactive) config["OpenStdin"] = true;
    if (request.interactive && request.attach_stdin) config["StdinOnce"] = true;
    set_text(options, "hostname", config, "Hostname");
    set_text(options, "domainname", config, "Domainname");
    set_text(options, "user", config, "User");
    set_text(options, "workdir", config, "WorkingDir");
    set_text(options, "stop-signal", config, "StopSignal");
    set_integer(options, "stop-timeout", config, "StopTimeout");
    auto environment = TRY(collect_environment(options));
    if (!environment.empty()) config["Env"] = strings(environment);
    if (arguments.size() > 1) config["Cmd"] = strings({arguments.begin() + 1, arguments.end()});
    // An empty --entrypoint takes the image's away: one empty string is how the API says so.
    if (options.given("entrypoint")) config["Entrypoint"] = strings({options.text("entrypoint")});
    TRY(add_labels(options, config, host));
    TRY(add_health(options, config));
    TRY(add_mounts(options, config, host));
    TRY(add_ports(options, config, host));
    TRY(add_networks(options, config, host));
    TRY(add_resources(options, host));
    TRY(add_container_resources(options, host));
    TRY(add_host(options, host));
    config["HostConfig"] = std::move(host);
    return request;
}

}  // namespace wherry::cli
