// The kernel's mount calls by descriptor (fsopen(2) and friends), and paths inside a root that is not trusted.
// Async-signal-safety: runs in the single-threaded child of clone3; allocates.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::oci {

// open_tree(OPEN_TREE_CLONE): a detached copy of the mount at path below directory (AT_FDCWD: anywhere).
enum class TreeDepth : unsigned char { single, recursive };
Result<Fd> clone_tree(int directory, const std::string& path, TreeDepth depth);
Result<Fd> clone_tree(int fd, TreeDepth depth);  // of what fd (O_PATH will do) refers to

// fsopen + fsconfig + fsmount. `flags` and `values` go to fsconfig one by one.
struct FileSystem {
    std::string type;
    std::string source;
    std::vector<std::string> flags;
    std::vector<std::pair<std::string, std::string>> values;
    std::uint64_t attributes = 0;  // MOUNT_ATTR_...
};
// A value over the kernel's 256 bytes of fsconfig makes it fall back to mount(2), on a private tmpfs folder.
Result<Fd> make_mount(const FileSystem& file_system);

Result<> attach_mount(int mount, int target);  // move_mount onto what target refers to
Result<> set_attributes(int mount, std::uint64_t set, std::uint64_t clear, TreeDepth depth);
// A tree taken from the host, for the container alone: attributes and MS_PRIVATE in one call.
Result<> set_private(int mount, std::uint64_t attributes, TreeDepth depth);
Result<> set_propagation(int mount, unsigned long flags);  // MS_PRIVATE..., with MS_REC for the whole tree

// A path below `root` as a descriptor (O_PATH), created where missing: directories with mode 0755, the last part a
// directory or an empty file. Symlinks of the tree are followed as if root were /, dangling ones too; nothing is ever
// made outside (CVE-2024-45310). invalid_argument when the end is of the wrong kind.
enum class PathKind : unsigned char { directory, file };
Result<Fd> make_path_in_root(int root, const std::string& path, PathKind kind);
// O_PATH descriptor of what is there. not_found as usual.
Result<Fd> open_path_in_root(int root, const std::string& path);
// The same without following any symlink.
Result<Fd> open_path_in_root_nofollow(int root, const std::string& path);
// Parent directory (made where missing) and last name of path.
Result<std::pair<Fd, std::string>> make_parent_in_root(int root, const std::string& path);

bool is_file_system(int fd, long magic);  // fstatfs
// A descriptor on procfs itself: its magic number and its root's inode number.
Result<> prove_procfs_root(int fd);
// The real null device, 1:3, as an O_PATH descriptor (CVE-2025-31133).
Result<Fd> open_null_device();
// Writes an existing file below a procfs root: stays on that mount and follows no link (RESOLVE_NO_XDEV,
// RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS), so that nothing mounted or linked over it is ever written.
Result<> write_below_procfs(int procfs_root, const std::string& path, const std::string& value);

// "a/../b//." as the absolute "/b".
std::string clean_path(const std::string& path);

}  // namespace wherry::oci
