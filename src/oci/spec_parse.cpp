#include <array>
#include <cmath>
#include <limits>
#include <set>

#include "oci/spec.hpp"

namespace wherry::oci {

namespace {

constexpr std::size_t max_items = 65536;  // of any array: more is an attack, not a container

std::unexpected<Error> wrong(const JsonReader& reader, std::string_view key, std::string_view problem) {
    std::string message = reader.path_of(key);
    message += ": ";
    message += problem;
    return fail(Code::invalid_argument, std::move(message));
}

// An integer that fits T; `fallback` when missing.
template <class T>
Result<T> number_or(const JsonReader& reader, std::string_view key, T fallback) {
    if constexpr (std::is_unsigned_v<T>) {
        auto value = TRY(reader.unsigned_integer(key));
        if (!value) return fallback;
        if (*value > std::numeric_limits<T>::max()) return wrong(reader, key, "out of range");
        return static_cast<T>(*value);
    } else {
        auto value = TRY(reader.integer(key));
        if (!value) return fallback;
        if (*value > std::numeric_limits<T>::max() || *value < std::numeric_limits<T>::min())
            return wrong(reader, key, "out of range");
        return static_cast<T>(*value);
    }
}

template <class T>
Result<T> required_number(const JsonReader& reader, std::string_view key) {
    if (!reader.has(key)) return wrong(reader, key, "missing");
    return number_or<T>(reader, key, 0);
}

// Strings end up in system calls: a NUL inside would cut them silently.
Result<> check_text(const JsonReader& reader, std::string_view key, const std::string& text) {
    if (text.find('\0') != std::string::npos) return wrong(reader, key, "contains a NUL character");
    return {};
}

Result<std::string> text_or(const JsonReader& reader, std::string_view key, std::string_view fallback = {}) {
    std::string text = TRY(reader.string_or(key, fallback));
    TRY(check_text(reader, key, text));
    return text;
}

Result<std::string> required_text(const JsonReader& reader, std::string_view key) {
    std::string text = TRY(reader.required_string(key));
    TRY(check_text(reader, key, text));
    return text;
}

Result<std::vector<std::string>> texts(const JsonReader& reader, std::string_view key) {
    auto items = TRY(reader.strings(key));
    if (items.size() > max_items) return wrong(reader, key, "too many entries");
    for (const std::string& item : items) TRY(check_text(reader, key, item));
    return items;
}

template <class T>
Result<std::vector<T>> numbers(const JsonReader& reader, std::string_view key) {
    std::vector<T> items;
    const json::value* value = reader.find(key);
    if (value == nullptr) return items;
    if (!value->is_array()) return reader.wrong(key, "an array of integers");
    for (const json::value& item : value->get_array()) {
        std::uint64_t number = 0;
        if (item.is_uint64()) {
            number = item.get_uint64();
        } else if (item.is_int64() && item.get_int64() >= 0) {
            number = static_cast<std::uint64_t>(item.get_int64());
        } else {
            return reader.wrong(key, "an array of non-negative integers");
        }
        if (number > std::numeric_limits<T>::max()) return wrong(reader, key, "out of range");
        items.push_back(static_cast<T>(number));
    }
    if (items.size() > max_items) return wrong(reader, key, "too many entries");
    return items;
}

Result<std::vector<JsonReader>> objects(const JsonReader& reader, std::string_view key) {
    auto items = TRY(reader.children(key));
    if (items.size() > max_items) return wrong(reader, key, "too many entries");
    return items;
}

Result<std::vector<IdMapping>> mappings(const JsonReader& reader, std::string_view key) {
    std::vector<IdMapping> items;
    for (const JsonReader& item : TRY(objects(reader, key))) {
        IdMapping mapping;
        mapping.container_id = TRY(required_number<std::uint32_t>(item, "containerID"));
        mapping.host_id = TRY(required_number<std::uint32_t>(item, "hostID"));
        mapping.size = TRY(required_number<std::uint32_t>(item, "size"));
        if (mapping.size == 0) return wrong(item, "size", "must not be 0");
        items.push_back(mapping);
    }
    if (items.size() > 340) return wrong(reader, key, "more than the kernel's 340 entries");
    return items;
}

// "200-203,7" as processors.
Result<std::vector<int>> processors(const JsonReader& reader, std::string_view key) {
    std::vector<int> items;
    std::string text = TRY(text_or(reader, key));
    std::size_t at = 0;
    auto number = [&]() -> std::optional<int> {
        int value = 0;
        std::size_t start = at;
        while (at < text.size() && text[at] >= '0' && text[at] <= '9' && value < 8192)
            value = value * 10 + (text[at++] - '0');
        return at == start || value >= 8192 ? std::nullopt : std::optional(value);
    };
    while (at < text.size()) {
        auto first = number();
        auto last = first;
        if (at < text.size() && text[at] == '-') {
            ++at;
            last = number();
        }
        if (!first || !last || *last < *first) return wrong(reader, key, "expected a list of processors such as 0-3,7");
        for (int processor = *first; processor <= *last; ++processor) items.push_back(processor);
        if (items.size() > max_items) return wrong(reader, key, "too many processors");
        if (at < text.size() && text[at] != ',')
            return wrong(reader, key, "expected a list of processors such as 0-3,7");
        ++at;
    }
    return items;
}

Result<User> parse_user(const JsonReader& reader) {
    User user;
    user.uid = TRY(number_or<std::uint32_t>(reader, "uid", 0));
    user.gid = TRY(number_or<std::uint32_t>(reader, "gid", 0));
    // uid -1 means "unchanged" to setresuid: never a user.
    if (user.uid == std::numeric_limits<std::uint32_t>::max()) return wrong(reader, "uid", "out of range");
    if (user.gid == std::numeric_limits<std::uint32_t>::max()) return wrong(reader, "gid", "out of range");
    user.additional_gids = TRY(numbers<gid_t>(reader, "additionalGids"));
    if (reader.has("umask")) {
        user.umask = TRY(number_or<std::uint32_t>(reader, "umask", 0));
        if (*user.umask > 0777) return wrong(reader, "umask", "out of range");
    }
    user.username = TRY(text_or(reader, "username"));
    user.additional_group_names = TRY(texts(reader, "additionalGroupNames"));
    return user;
}

Result<Capabilities> parse_capabilities(const JsonReader& reader) {
    Capabilities capabilities;
    capabilities.bounding = TRY(texts(reader, "bounding"));
    capabilities.effective = TRY(texts(reader, "effective"));
    capabilities.inheritable = TRY(texts(reader, "inheritable"));
    capabilities.permitted = TRY(texts(reader, "permitted"));
    capabilities.ambient = TRY(texts(reader, "ambient"));
    return capabilities;
}

Result<Scheduler> parse_scheduler(const JsonReader& reader) {
    Scheduler scheduler;
    scheduler.policy = TRY(required_text(reader, "policy"));
    scheduler.nice = TRY(number_or<std::int32_t>(reader, "nice", 0));
    scheduler.priority = TRY(number_or<std::int32_t>(reader, "priority", 0));
    scheduler.flags = TRY(texts(reader, "flags"));
    scheduler.runtime = TRY(number_or<std::uint64_t>(reader, "runtime", 0));
    scheduler.deadline = TRY(number_or<std::uint64_t>(reader, "deadline", 0));
    scheduler.period = TRY(number_or<std::uint64_t>(reader, "period", 0));
    return scheduler;
}

Result<Root> parse_root(const JsonReader& reader) {
    Root root;
    root.path = TRY(required_text(reader, "path"));
    if (root.path.empty()) return wrong(reader, "path", "must not be empty");
    root.readonly = TRY(reader.boolean_or("readonly", false));
    return root;
}

Result<std::vector<Mount>> parse_mounts(const JsonReader& reader) {
    std::vector<Mount> mounts;
    for (const JsonReader& item : TRY(objects(reader, "mounts"))) {
        Mount mount;
        mount.destination = TRY(required_text(item, "destination"));
        if (mount.destination.empty()) return wrong(item, "destination", "must not be empty");
        mount.type = TRY(text_or(item, "type"));
        mount.source = TRY(text_or(item, "source"));
        mount.options = TRY(texts(item, "options"));
        mount.uid_mappings = TRY(mappings(item, "uidMappings"));
        mount.gid_mappings = TRY(mappings(item, "gidMappings"));
        if (mount.uid_mappings.empty() != mount.gid_mappings.empty())
            return wrong(item, "gidMappings", "uidMappings and gidMappings come together");
        mounts.push_back(std::move(mount));
    }
    return mounts;
}

Result<std::vector<Hook>> parse_hook_list(const JsonReader& reader, std::string_view key) {
    std::vector<Hook> hooks;
    for (const JsonReader& item : TRY(objects(reader, key))) {
        Hook hook;
        hook.path = TRY(required_text(item, "path"));
        if (hook.path.empty() || hook.path.front() != '/') return wrong(item, "path", "must be absolute");
        hook.args = TRY(texts(item, "args"));
        hook.env = TRY(texts(item, "env"));
        if (item.has("timeout")) {
            hook.timeout_s = TRY(number_or<int>(item, "timeout", 0));
            if (*hook.timeout_s <= 0) return wrong(item, "timeout", "must be greater than 0");
        }
        hooks.push_back(std::move(hook));
    }
    return hooks;
}

Result<Hooks> parse_hooks(const JsonReader& reader) {
    Hooks hooks;
    hooks.prestart = TRY(parse_hook_list(reader, "prestart"));
    hooks.create_runtime = TRY(parse_hook_list(reader, "createRuntime"));
    hooks.create_container = TRY(parse_hook_list(reader, "createContainer"));
    hooks.start_container = TRY(parse_hook_list(reader, "startContainer"));
    hooks.poststart = TRY(parse_hook_list(reader, "poststart"));
    hooks.poststop = TRY(parse_hook_list(reader, "poststop"));
    return hooks;
}

constexpr std::array<std::string_view, 8> namespace_types = {"pid", "network", "mount",  "ipc",
                                                             "uts", "user",    "cgroup", "time"};

Result<std::vector<Namespace>> parse_namespaces(const JsonReader& reader) {
    std::vector<Namespace> namespaces;
    std::set<std::string> seen;
    for (const JsonReader& item : TRY(objects(reader, "namespaces"))) {
        Namespace entry;
        entry.type = TRY(required_text(item, "type"));
        bool known = false;
        for (std::string_view type : namespace_types) known = known || type == entry.type;
        if (!known) return wrong(item, "type", "unknown namespace " + entry.type);
        if (!seen.insert(entry.type).second) return wrong(item, "type", "duplicated namespace " + entry.type);
        entry.path = TRY(text_or(item, "path"));
        if (!entry.path.empty() && entry.path.front() != '/') return wrong(item, "path", "must be absolute");
        namespaces.push_back(std::move(entry));
    }
    return namespaces;
}

Result<std::vector<Device>> parse_devices(const JsonReader& reader) {
    std::vector<Device> devices;
    for (const JsonReader& item : TRY(objects(reader, "devices"))) {
        Device device;
        device.path = TRY(required_text(item, "path"));
        if (device.path.empty() || device.path.front() != '/') return wrong(item, "path", "must be absolute");
        std::string type = TRY(required_text(item, "type"));
        if (type != "c" && type != "b" && type != "u" && type != "p")
            return wrong(item, "type", "expected c, b, u or p");
        device.type = type.front();
        if (device.type != 'p') {
            device.major = TRY(required_number<std::int64_t>(item, "major"));
            device.minor = TRY(required_number<std::int64_t>(item, "minor"));
            if (device.major < 0 || device.major > 0xfff) return wrong(item, "major", "out of range");
            if (device.minor < 0 || device.minor > 0xfffff) return wrong(item, "minor", "out of range");
        }
        device.mode = TRY(number_or<std::uint32_t>(item, "fileMode", 0666)) & 07777U;
        device.uid = TRY(number_or<std::uint32_t>(item, "uid", 0));
        device.gid = TRY(number_or<std::uint32_t>(item, "gid", 0));
        devices.push_back(std::move(device));
    }
    return devices;
}

Result<> check_sysctl(const JsonReader& reader, const std::string& name, const std::string& value) {
    if (name.empty() || name.front() == '/' || name.front() == '.') return wrong(reader, "sysctl", "bad name " + name);
    if (name.find('\0') != std::string::npos || value.find('\0') != std::string::npos)
        return wrong(reader, "sysctl", "contains a NUL character");
    return {};
}

Result<json::object> raw_object(const JsonReader& reader, std::string_view key) {
    const json::value* value = reader.find(key);
    if (value == nullptr) return json::object{};
    if (!value->is_object()) return reader.wrong(key, "an object");
    return value->get_object();
}

Result<> parse_linux_more(const JsonReader& reader, LinuxSpec& spec) {
    if (auto rdt = TRY(reader.child("intelRdt"))) {
        IntelRdt value;
        value.clos_id = TRY(text_or(*rdt, "closID"));
        value.l3_cache_schema = TRY(text_or(*rdt, "l3CacheSchema"));
        value.mem_bw_schema = TRY(text_or(*rdt, "memBwSchema"));
        value.enable_cmt = TRY(rdt->boolean_or("enableCMT", false));
        value.enable_mbm = TRY(rdt->boolean_or("enableMBM", false));
        spec.intel_rdt = std::move(value);
    }
    if (auto personality = TRY(reader.child("personality"))) {
        Personality value;
        value.domain = TRY(required_text(*personality, "domain"));
        if (value.domain != "LINUX" && value.domain != "LINUX32")
            return wrong(*personality, "domain", "expected LINUX or LINUX32");
        value.flags = TRY(texts(*personality, "flags"));
        if (!value.flags.empty()) return wrong(*personality, "flags", "no flag is supported");
        spec.personality = std::move(value);
    }
    if (auto offsets = TRY(reader.child("timeOffsets"))) {
        for (const char* clock : {"monotonic", "boottime"}) {
            auto offset = TRY(offsets->child(clock));
            if (!offset) continue;
            TimeOffset value;
            value.seconds = TRY(number_or<std::int64_t>(*offset, "secs", 0));
            value.nanoseconds = TRY(number_or<std::uint32_t>(*offset, "nanosecs", 0));
            if (value.nanoseconds > 999'999'999) return wrong(*offset, "nanosecs", "out of range");
            spec.time_offsets.emplace(clock, value);
        }
    }
    return {};
}

Result<LinuxSpec> parse_linux(const JsonReader& reader) {
    LinuxSpec spec;
    spec.namespaces = TRY(parse_namespaces(reader));
    spec.uid_mappings = TRY(mappings(reader, "uidMappings"));
    spec.gid_mappings = TRY(mappings(reader, "gidMappings"));
    spec.devices = TRY(parse_devices(reader));
    spec.cgroups_path = TRY(text_or(reader, "cgroupsPath"));
    if (auto resources = TRY(reader.child("resources")))
        spec.resources = TRY(confine::parse_cgroup_resources(*resources));
    spec.rootfs_propagation = TRY(text_or(reader, "rootfsPropagation"));
    constexpr std::array<std::string_view, 9> propagations = {"",      "private", "rprivate",   "shared",     "rshared",
                                                              "slave", "rslave",  "unbindable", "runbindable"};
    bool known = false;
    for (std::string_view name : propagations) known = known || name == spec.rootfs_propagation;
    if (!known) return wrong(reader, "rootfsPropagation", "unknown " + spec.rootfs_propagation);
    if (reader.has("seccomp")) spec.seccomp = TRY(raw_object(reader, "seccomp"));
    spec.sysctl = TRY(reader.string_map("sysctl"));
    for (const auto& [name, value] : spec.sysctl) TRY(check_sysctl(reader, name, value));
    spec.masked_paths = TRY(texts(reader, "maskedPaths"));
    spec.readonly_paths = TRY(texts(reader, "readonlyPaths"));
    for (const auto* paths : {&spec.masked_paths, &spec.readonly_paths}) {
        for (const std::string& path : *paths) {
            if (path.empty() || path.front() != '/')
                return wrong(reader, paths == &spec.masked_paths ? "maskedPaths" : "readonlyPaths", "must be absolute");
        }
    }
    spec.mount_label = TRY(text_or(reader, "mountLabel"));
    TRY(parse_linux_more(reader, spec));
    return spec;
}

// "1.2.0" or "1.0.2-dev": major version 1.
Result<> check_version(const JsonReader& reader, const std::string& version) {
    if (!version.starts_with("1.")) return wrong(reader, "ociVersion", "unsupported version \"" + version + "\"");
    return {};
}

}  // namespace

const Namespace* LinuxSpec::find_namespace(std::string_view type) const {
    for (const Namespace& entry : namespaces) {
        if (entry.type == type) return &entry;
    }
    return nullptr;
}

Result<ProcessSpec> process_from_json(const json::object& object, const std::string& path) {
    JsonReader reader(object, path);
    ProcessSpec process;
    process.terminal = TRY(reader.boolean_or("terminal", false));
    if (auto size = TRY(reader.child("consoleSize"))) {
        ConsoleSize value;
        value.height = TRY(number_or<std::uint16_t>(*size, "height", 0));
        value.width = TRY(number_or<std::uint16_t>(*size, "width", 0));
        process.console_size = value;
    }
    if (auto user = TRY(reader.child("user"))) process.user = TRY(parse_user(*user));
    process.args = TRY(texts(reader, "args"));
    process.env = TRY(texts(reader, "env"));
    process.cwd = TRY(required_text(reader, "cwd"));
    if (process.cwd.empty() || process.cwd.front() != '/') return wrong(reader, "cwd", "must be absolute");
    if (auto capabilities = TRY(reader.child("capabilities")))
        process.capabilities = TRY(parse_capabilities(*capabilities));
    std::set<std::string> limits;
    for (const JsonReader& item : TRY(objects(reader, "rlimits"))) {
        Rlimit limit;
        limit.type = TRY(required_text(item, "type"));
        limit.soft = TRY(required_number<std::uint64_t>(item, "soft"));
        limit.hard = TRY(required_number<std::uint64_t>(item, "hard"));
        if (!limits.insert(limit.type).second) return wrong(item, "type", "duplicated " + limit.type);
        process.rlimits.push_back(std::move(limit));
    }
    process.no_new_privileges = TRY(reader.boolean_or("noNewPrivileges", false));
    process.apparmor_profile = TRY(text_or(reader, "apparmorProfile"));
    process.selinux_label = TRY(text_or(reader, "selinuxLabel"));
    if (reader.has("oomScoreAdj")) {
        process.oom_score_adj = TRY(number_or<std::int32_t>(reader, "oomScoreAdj", 0));
        if (*process.oom_score_adj < -1000 || *process.oom_score_adj > 1000)
            return wrong(reader, "oomScoreAdj", "expected -1000 to 1000");
    }
    if (auto scheduler = TRY(reader.child("scheduler"))) process.scheduler = TRY(parse_scheduler(*scheduler));
    if (auto priority = TRY(reader.child("ioPriority"))) {
        IoPriority value;
        value.class_name = TRY(required_text(*priority, "class"));
        value.priority = TRY(number_or<std::int32_t>(*priority, "priority", 0));
        if (value.priority < 0 || value.priority > 7) return wrong(*priority, "priority", "expected 0 to 7");
        process.io_priority = std::move(value);
    }
    if (auto affinity = TRY(reader.child("execCPUAffinity"))) {
        process.exec_cpu_affinity_initial = TRY(processors(*affinity, "initial"));
        process.exec_cpu_affinity_final = TRY(processors(*affinity, "final"));
    }
    return process;
}

Result<Hooks> hooks_from_json(const json::object& object) {
    return parse_hooks(JsonReader(object, "hooks"));
}

Result<Spec> spec_from_json(const json::object& object) {
    JsonReader reader(object);
    Spec spec;
    spec.oci_version = TRY(required_text(reader, "ociVersion"));
    TRY(check_version(reader, spec.oci_version));
    if (auto process = TRY(reader.child("process"))) spec.process = TRY(process_from_json(process->object()));
    if (auto root = TRY(reader.child("root"))) spec.root = TRY(parse_root(*root));
    spec.hostname = TRY(text_or(reader, "hostname"));
    spec.domainname = TRY(text_or(reader, "domainname"));
    if (spec.hostname.size() > 64) return wrong(reader, "hostname", "longer than 64 characters");
    if (spec.domainname.size() > 64) return wrong(reader, "domainname", "longer than 64 characters");
    spec.mounts = TRY(parse_mounts(reader));
    if (auto hooks = TRY(reader.child("hooks"))) spec.hooks = TRY(parse_hooks(*hooks));
    spec.annotations = TRY(reader.string_map("annotations"));
    if (auto linux_object = TRY(reader.child("linux"))) spec.linux_spec = TRY(parse_linux(*linux_object));
    return spec;
}

Result<Spec> parse_spec(std::string_view config_json) {
    json::object object = TRY(parse_json_object(config_json));
    return spec_from_json(object);
}

}  // namespace wherry::oci
