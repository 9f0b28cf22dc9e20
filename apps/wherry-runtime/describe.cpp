// spec and features: what this runtime takes.
#include <unistd.h>

#include <array>
#include <cstdio>
#include <string_view>

#include "commands.hpp"
#include "confine/capabilities.hpp"
#include "context.hpp"
#include "oci/default_spec.hpp"
#include "oci/mount_options.hpp"
#include "oci/spec.hpp"
#include "seccomp.hpp"

namespace wherry::runtime {

namespace {

template <class List>
json::array words(const List& list) {
    json::array out;
    for (const auto& word : list) out.emplace_back(std::string_view(word));
    return out;
}

// What an ordinary user can have: a user namespace of himself alone, no network of his own to set up, no cgroup limits.
void make_rootless(oci::Spec& spec) {
    oci::LinuxSpec& lin = spec.linux_spec;
    lin.namespaces.push_back({"user", {}});
    lin.uid_mappings = {{0, ::geteuid(), 1}};
    lin.gid_mappings = {{0, ::getegid(), 1}};
    lin.resources = {};
    for (oci::Mount& mount : spec.mounts) {
        // The group of terminals is not among the mapped ones.
        std::erase_if(mount.options, [](const std::string& option) { return option.starts_with("gid="); });
    }
}

}  // namespace

Result<int> spec_command(const CommandLine& line) {
    std::string path = line.local.value("bundle", ".") + "/config.json";
    if (path_exists(path)) return fail(Code::already_exists, "File config.json exists. Remove it first");
    oci::Spec defaults = oci::default_spec();
    defaults.root.path = "rootfs";
    defaults.root.readonly = true;
    defaults.hostname = "wherry";
    defaults.process->args = {"sh"};
    defaults.process->terminal = true;
    defaults.process->no_new_privileges = true;
    if (line.local.has("rootless")) make_rootless(defaults);
    TRY(write_file_atomic(path, to_json(json::value(oci::to_json(defaults))) + "\n", 0644, Durability::none));
    return 0;
}

// https://github.com/opencontainers/runtime-spec/blob/v1.2.0/features.md
Result<int> features_command(const CommandLine&) {
    static constexpr std::array<std::string_view, 6> hooks{"prestart",       "createRuntime", "createContainer",
                                                           "startContainer", "poststart",     "poststop"};
    static constexpr std::array<std::string_view, 8> namespaces{"cgroup", "ipc",  "mount", "network",
                                                                "pid",    "time", "user",  "uts"};
    json::array capabilities;
    for (int number = 0; number < confine::capability_count; ++number)
        capabilities.emplace_back(confine::capability_name(number));
    json::object lin;
    lin["namespaces"] = words(namespaces);
    lin["capabilities"] = std::move(capabilities);
    lin["cgroup"] = json::object{{"v1", true}, {"v2", true}, {"systemd", true}, {"systemdUser", true}, {"rdma", true}};
    lin["seccomp"] = seccomp_features();
    lin["apparmor"] = json::object{{"enabled", true}};
    lin["selinux"] = json::object{{"enabled", true}};
    lin["intelRdt"] = json::object{{"enabled", true}};
    lin["mountExtensions"] = json::object{{"idmap", json::object{{"enabled", true}}}};
    json::object out;
    out["ociVersionMin"] = "1.0.0";
    out["ociVersionMax"] = "1.2.0";
    out["hooks"] = words(hooks);
    out["mountOptions"] = words(oci::known_mount_options());
    out["linux"] = std::move(lin);
    out["annotations"] = json::object{{"io.github.seccomp.libseccomp.version", seccomp_library_version()},
                                      {"org.opencontainers.runc.checkpoint.enabled", "true"}};
    std::printf("%s\n", to_json(json::value(std::move(out))).c_str());
    return 0;
}

}  // namespace wherry::runtime
