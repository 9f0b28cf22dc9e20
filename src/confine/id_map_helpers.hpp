// Id maps of a user namespace that an ordinary user makes (user_namespaces(7)): his own id alone he may map himself,
// more only by the helpers newuidmap(1) and newgidmap(1), which know /etc/subuid and /etc/subgid.
#pragma once

#include <sys/types.h>

#include <span>

#include "base/result.hpp"
#include "confine/namespaces.hpp"

namespace wherry::confine {

// `pid` must be dumpable, or its files in /proc belong to root. Without newgidmap setgroups(2) is denied for good.
// unavailable when the helpers are needed and not installed; permission_denied with the helper's words when it refuses.
Result<> write_id_maps_as_user(pid_t pid, std::span<const IdMapping> uids, std::span<const IdMapping> gids);

}  // namespace wherry::confine
