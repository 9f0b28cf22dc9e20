// Docker's --user ("name", "uid", "uid:gid", "name:group", ":group" ...) resolved against the container's own
// /etc/passwd and /etc/group. Files are read by descriptor inside the container's root (openat2 RESOLVE_IN_ROOT), at
// most 16 MiB, regular files only; no NSS, no library of the image.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "oci/spec.hpp"

namespace wherry::oci {

struct ResolvedUser {
    User user;         // additional_gids: groups of the user in /etc/group, and the extra ones
    std::string home;  // of /etc/passwd; "/" when the user has no entry
    std::string name;  // empty when the user has no entry
};

// `root` is a descriptor of the container's root folder. `extra_groups`: --group-add, names or numbers.
// Errors as Docker says them: not_found "unable to find user foo: no matching entries in passwd file".
Result<ResolvedUser> resolve_user(int root, std::string_view specification,
                                  std::span<const std::string> extra_groups = {});
// The same on file contents (empty: missing file).
Result<ResolvedUser> resolve_user_in(std::string_view passwd, std::string_view group, std::string_view specification,
                                     std::span<const std::string> extra_groups = {});

}  // namespace wherry::oci
