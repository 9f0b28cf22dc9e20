// Overlay mounts that no namespace sees.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "image/layers/tree.hpp"

namespace wherry::image {

namespace {

#ifndef OPEN_TREE_CLONE
constexpr unsigned OPEN_TREE_CLONE = 1;
#endif

constexpr unsigned common_attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;

// Since Linux 6.8: one call a lower layer, any number of any length. nullopt where the kernel is older.
Result<std::optional<Fd>> by_context(const RootFilesystem& root, RootAccess access) {
    Fd context(::fsopen("overlay", FSOPEN_CLOEXEC));
    if (!context) return fail_errno("open overlay");
    for (const auto& lower : root.lowers) {
        if (::fsconfig(context.get(), FSCONFIG_SET_STRING, "lowerdir+", lower.c_str(), 0) < 0) {
            if (errno == EINVAL) return std::nullopt;
            return fail_errno("overlay lower layer " + lower);
        }
    }
    if (!root.upper.empty()) {
        if (::fsconfig(context.get(), FSCONFIG_SET_STRING, "upperdir", root.upper.c_str(), 0) < 0)
            return fail_errno("overlay upper layer");
        if (::fsconfig(context.get(), FSCONFIG_SET_STRING, "workdir", root.work.c_str(), 0) < 0)
            return fail_errno("overlay work folder");
    }
    if (::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) {
        if (errno == EINVAL) return std::nullopt;  // older kernels find out only now
        return fail_errno("make overlay");
    }
    unsigned attributes = common_attributes | (access == RootAccess::read_only ? MOUNT_ATTR_RDONLY : 0U);
    Fd mounted(::fsmount(context.get(), FSMOUNT_CLOEXEC, attributes));
    if (!mounted) return fail_errno("mount overlay");
    return mounted;
}

// mount(2) takes one page of options: descriptors keep the paths short. In a namespace of the thread's own.
Result<Fd> by_option_string(const RootFilesystem& root, RootAccess access, const std::string& scratch_folder) {
    if (::unshare(CLONE_FS | CLONE_NEWNS) < 0) return fail_errno("mount namespace");
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return fail_errno("private mounts");
    std::vector<Fd> folders;
    auto named = [&](const std::string& path) -> Result<std::string> {
        folders.push_back(TRY(open_file(path, O_PATH | O_DIRECTORY)));
        return "/proc/thread-self/fd/" + std::to_string(folders.back().get());
    };
    std::string options = "lowerdir=";
    for (const auto& lower : root.lowers) {
        if (options.back() != '=') options += ':';
        options += TRY(named(lower));
    }
    if (!root.upper.empty()) {
        options += ",upperdir=" + TRY(named(root.upper));
        options += ",workdir=" + TRY(named(root.work));
    }
    unsigned long flags = MS_NOSUID | MS_NODEV | (access == RootAccess::read_only ? MS_RDONLY : 0UL);
    if (::mount("overlay", scratch_folder.c_str(), "overlay", flags, options.c_str()) < 0)
        return fail_errno("mount overlay");
    Fd mounted(::open_tree(AT_FDCWD, scratch_folder.c_str(), OPEN_TREE_CLONE | O_CLOEXEC));
    if (!mounted) return fail_errno("detach overlay");
    return mounted;
}

}  // namespace

Result<Fd> mount_detached_overlay(const RootFilesystem& root, RootAccess access, const std::string& scratch_folder) {
    auto mounted = TRY(by_context(root, access));
    if (mounted) return std::move(*mounted);
    Result<Fd> result = fail(Code::internal, "not run");
    std::thread([&] { result = by_option_string(root, access, scratch_folder); }).join();
    return result;
}

}  // namespace wherry::image
