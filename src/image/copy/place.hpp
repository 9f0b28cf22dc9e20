// Paths as the user of `cp` gives them, found inside a root. Docker's rules: a trailing "/" or "/." means the folder a
// symlink leads to, without one the symlink itself is meant; symlinks and ".." lead where they would lead a process
// whose root is the container's. Nothing here can leave `root`, whatever changes in it meanwhile (openat2 with
// RESOLVE_IN_ROOT, no magic links).
#pragma once

#include <sys/stat.h>

#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "image/copy/job.hpp"

namespace wherry::image {

// "/" and the path, cleaned as text ("//", "." and ".." parts go), but with a trailing "/" or "/." kept.
std::string absolute_place(std::string_view path);
// Its last part as Docker names it: "/a/b/" is "b", "/a/." is ".", "/" is "/".
std::string place_name(std::string_view absolute);
// Where a process would end up that follows all symlinks on the way; what is missing counts as itself. For people and
// for names of further lookups, not for trust. ELOOP beyond 40 symlinks.
Result<std::string> evaluate_place(int root, std::string_view absolute);

struct Place {
    Fd folder;          // O_PATH: the thing itself when it is a folder, else the folder it is in
    std::string entry;  // its name in `folder`; empty: `folder` itself
    std::string name;   // place_name()
    struct stat status{};
};

// not_found, or ENOTDIR where a trailing "/" follows what is no folder.
Result<Place> find_place(int root, std::string_view absolute);
Result<PathStat> describe_place(int root, std::string_view absolute, const Place& place);

}  // namespace wherry::image
