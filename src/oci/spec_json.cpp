#include "oci/spec.hpp"

namespace wherry::oci {

namespace {

json::array array_of(const std::vector<std::string>& items) {
    json::array array;
    array.reserve(items.size());
    for (const std::string& item : items) array.emplace_back(item);
    return array;
}

void put(json::object& object, std::string_view key, const std::string& text) {
    if (!text.empty()) object[key] = text;
}

void put(json::object& object, std::string_view key, const std::vector<std::string>& items) {
    if (!items.empty()) object[key] = array_of(items);
}

void put(json::object& object, std::string_view key, const std::map<std::string, std::string>& items) {
    if (items.empty()) return;
    json::object map;
    for (const auto& [name, value] : items) map[name] = value;
    object[key] = std::move(map);
}

void put(json::object& object, std::string_view key, const std::vector<IdMapping>& mappings) {
    if (mappings.empty()) return;
    json::array array;
    for (const IdMapping& mapping : mappings) {
        json::object item;
        item["containerID"] = mapping.container_id;
        item["hostID"] = mapping.host_id;
        item["size"] = mapping.size;
        array.push_back(std::move(item));
    }
    object[key] = std::move(array);
}

std::string processor_list(const std::vector<int>& processors) {
    std::string text;
    for (int processor : processors) {
        if (!text.empty()) text += ",";
        text += std::to_string(processor);
    }
    return text;
}

json::object user_json(const User& user) {
    json::object object;
    object["uid"] = user.uid;
    object["gid"] = user.gid;
    if (user.umask) object["umask"] = *user.umask;
    if (!user.additional_gids.empty()) {
        json::array gids;
        for (gid_t gid : user.additional_gids) gids.emplace_back(gid);
        object["additionalGids"] = std::move(gids);
    }
    put(object, "username", user.username);
    put(object, "additionalGroupNames", user.additional_group_names);
    return object;
}

json::object scheduler_json(const Scheduler& scheduler) {
    json::object object;
    object["policy"] = scheduler.policy;
    if (scheduler.nice != 0) object["nice"] = scheduler.nice;
    if (scheduler.priority != 0) object["priority"] = scheduler.priority;
    put(object, "flags", scheduler.flags);
    if (scheduler.runtime != 0) object["runtime"] = scheduler.runtime;
    if (scheduler.deadline != 0) object["deadline"] = scheduler.deadline;
    if (scheduler.period != 0) object["period"] = scheduler.period;
    return object;
}

json::array hooks_json(const std::vector<Hook>& hooks) {
    json::array array;
    for (const Hook& hook : hooks) {
        json::object object;
        object["path"] = hook.path;
        put(object, "args", hook.args);
        put(object, "env", hook.env);
        if (hook.timeout_s) object["timeout"] = *hook.timeout_s;
        array.push_back(std::move(object));
    }
    return array;
}

json::object linux_json(const LinuxSpec& spec) {
    json::object object;
    json::array namespaces;
    for (const Namespace& entry : spec.namespaces) {
        json::object item;
        item["type"] = entry.type;
        put(item, "path", entry.path);
        namespaces.push_back(std::move(item));
    }
    if (!namespaces.empty()) object["namespaces"] = std::move(namespaces);
    put(object, "uidMappings", spec.uid_mappings);
    put(object, "gidMappings", spec.gid_mappings);
    json::array devices;
    for (const Device& device : spec.devices) {
        json::object item;
        item["path"] = device.path;
        item["type"] = std::string(1, device.type);
        if (device.type != 'p') {
            item["major"] = device.major;
            item["minor"] = device.minor;
        }
        item["fileMode"] = device.mode;
        item["uid"] = device.uid;
        item["gid"] = device.gid;
        devices.push_back(std::move(item));
    }
    if (!devices.empty()) object["devices"] = std::move(devices);
    put(object, "cgroupsPath", spec.cgroups_path);
    if (spec.resources != confine::CgroupResources{}) object["resources"] = confine::to_oci_json(spec.resources);
    put(object, "rootfsPropagation", spec.rootfs_propagation);
    if (spec.seccomp) object["seccomp"] = *spec.seccomp;
    put(object, "sysctl", spec.sysctl);
    put(object, "maskedPaths", spec.masked_paths);
    put(object, "readonlyPaths", spec.readonly_paths);
    put(object, "mountLabel", spec.mount_label);
    if (spec.intel_rdt) {
        json::object item;
        put(item, "closID", spec.intel_rdt->clos_id);
        put(item, "l3CacheSchema", spec.intel_rdt->l3_cache_schema);
        put(item, "memBwSchema", spec.intel_rdt->mem_bw_schema);
        if (spec.intel_rdt->enable_cmt) item["enableCMT"] = true;
        if (spec.intel_rdt->enable_mbm) item["enableMBM"] = true;
        object["intelRdt"] = std::move(item);
    }
    if (spec.personality) {
        json::object item;
        item["domain"] = spec.personality->domain;
        put(item, "flags", spec.personality->flags);
        object["personality"] = std::move(item);
    }
    if (!spec.time_offsets.empty()) {
        json::object offsets;
        for (const auto& [clock, offset] : spec.time_offsets) {
            json::object item;
            item["secs"] = offset.seconds;
            item["nanosecs"] = offset.nanoseconds;
            offsets[clock] = std::move(item);
        }
        object["timeOffsets"] = std::move(offsets);
    }
    return object;
}

}  // namespace

json::object to_json(const ProcessSpec& process) {
    json::object object;
    if (process.terminal) object["terminal"] = true;
    if (process.console_size) {
        json::object size;
        size["height"] = process.console_size->height;
        size["width"] = process.console_size->width;
        object["consoleSize"] = std::move(size);
    }
    object["user"] = user_json(process.user);
    put(object, "args", process.args);
    put(object, "env", process.env);
    object["cwd"] = process.cwd;
    if (process.capabilities) {
        json::object sets;
        put(sets, "bounding", process.capabilities->bounding);
        put(sets, "effective", process.capabilities->effective);
        put(sets, "inheritable", process.capabilities->inheritable);
        put(sets, "permitted", process.capabilities->permitted);
        put(sets, "ambient", process.capabilities->ambient);
        object["capabilities"] = std::move(sets);
    }
    json::array limits;
    for (const Rlimit& limit : process.rlimits) {
        json::object item;
        item["type"] = limit.type;
        item["soft"] = limit.soft;
        item["hard"] = limit.hard;
        limits.push_back(std::move(item));
    }
    if (!limits.empty()) object["rlimits"] = std::move(limits);
    if (process.no_new_privileges) object["noNewPrivileges"] = true;
    put(object, "apparmorProfile", process.apparmor_profile);
    put(object, "selinuxLabel", process.selinux_label);
    if (process.oom_score_adj) object["oomScoreAdj"] = *process.oom_score_adj;
    if (process.scheduler) object["scheduler"] = scheduler_json(*process.scheduler);
    if (process.io_priority) {
        json::object item;
        item["class"] = process.io_priority->class_name;
        item["priority"] = process.io_priority->priority;
        object["ioPriority"] = std::move(item);
    }
    if (!process.exec_cpu_affinity_initial.empty() || !process.exec_cpu_affinity_final.empty()) {
        json::object affinity;
        put(affinity, "initial", processor_list(process.exec_cpu_affinity_initial));
        put(affinity, "final", processor_list(process.exec_cpu_affinity_final));
        object["execCPUAffinity"] = std::move(affinity);
    }
    return object;
}

json::object to_json(const Hooks& list) {
    json::object object;
    const std::pair<std::string_view, const std::vector<Hook>*> kinds[] = {{"prestart", &list.prestart},
                                                                           {"createRuntime", &list.create_runtime},
                                                                           {"createContainer", &list.create_container},
                                                                           {"startContainer", &list.start_container},
                                                                           {"poststart", &list.poststart},
                                                                           {"poststop", &list.poststop}};
    for (const auto& [name, entries] : kinds) {
        if (!entries->empty()) object[name] = hooks_json(*entries);
    }
    return object;
}

json::object to_json(const Spec& spec) {
    json::object object;
    object["ociVersion"] = spec.oci_version;
    if (spec.process) object["process"] = to_json(*spec.process);
    if (!spec.root.path.empty()) {
        json::object root;
        root["path"] = spec.root.path;
        if (spec.root.readonly) root["readonly"] = true;
        object["root"] = std::move(root);
    }
    put(object, "hostname", spec.hostname);
    put(object, "domainname", spec.domainname);
    json::array mounts;
    for (const Mount& mount : spec.mounts) {
        json::object item;
        item["destination"] = mount.destination;
        put(item, "type", mount.type);
        put(item, "source", mount.source);
        put(item, "options", mount.options);
        put(item, "uidMappings", mount.uid_mappings);
        put(item, "gidMappings", mount.gid_mappings);
        mounts.push_back(std::move(item));
    }
    if (!mounts.empty()) object["mounts"] = std::move(mounts);
    json::object hooks = to_json(spec.hooks);
    if (!hooks.empty()) object["hooks"] = std::move(hooks);
    put(object, "annotations", spec.annotations);
    object["linux"] = linux_json(spec.linux_spec);
    return object;
}

}  // namespace wherry::oci
