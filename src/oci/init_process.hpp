// The first process of a container between clone3 and execve. Internal to the room.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "confine/cgroup.hpp"
#include "confine/namespaces.hpp"
#include "confine/resctrl.hpp"
#include "oci/container.hpp"
#include "oci/process_setup.hpp"
#include "oci/rootfs.hpp"

namespace wherry::oci {

struct InitPlan {
    const CreateRequest* request = nullptr;
    RootfsPlan rootfs;
    ProcessPlan process;
    std::optional<confine::CgroupJoin> cgroup;
    std::optional<confine::ResctrlJoin> resctrl;
    std::vector<std::string> late_tasks;  // of a cgroup that is completed meanwhile: opened by the child
    bool cgroup_is_late = false;
    bool born_in_unified = false;                         // CLONE_INTO_CGROUP did the v2 part
    std::vector<std::pair<Fd, confine::Namespace>> join;  // all but user and pid, which the clone takes care of
    Fd mount_namespace;                                   // joined after all others; -1: a new one
    bool new_user_namespace = false, joined_user_namespace = false;
    bool new_network_namespace = false, new_cgroup_namespace = false, new_time_namespace = false;
    bool own_uts_namespace = false;
    Fd channel;   // the child's end
    Fd listener;  // where start comes from instead, when another process will do that
    Timeline timeline;
};

// For spawn(): argument is an InitPlan*. Ends the process on failure, having told the parent.
void run_init(void* argument);

}  // namespace wherry::oci
