#include "confine/namespaces.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace wherry::confine {
namespace {

struct Kind {
    Namespace kind;
    std::string_view oci;
    std::string_view proc;
    std::uint64_t flag;
};
// In the enumerators' order.
constexpr std::array<Kind, 8> kinds{{
    {Namespace::user, "user", "user", CLONE_NEWUSER},
    {Namespace::mount, "mount", "mnt", CLONE_NEWNS},
    {Namespace::uts, "uts", "uts", CLONE_NEWUTS},
    {Namespace::ipc, "ipc", "ipc", CLONE_NEWIPC},
    {Namespace::network, "network", "net", CLONE_NEWNET},
    {Namespace::pid, "pid", "pid", CLONE_NEWPID},
    {Namespace::cgroup, "cgroup", "cgroup", CLONE_NEWCGROUP},
    {Namespace::time, "time", "time", CLONE_NEWTIME},
}};

const Kind& kind_of(Namespace kind) {
    return kinds[static_cast<std::size_t>(kind)];
}

constexpr std::size_t most_mappings = 340;  // UID_GID_MAP_MAX_EXTENTS

// True when any two of the ranges [start, start+size) share an id.
bool overlap(std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges) {
    std::ranges::sort(ranges);
    for (std::size_t i = 1; i < ranges.size(); ++i)
        if (ranges[i].first < ranges[i - 1].first + ranges[i - 1].second) return true;
    return false;
}

std::string map_text(std::span<const IdMapping> mappings) {
    std::string text;
    for (const IdMapping& m : mappings)
        text += std::to_string(m.container_id) + ' ' + std::to_string(m.host_id) + ' ' + std::to_string(m.size) + '\n';
    return text;
}

}  // namespace

std::string_view to_string(Namespace kind) {
    return kind_of(kind).oci;
}

std::optional<Namespace> parse_namespace(std::string_view oci_type) {
    for (const Kind& kind : kinds)
        if (kind.oci == oci_type) return kind.kind;
    return std::nullopt;
}

std::string_view proc_name(Namespace kind) {
    return kind_of(kind).proc;
}
std::uint64_t clone_flag(Namespace kind) {
    return kind_of(kind).flag;
}

Result<> verify_namespace(int fd, Namespace kind) {
    struct statfs info{};
    if (::fstatfs(fd, &info) != 0) return fail_errno("fstatfs of a namespace");
    if (info.f_type != NSFS_MAGIC) return fail(Code::invalid_argument, "not a namespace");
    // SAFETY: takes no argument and returns the CLONE_NEW... flag of the namespace.
    int type = ::ioctl(fd, NS_GET_NSTYPE);
    if (type < 0) return fail_errno("asking a namespace for its kind");
    if (static_cast<std::uint64_t>(type) != clone_flag(kind))
        return fail(Code::invalid_argument,
                    "not a " + std::string(to_string(kind)) + " namespace but one of another kind");
    return {};
}

Result<Fd> open_namespace(const std::string& path, Namespace kind) {
    // O_PATH first: opening an arbitrary device or fifo has effects or blocks.
    Fd named = TRY(open_file(path, O_PATH), "namespace " + path);
    struct statfs info{};
    if (::fstatfs(named.get(), &info) != 0) return fail_errno("fstatfs of " + path);
    if (info.f_type != NSFS_MAGIC) return fail(Code::invalid_argument, path + ": not a namespace");
    Fd fd = TRY(open_file("/proc/self/fd/" + std::to_string(named.get()), O_RDONLY), "namespace " + path);
    TRY(verify_namespace(fd.get(), kind), path);
    return fd;
}

Result<Fd> open_namespace_of(pid_t pid, Namespace kind) {
    return open_namespace("/proc/" + std::to_string(pid) + "/ns/" + std::string(proc_name(kind)), kind);
}

Result<bool> same_namespace(int a, int b) {
    struct stat left{};
    struct stat right{};
    if (::fstat(a, &left) != 0 || ::fstat(b, &right) != 0) return fail_errno("fstat of a namespace");
    return left.st_dev == right.st_dev && left.st_ino == right.st_ino;
}

Result<> validate_id_mappings(std::span<const IdMapping> mappings) {
    if (mappings.size() > most_mappings)
        return fail(Code::invalid_argument, "more than " + std::to_string(most_mappings) + " id mappings");
    std::vector<std::pair<std::uint64_t, std::uint64_t>> inside;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> outside;
    for (const IdMapping& m : mappings) {
        if (m.size == 0) return fail(Code::invalid_argument, "an id mapping of size 0");
        // The last id, 2^32-1, means "no id" and cannot be mapped.
        constexpr std::uint64_t end = 0xffffffffU;
        if (std::uint64_t{m.container_id} + m.size > end || std::uint64_t{m.host_id} + m.size > end)
            return fail(Code::invalid_argument, "an id mapping that goes past the last id");
        inside.emplace_back(m.container_id, m.size);
        outside.emplace_back(m.host_id, m.size);
    }
    if (overlap(std::move(inside)) || overlap(std::move(outside)))
        return fail(Code::invalid_argument, "id mappings overlap");
    return {};
}

std::optional<std::uint32_t> map_to_host(std::span<const IdMapping> mappings, std::uint32_t container_id) {
    for (const IdMapping& m : mappings)
        if (container_id >= m.container_id && container_id - m.container_id < m.size)
            return m.host_id + (container_id - m.container_id);
    return std::nullopt;
}

Result<> write_id_maps(pid_t pid, std::span<const IdMapping> uids, std::span<const IdMapping> gids,
                       Setgroups setgroups) {
    TRY(validate_id_mappings(uids), "uid mappings");
    TRY(validate_id_mappings(gids), "gid mappings");
    Fd process = TRY(open_file("/proc/" + std::to_string(pid), O_PATH | O_DIRECTORY));
    if (setgroups == Setgroups::deny)
        TRY(write_control_file_at(process.get(), "setgroups", "deny"), "denying setgroups");
    if (!gids.empty()) TRY(write_control_file_at(process.get(), "gid_map", map_text(gids)), "gid_map");
    if (!uids.empty()) TRY(write_control_file_at(process.get(), "uid_map", map_text(uids)), "uid_map");
    return {};
}

namespace post_fork {

int join_namespace(int fd, Namespace kind) noexcept {
    return ::setns(fd, static_cast<int>(clone_flag(kind))) == 0 ? 0 : errno;
}

int unshare_namespaces(std::uint64_t clone_flags) noexcept {
    return ::unshare(static_cast<int>(clone_flags)) == 0 ? 0 : errno;
}

}  // namespace post_fork
}  // namespace wherry::confine
