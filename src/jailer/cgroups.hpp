// The jailer's cgroups: raw files, as --cgroup gives them, in <mount>/<parent>/<id>.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "confine/cgroup.hpp"
#include "jailer/command_line.hpp"

namespace wherry::jailer {

// One directory of one hierarchy and what is written there.
struct CgroupPlan {
    std::string mount_point;
    std::string path;  // "/<parent>/<id>", or "/<parent>" for a process that only moves into its parent
    bool unified = false;
    bool create = true;  // false: must be there already
    std::vector<CgroupSetting> settings;

    friend bool operator==(const CgroupPlan&, const CgroupPlan&) = default;
};

// Which directories the options ask for on this system. not_found when no hierarchy (of the version asked for) has a
// controller. With --cgroup-version 2 and --parent-cgroup but no --cgroup the process moves into the parent itself.
Result<std::vector<CgroupPlan>> plan_cgroups(const Options& options, const confine::CgroupSystem& system);

// Makes the directories (cpuset of v1 inherits processors and memory nodes, v2 gets controllers enabled on the way),
// writes the files and moves the calling, single-threaded process in.
Result<> enter_cgroups(std::span<const CgroupPlan> plans);

}  // namespace wherry::jailer
