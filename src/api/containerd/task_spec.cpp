#include "api/containerd/task_spec.hpp"

#include <array>
#include <string_view>
#include <vector>

#include "api/containerd/in_child.hpp"
#include "base/fd.hpp"
#include "confine/seccomp_compile/compile.hpp"
#include "confine/seccomp_profile.hpp"

namespace wherry::api::containerd {

namespace {

constexpr std::size_t config_limit = 16U << 20U;

// The object at key, made where it is missing; invalid_argument when something else is there.
Result<json::object*> child_of(json::object& parent, std::string_view key) {
    json::value& child = parent[key];
    if (child.is_null()) child = json::object();
    if (!child.is_object()) return fail(Code::invalid_argument, std::string(key) + ": expected an object");
    return &child.get_object();
}

}  // namespace

Result<json::object> read_config(const std::string& bundle) {
    std::string text = TRY(read_file(bundle + "/config.json", config_limit), "bundle");
    return TRY(parse_json_object(text), "config.json");
}

std::string group_of(const json::object& config, const std::string& container_id) {
    JsonReader reader(config);
    auto annotations = reader.string_map("annotations");
    if (!annotations) return container_id;
    for (const char* name : {"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}) {
        if (auto found = annotations->find(name); found != annotations->end() && !found->second.empty())
            return found->second;
    }
    return container_id;
}

bool has_host_hooks(const json::object& config) {
    const json::value* hooks = config.if_contains("hooks");
    if (hooks == nullptr || !hooks->is_object()) return false;
    for (const char* kind : {"prestart", "createRuntime", "createContainer", "poststart", "poststop"}) {
        const json::value* list = hooks->get_object().if_contains(kind);
        if (list != nullptr && list->is_array() && !list->get_array().empty()) return true;
    }
    return false;
}

Result<std::string> cgroup_path_of(const std::string& cgroups_path) {
    auto first = cgroups_path.find(':');
    if (first == std::string::npos) {
        if (cgroups_path.empty() || cgroups_path.front() == '/') return cgroups_path;
        return "/" + cgroups_path;
    }
    auto second = cgroups_path.find(':', first + 1);
    if (second == std::string::npos || cgroups_path.find(':', second + 1) != std::string::npos)
        return fail(Code::invalid_argument, "linux.cgroupsPath: expected slice:prefix:name: " + cgroups_path);
    std::string slice = cgroups_path.substr(0, first);
    std::string prefix = cgroups_path.substr(first + 1, second - first - 1);
    std::string name = cgroups_path.substr(second + 1);
    if (slice.empty()) slice = "system.slice";
    constexpr std::string_view suffix = ".slice";
    if (name.empty() || !slice.ends_with(suffix) || slice.find('/') != std::string::npos)
        return fail(Code::invalid_argument, "linux.cgroupsPath: not a slice: " + cgroups_path);
    std::string path;
    if (slice != "-.slice") {
        // "a-b-c.slice" lies in "a-b.slice", which lies in "a.slice" (systemd.slice(5)).
        std::string_view stem = std::string_view(slice).substr(0, slice.size() - suffix.size());
        if (stem.empty() || stem.front() == '-' || stem.back() == '-' || stem.find("--") != std::string_view::npos)
            return fail(Code::invalid_argument, "linux.cgroupsPath: not a slice: " + cgroups_path);
        for (std::size_t dash = stem.find('-'); dash != std::string_view::npos; dash = stem.find('-', dash + 1))
            path += "/" + std::string(stem.substr(0, dash)) + std::string(suffix);
        path += "/" + slice;
    }
    if (name.ends_with(suffix)) return path + "/" + name;
    return path + "/" + (prefix.empty() ? name : prefix + "-" + name) + ".scope";
}

Result<> adapt_config(json::object& config, bool terminal, const PlannedRoot& root) {
    if (config.contains("process")) {
        json::object* process = TRY(child_of(config, "process"));
        (*process)["terminal"] = terminal;
    }
    json::object* linux_part = TRY(child_of(config, "linux"));
    if (const json::value* path = linux_part->if_contains("cgroupsPath"); path != nullptr && path->is_string()) {
        std::string expanded = TRY(cgroup_path_of(std::string(path->get_string())));
        (*linux_part)["cgroupsPath"] = expanded;
    }
    if (!root.directory.empty() || root.readonly) {
        json::object* described = TRY(child_of(config, "root"));
        if (!root.directory.empty()) (*described)["path"] = root.directory;
        if (root.readonly) (*described)["readonly"] = true;
    }
    return {};
}

Result<> give_network(json::object& config, const std::string& path) {
    json::object* linux_part = TRY(child_of(config, "linux"));
    json::value* found = linux_part->if_contains("namespaces");
    if (found == nullptr || !found->is_array()) return {};  // what is wrong with it the parser says
    for (json::value& entry : found->get_array()) {
        json::object* described = entry.if_object();
        const json::value* type = described == nullptr ? nullptr : described->if_contains("type");
        if (type == nullptr || !type->is_string() || type->get_string() != "network") continue;
        json::value& own = (*described)["path"];
        if (own.is_null() || (own.is_string() && own.get_string().empty())) own = path;
    }
    return {};
}

Result<std::string> compile_seccomp_of(json::object& config, const std::string& cache_directory) {
    json::object* linux_part = TRY(child_of(config, "linux"));
    const json::value* found = linux_part->if_contains("seccomp");
    if (found == nullptr || found->is_null()) return std::string();
    if (!found->is_object()) return fail(Code::invalid_argument, "linux.seccomp: expected an object");
    std::string path = TRY(in_child([&]() -> Result<std::string> {
        confine::SeccompProfile profile =
            TRY(confine::parse_oci_seccomp(JsonReader(found->get_object(), "linux.seccomp")));
        if (!profile.listener_path.empty())
            return fail(Code::unimplemented, "linux.seccomp.listenerPath is not supported");
        confine::SeccompCache cache = TRY(confine::SeccompCache::open(cache_directory));
        auto entry = TRY(cache.get(profile), "linux.seccomp");
        if (entry.path.empty()) return fail(Code::internal, "seccomp: " + cache_directory + " can't be written");
        return entry.path;
    }));
    linux_part->erase("seccomp");
    return path;
}

}  // namespace wherry::api::containerd
