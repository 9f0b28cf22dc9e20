#include "api/containerd/rootfs.hpp"

#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include "base/fd.hpp"

namespace wherry::api::containerd {

namespace {

struct FlagName {
    std::string_view name;
    unsigned long set;
    unsigned long clear;
};
constexpr std::array<FlagName, 25> flag_names{{
    {"async", 0, MS_SYNCHRONOUS},   {"atime", 0, MS_NOATIME},
    {"bind", MS_BIND, 0},           {"defaults", 0, 0},
    {"dev", 0, MS_NODEV},           {"diratime", 0, MS_NODIRATIME},
    {"dirsync", MS_DIRSYNC, 0},     {"exec", 0, MS_NOEXEC},
    {"mand", MS_MANDLOCK, 0},       {"noatime", MS_NOATIME, 0},
    {"nodev", MS_NODEV, 0},         {"nodiratime", MS_NODIRATIME, 0},
    {"noexec", MS_NOEXEC, 0},       {"nomand", 0, MS_MANDLOCK},
    {"norelatime", 0, MS_RELATIME}, {"nostrictatime", 0, MS_STRICTATIME},
    {"nosuid", MS_NOSUID, 0},       {"rbind", MS_BIND | MS_REC, 0},
    {"relatime", MS_RELATIME, 0},   {"ro", MS_RDONLY, 0},
    {"rw", 0, MS_RDONLY},           {"strictatime", MS_STRICTATIME, 0},
    {"suid", 0, MS_NOSUID},         {"sync", MS_SYNCHRONOUS, 0},
    {"silent", MS_SILENT, 0},
}};

Result<> mount_one(const Mount& mount, const std::string& target) {
    unsigned long flags = 0;
    std::string data;
    for (const std::string& option : mount.options) {
        if (option.find('\0') != std::string::npos) return fail(Code::invalid_argument, "mount: NUL in an option");
        auto known = std::ranges::find(flag_names, std::string_view(option), &FlagName::name);
        if (known != flag_names.end()) {
            flags = (flags & ~known->clear) | known->set;
            continue;
        }
        if (option.starts_with("loop"))
            return fail(Code::unimplemented, "mount option " + option + " is not supported");
        if (!data.empty()) data += ',';
        data += option;
    }
    // The kernel takes one page of options.
    if (data.size() >= 4096) return fail(Code::invalid_argument, "mount: options over 4096 bytes");
    bool bind = (flags & MS_BIND) != 0;
    if (::mount(mount.source.c_str(), target.c_str(), mount.type.c_str(), bind ? flags & (MS_BIND | MS_REC) : flags,
                data.empty() ? nullptr : data.c_str()) < 0)
        return fail_errno("mount " + mount.type + " " + mount.source);
    // A bind takes its flags by a second call only.
    if (bind && (flags & ~static_cast<unsigned long>(MS_BIND | MS_REC)) != 0 &&
        ::mount(nullptr, target.c_str(), nullptr, flags | MS_REMOUNT, nullptr) < 0)
        return fail_errno("remount " + mount.source);
    return {};
}

std::optional<PlannedRoot> plan_overlay(const Mount& mount) {
    supervisor::RootFilesystem root;
    for (const std::string& option : mount.options) {
        auto equals = option.find('=');
        std::string_view name = std::string_view(option).substr(0, equals);
        std::string value = equals == std::string::npos ? std::string() : option.substr(equals + 1);
        // Escapes of colons and commas are the host mount's business.
        if (value.find('\\') != std::string::npos) return std::nullopt;
        if (name == "lowerdir") {
            for (std::size_t begin = 0; begin <= value.size();) {
                std::size_t end = std::min(value.find(':', begin), value.size());
                root.lower_directories.push_back(value.substr(begin, end - begin));
                begin = end + 1;
            }
        } else if (name == "upperdir") {
            root.upper_directory = std::move(value);
        } else if (name == "workdir") {
            root.work_directory = std::move(value);
        } else if (name == "index" || name == "userxattr" || name == "volatile" || name == "metacopy" ||
                   name == "redirect_dir" || name == "xino" || name == "nfs_export" || name == "uuid") {
            root.options.push_back(option);
        } else {
            return std::nullopt;
        }
    }
    auto absolute = [](const std::string& path) { return path.starts_with('/'); };
    if (root.lower_directories.empty() || !std::ranges::all_of(root.lower_directories, absolute)) return std::nullopt;
    if (root.upper_directory.empty() != root.work_directory.empty()) return std::nullopt;
    if (!root.upper_directory.empty() && (!absolute(root.upper_directory) || !absolute(root.work_directory)))
        return std::nullopt;
    PlannedRoot planned;
    planned.overlay = std::move(root);
    return planned;
}

std::optional<PlannedRoot> plan_bind(const Mount& mount) {
    PlannedRoot planned;
    bool bind = false;
    for (const std::string& option : mount.options) {
        if (option == "bind" || option == "rbind") {
            bind = true;
        } else if (option == "ro") {
            planned.readonly = true;
        } else if (option != "rw") {
            return std::nullopt;
        }
    }
    if (!bind || !mount.source.starts_with('/')) return std::nullopt;
    planned.directory = mount.source;
    return planned;
}

}  // namespace

PlannedRoot plan_root(const std::vector<Mount>& mounts, bool needs_host_mount) {
    PlannedRoot on_host;
    on_host.mount_on_host = !mounts.empty();
    if (mounts.size() != 1 || needs_host_mount || !mounts.front().target.empty()) return on_host;
    const Mount& mount = mounts.front();
    std::optional<PlannedRoot> planned;
    if (mount.type == "overlay") planned = plan_overlay(mount);
    if (mount.type == "bind") planned = plan_bind(mount);
    return planned ? std::move(*planned) : on_host;
}

Result<> mount_all(const std::vector<Mount>& mounts, const std::string& target) {
    TRY(make_directories(target, 0711));
    for (const Mount& mount : mounts) {
        if (!mount.target.empty()) {
            [[maybe_unused]] auto undone = unmount_all(target);
            return fail(Code::unimplemented, "rootfs mounts with a target are not supported");
        }
        if (auto mounted = mount_one(mount, target); !mounted) {
            [[maybe_unused]] auto undone = unmount_all(target);
            return mounted;
        }
    }
    return {};
}

Result<> unmount_all(const std::string& target) {
    // Stacked mounts, one by one; a bound, should the kernel never say that there is none left.
    for (int rounds = 0; rounds < 128; ++rounds) {
        if (::umount2(target.c_str(), UMOUNT_NOFOLLOW) == 0) continue;
        if (errno == EBUSY && ::umount2(target.c_str(), UMOUNT_NOFOLLOW | MNT_DETACH) == 0) continue;
        if (errno == EINVAL || errno == ENOENT) return {};
        return fail_errno("unmount " + target);
    }
    return fail(Code::internal, "unmount " + target + ": mounts without end");
}

}  // namespace wherry::api::containerd
