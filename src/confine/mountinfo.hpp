// /proc/<pid>/mountinfo (proc(5)), as far as finding a file system takes.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace wherry::confine {

struct MountedFileSystem {
    std::string type;                  // "cgroup2"
    std::string root;                  // what of the file system is seen: "/" unless a part is bound
    std::string mount_point;           // absolute
    std::vector<std::string> options;  // of the file system, not of the mount
};

// The mounts of these types, in the order of the text. Lines that are none are passed over.
std::vector<MountedFileSystem> find_mounts(std::string_view mountinfo, std::initializer_list<std::string_view> types);

}  // namespace wherry::confine
