// Namespaces (namespaces(7)): kinds, descriptors proven to be what they are said to be, id maps (user_namespaces(7)).
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::confine {

enum class Namespace : unsigned char { user, mount, uts, ipc, network, pid, cgroup, time };
// In the order they are to be joined: user first (it gives the right to the others), mount last among those that need
// paths.
inline constexpr std::array all_namespaces{Namespace::user, Namespace::ipc,    Namespace::uts,  Namespace::network,
                                           Namespace::pid,  Namespace::cgroup, Namespace::time, Namespace::mount};

// OCI's names (config-linux.md, "Namespaces"): "pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time".
std::string_view to_string(Namespace kind);
std::optional<Namespace> parse_namespace(std::string_view oci_type);
std::string_view proc_name(Namespace kind);  // the file in /proc/<pid>/ns: "mnt", "net", ...
std::uint64_t clone_flag(Namespace kind);    // CLONE_NEW...

// Proves by fstatfs (nsfs) and NS_GET_NSTYPE that fd is a namespace of that kind: a path from a configuration may name
// anything. invalid_argument otherwise.
Result<> verify_namespace(int fd, Namespace kind);
// Opens and verifies. /proc/<pid>/ns/... and bind mounts of one both work.
Result<Fd> open_namespace(const std::string& path, Namespace kind);
Result<Fd> open_namespace_of(pid_t pid, Namespace kind);
Result<bool> same_namespace(int a, int b);  // by device and inode

struct IdMapping {
    std::uint32_t container_id = 0;
    std::uint32_t host_id = 0;
    std::uint32_t size = 0;

    friend bool operator==(const IdMapping&, const IdMapping&) = default;
};
// No empty, overflowing or overlapping range, on either side; at most 340 (the kernel's limit).
Result<> validate_id_mappings(std::span<const IdMapping> mappings);
// The host's id for an id inside; nullopt when not mapped.
std::optional<std::uint32_t> map_to_host(std::span<const IdMapping> mappings, std::uint32_t container_id);
// Writes /proc/<pid>/{setgroups,uid_map,gid_map} of a child that has just entered its new user namespace. `setgroups`
// is denied only when deny_setgroups (a must for an unprivileged writer).
enum class Setgroups : unsigned char { allow, deny };
Result<> write_id_maps(pid_t pid, std::span<const IdMapping> uids, std::span<const IdMapping> gids,
                       Setgroups setgroups = Setgroups::allow);

namespace post_fork {
int join_namespace(int fd, Namespace kind) noexcept;  // setns; 0 or an errno
int unshare_namespaces(std::uint64_t clone_flags) noexcept;
}  // namespace post_fork
}  // namespace wherry::confine
