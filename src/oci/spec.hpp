// The OCI runtime specification 1.2 (config.json) for Linux as values, a strict parser and the way back.
// https://github.com/opencontainers/runtime-spec/blob/v1.2.0/config.md and config-linux.md; member names are the
// document's in snake_case. The parser checks types, ranges and what the specification says MUST hold; unknown
// members are ignored, as the specification demands (extensibility). It trusts nothing: every error names the path
// ("process.rlimits[0].type: ...") and is an invalid_argument.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"
#include "confine/cgroup_resources.hpp"
#include "confine/namespaces.hpp"

namespace wherry::oci {

using IdMapping = confine::IdMapping;

struct User {
    uid_t uid = 0;
    gid_t gid = 0;
    std::vector<gid_t> additional_gids;
    std::optional<mode_t> umask;
    // Extension: Docker's --user ("name", "uid:gid", "name:group") and --group-add (names or numbers), resolved by the
    // runtime inside the container's root; members "username" and "additionalGroupNames". uid and gid are then ignored.
    std::string username;
    std::vector<std::string> additional_group_names;
};

// Names as "CAP_CHOWN". Sets that are not given are empty.
struct Capabilities {
    std::vector<std::string> bounding, effective, inheritable, permitted, ambient;
};

struct Rlimit {
    std::string type;  // "RLIMIT_NOFILE"
    std::uint64_t soft = 0;
    std::uint64_t hard = 0;
};

struct ConsoleSize {
    std::uint16_t height = 0;  // rows
    std::uint16_t width = 0;   // columns
};

// sched_setattr(2): policy "SCHED_FIFO", flags "SCHED_FLAG_RESET_ON_FORK"; runtime, deadline and period in nanoseconds.
struct Scheduler {
    std::string policy;
    std::int32_t nice = 0;
    std::int32_t priority = 0;
    std::vector<std::string> flags;
    std::uint64_t runtime = 0, deadline = 0, period = 0;
};

// ioprio_set(2): class "IOPRIO_CLASS_BE".
struct IoPriority {
    std::string class_name;
    std::int32_t priority = 0;
};

// One process of a container: the first one (config.json's "process") or one that exec adds.
struct ProcessSpec {
    bool terminal = false;
    std::optional<ConsoleSize> console_size;
    User user;
    std::vector<std::string> args;
    std::vector<std::string> env;  // "NAME=value"
    std::string cwd = "/";
    std::optional<Capabilities> capabilities;  // nullopt: none at all, as an empty object
    std::vector<Rlimit> rlimits;
    bool no_new_privileges = false;
    std::string apparmor_profile;
    std::string selinux_label;
    std::optional<std::int32_t> oom_score_adj;
    std::optional<Scheduler> scheduler;
    std::optional<IoPriority> io_priority;
    std::vector<int> exec_cpu_affinity_initial, exec_cpu_affinity_final;  // processors; empty: as inherited
};

struct Root {
    std::string path;  // absolute, or relative to the bundle
    bool readonly = false;
};

struct Mount {
    std::string destination;
    std::string type;                  // "bind", "proc", "tmpfs", ...; empty with an option bind or rbind
    std::string source;                // a path, or a name for file systems without a device
    std::vector<std::string> options;  // mount(8)'s, plus rro, rnosuid, ..., tmpcopyup, idmap, ridmap
    std::vector<IdMapping> uid_mappings, gid_mappings;  // of an idmapped mount
};

struct Hook {
    std::string path;
    std::vector<std::string> args;  // with the name of the program first
    std::vector<std::string> env;
    std::optional<int> timeout_s;
};

struct Hooks {
    std::vector<Hook> prestart, create_runtime, create_container, start_container, poststart, poststop;
};

struct Namespace {
    std::string type;  // pid network mount ipc uts user cgroup time
    std::string path;  // empty: a new one
};

struct Device {
    std::string path;
    char type = 'c';  // b c u p
    std::int64_t major = 0, minor = 0;
    mode_t mode = 0666;
    uid_t uid = 0;
    gid_t gid = 0;
};

struct TimeOffset {
    std::int64_t seconds = 0;
    std::uint32_t nanoseconds = 0;
};

struct IntelRdt {
    std::string clos_id, l3_cache_schema, mem_bw_schema;
    bool enable_cmt = false, enable_mbm = false;
};

struct Personality {
    std::string domain;  // LINUX or LINUX32
    std::vector<std::string> flags;
};

struct LinuxSpec {
    std::vector<Namespace> namespaces;
    std::vector<IdMapping> uid_mappings, gid_mappings;
    std::vector<Device> devices;
    std::string cgroups_path;
    confine::CgroupResources resources;
    std::string
        rootfs_propagation;  // private, rprivate, shared, rshared, slave, rslave, unbindable, runbindable or empty
    std::optional<json::object> seccomp;  // config-linux.md#seccomp as it came; compiled by confine
    std::map<std::string, std::string> sysctl;
    std::vector<std::string> masked_paths, readonly_paths;
    std::string mount_label;
    std::optional<IntelRdt> intel_rdt;
    std::optional<Personality> personality;
    std::map<std::string, TimeOffset> time_offsets;  // "monotonic", "boottime"

    const Namespace* find_namespace(std::string_view type) const;
};

struct Spec {
    std::string oci_version = "1.2.0";
    std::optional<ProcessSpec> process;  // may be missing until start, says the specification
    Root root;
    std::string hostname, domainname;
    std::vector<Mount> mounts;
    Hooks hooks;
    std::map<std::string, std::string> annotations;
    LinuxSpec linux_spec;
};

Result<Spec> parse_spec(std::string_view config_json);
Result<Spec> spec_from_json(const json::object& object);
Result<ProcessSpec> process_from_json(const json::object& object, const std::string& path = "process");
json::object to_json(const Spec& spec);
json::object to_json(const ProcessSpec& process);
Result<Hooks> hooks_from_json(const json::object& object);
json::object to_json(const Hooks& hooks);

}  // namespace wherry::oci
