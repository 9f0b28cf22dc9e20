#include "jailer/cgroups.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "base/fd.hpp"

namespace wherry::jailer {
namespace {

Result<CgroupPlan*> plan_for(std::vector<CgroupPlan>& plans, const CgroupSetting& setting, const Options& options,
                             const confine::CgroupSystem& system) {
    const confine::CgroupHierarchy* found = nullptr;
    if (options.cgroup_version != CgroupVersion::v2) found = system.v1_with(setting.controller);
    if (found == nullptr && options.cgroup_version != CgroupVersion::v1 && system.unified() != nullptr &&
        (system.on_v2(setting.controller) || setting.controller == "cgroup"))
        found = system.unified();
    if (found == nullptr) {
        std::string_view version = options.cgroup_version == CgroupVersion::v1   ? " v1"
                                   : options.cgroup_version == CgroupVersion::v2 ? " v2"
                                                                                 : "";
        return fail(Code::not_found,
                    "no cgroup" + std::string(version) + " hierarchy with the controller " + setting.controller);
    }
    auto same = std::ranges::find(plans, found->mount_point, &CgroupPlan::mount_point);
    if (same != plans.end()) return &*same;
    plans.push_back({.mount_point = found->mount_point,
                     .path = "/" + options.effective_parent_cgroup() + "/" + options.id,
                     .unified = found->unified});
    return &plans.back();
}

// An empty cpuset refuses processes: each level takes over what its parent has.
Result<> inherit_cpuset(const std::string& directory) {
    std::string parent = directory.substr(0, directory.rfind('/'));
    for (const char* file : {"/cpuset.cpus", "/cpuset.mems"}) {
        if (!path_exists(directory + file)) continue;
        std::string present = TRY(read_file(directory + file, 4096));
        if (present.find_first_not_of(" \n") != std::string::npos) continue;
        TRY(write_control_file(directory + file, TRY(read_file(parent + file, 4096))));
    }
    return {};
}

Result<> enable_controllers(const std::string& directory, std::span<const CgroupSetting> settings) {
    std::string control = directory + "/cgroup.subtree_control";
    std::string present = " " + TRY(read_file(control, 4096)) + " ";
    std::ranges::replace(present, '\n', ' ');
    for (const CgroupSetting& setting : settings) {
        if (setting.controller == "cgroup" || present.find(" " + setting.controller + " ") != std::string::npos)
            continue;
        TRY(write_control_file(control, "+" + setting.controller),
            "controller " + setting.controller + " for what is below " + directory);
    }
    return {};
}

Result<> make(const CgroupPlan& plan) {
    // Below the mount point, one level after the other.
    for (std::size_t end = 0; end != plan.path.size();) {
        std::string above = plan.mount_point + plan.path.substr(0, end);
        if (plan.unified) TRY(enable_controllers(above, plan.settings));
        end = std::min(plan.path.find('/', end + 1), plan.path.size());
        std::string directory = plan.mount_point + plan.path.substr(0, end);
        if (::mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST) return fail_errno("making cgroup " + directory);
        if (!plan.unified) TRY(inherit_cpuset(directory), "cpuset of " + directory);
    }
    return {};
}

}  // namespace

Result<std::vector<CgroupPlan>> plan_cgroups(const Options& options, const confine::CgroupSystem& system) {
    std::vector<CgroupPlan> plans;
    for (const CgroupSetting& setting : options.cgroups) {
        CgroupPlan* plan = TRY(plan_for(plans, setting, options, system));
        plan->settings.push_back(setting);
    }
    if (options.cgroups.empty() && options.cgroup_version == CgroupVersion::v2 && !options.parent_cgroup.empty()) {
        if (system.unified() == nullptr) return fail(Code::not_found, "no cgroup v2 hierarchy is mounted");
        plans.push_back({.mount_point = system.unified()->mount_point,
                         .path = "/" + options.parent_cgroup,
                         .unified = true,
                         .create = false});
    }
    return plans;
}

Result<> enter_cgroups(std::span<const CgroupPlan> plans) {
    for (const CgroupPlan& plan : plans) {
        std::string directory = plan.mount_point + plan.path;
        if (plan.create) TRY(make(plan));
        if (!path_exists(directory)) return fail(Code::not_found, "there is no cgroup " + directory);
        for (const CgroupSetting& setting : plan.settings)
            TRY(write_control_file(directory + "/" + setting.file, setting.value), "cgroup file " + setting.file);
        // A task moving itself: cheap on v1, and the only way into v2 for one that runs already.
        TRY(write_control_file(directory + (plan.unified ? "/cgroup.procs" : "/tasks"), "0"),
            "entering cgroup " + directory);
    }
    return {};
}

}  // namespace wherry::jailer
