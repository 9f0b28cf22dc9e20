#include "adopt/container_body.hpp"

#include <algorithm>
#include <array>
#include <string_view>

namespace wherry::adopt {

namespace {

constexpr std::string_view shared_prefix = "container:";

std::string text_of(const json::object& object, std::string_view key) {
    const json::value* value = object.if_contains(key);
    return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

// Where the host's configuration mounts something already.
bool has_mount_at(const json::object& host, const std::string& destination) {
    if (const json::value* binds = host.if_contains("Binds"); binds != nullptr && binds->is_array()) {
        for (const json::value& bind : binds->get_array()) {
            if (!bind.is_string()) continue;
            // source:destination[:options]
            std::string text(bind.get_string());
            auto first = text.find(':');
            if (first == std::string::npos) continue;
            if (text.substr(first + 1, text.find(':', first + 1) - first - 1) == destination) return true;
        }
    }
    if (const json::value* mounts = host.if_contains("Mounts"); mounts != nullptr && mounts->is_array()) {
        for (const json::value& mount : mounts->get_array()) {
            if (mount.is_object() && text_of(mount.get_object(), "Target") == destination) return true;
        }
    }
    return false;
}

Result<> share_namespaces(json::object& host, const std::map<std::string, std::string>& adopted) {
    for (const char* key : {"NetworkMode", "PidMode", "IpcMode", "UTSMode"}) {
        std::string mode = text_of(host, key);
        if (!mode.starts_with(shared_prefix)) continue;
        auto other = adopted.find(mode.substr(shared_prefix.size()));
        if (other == adopted.end())
            return fail(Code::not_found, std::string(key) + " " + mode + ": that container was not adopted");
        host[key] = std::string(shared_prefix) + other->second;
    }
    return {};
}

}  // namespace

Result<ContainerBody> container_body(const DockerContainer& container,
                                     const std::map<std::string, std::string>& adopted) {
    ContainerBody result;
    json::object host = container.host_config;
    TRY(share_namespaces(host, adopted));
    std::string network = text_of(host, "NetworkMode");
    bool known = network.empty() || network == "default" || network == "bridge" || network == "host" ||
                 network == "none" || network.starts_with(shared_prefix);
    if (!known) {
        result.notices.push_back("its network " + network + " is not there: it gets the bridge");
        host["NetworkMode"] = "bridge";
    }
    if (const json::value* log = host.if_contains("LogConfig"); log != nullptr && log->is_object()) {
        std::string type = text_of(log->get_object(), "Type");
        if (!type.empty() && type != "json-file" && type != "local" && type != "none") {
            result.notices.push_back("its log driver " + type + " is not there: it gets the default one");
            host.erase("LogConfig");
        }
    }
    // Docker's names of Docker's runtimes.
    if (std::string runtime = text_of(host, "Runtime"); !runtime.empty()) {
        if (runtime != "runc" && runtime != "io.containerd.runc.v2")
            result.notices.push_back("its runtime " + runtime + " is not there: it gets the default one");
        host.erase("Runtime");
    }
    if (std::string driver = text_of(host, "VolumeDriver"); !driver.empty() && driver != "local")
        result.notices.push_back("its volume driver " + driver + " is not there");
    host.erase("VolumeDriver");
    // Volumes without a name of the user's stand only in the container's mounts.
    json::array binds;
    if (const json::value* given = host.if_contains("Binds"); given != nullptr && given->is_array())
        binds = given->get_array();
    bool added = false;
    for (const DockerMount& mount : container.mounts) {
        if (has_mount_at(host, mount.destination)) continue;
        binds.emplace_back(mount.volume + ":" + mount.destination + (mount.writable ? "" : ":ro"));
        added = true;
    }
    if (added) host["Binds"] = std::move(binds);
    result.body = container.config;
    // Docker notes the host name a container came to have: of its own id, or of whose network it shares.
    if (network.starts_with(shared_prefix)) {
        result.body.erase("Hostname");
        result.body.erase("Domainname");
    } else if (text_of(result.body, "Hostname") == container.id.substr(0, 12)) {
        result.body.erase("Hostname");
    }
    result.body["HostConfig"] = std::move(host);
    return result;
}

}  // namespace wherry::adopt
