// A container's user as `cp -a` needs it: from the container's own /etc/passwd and /etc/group, by descriptor.
#pragma once

#include <sys/types.h>

#include <string_view>

#include "base/result.hpp"

namespace wherry::image {

struct FileOwner {
    uid_t uid = 0;
    gid_t gid = 0;
};

// "name", "uid", "name:group", "uid:gid" ...; invalid_argument when the container does not know a name.
Result<FileOwner> find_owner(int root, std::string_view user);
// The same from the files' texts.
Result<FileOwner> find_owner_in(std::string_view passwd, std::string_view group, std::string_view user);

}  // namespace wherry::image
