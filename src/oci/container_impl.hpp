// What a Container holds. Internal to the room.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "confine/resctrl.hpp"
#include "oci/container.hpp"
#include "oci/hooks.hpp"
#include "oci/spawn.hpp"

namespace wherry::oci {

struct Container::Impl {
    std::string id, bundle;
    pid_t pid = -1;
    std::uint64_t start_time = 0;
    Fd pidfd, channel, terminal;
    Hooks hooks;
    std::map<std::string, std::string> annotations;
    std::vector<std::string> namespaces;  // kinds that are not the runtime's own
    std::optional<confine::ResctrlGroup> intel_rdt;
    std::string start_socket_path;
    ResolvedUser user;
    Timeline timeline;
    bool started = false;

    HookState hook_state(const char* status) const;
    Result<> bring_up(const CreateRequest& request, bool new_user_namespace, bool set_oom_score);
};

void kill_and_reap(const Spawned& child);

}  // namespace wherry::oci
