#include "image/copy/view.hpp"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

// <sys/mount.h> and <linux/mount.h> do not go together in glibc 2.36.
extern "C" int mount(const char* source, const char* target, const char* type, unsigned long flags,
                     const void* data) noexcept;
extern "C" int umount2(const char* target, int flags) noexcept;

namespace wherry::image {

namespace {

constexpr unsigned long recursive_private = (1UL << 14U) | (1UL << 18U);  // MS_REC | MS_PRIVATE
constexpr int detach_no_follow = 2 | 8;                                   // MNT_DETACH | UMOUNT_NOFOLLOW

#ifndef AT_RECURSIVE
constexpr unsigned AT_RECURSIVE = 0x8000;
#endif

Result<> set_mount_attributes(int fd, const char* path, unsigned flags, std::uint64_t attributes) {
    mount_attr wanted{};
    wanted.attr_set = attributes;
    // SAFETY: mount_setattr(2) takes a descriptor, a path, flags, and a struct with its size.
    if (::syscall(SYS_mount_setattr, fd, path, flags, &wanted, sizeof wanted) < 0)
        return fail_errno("restrict the mounts");
    return {};
}

Result<> move_mount(int from, int to) {
    // SAFETY: move_mount(2) takes plain integers and empty paths.
    if (::syscall(SYS_move_mount, from, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
        return fail_errno("attach a mount");
    return {};
}

Result<> become_root(int tree) {
    if (::unshare(CLONE_NEWNS) < 0) return fail_errno("new mount namespace");
    if (::mount(nullptr, "/", nullptr, recursive_private, nullptr) < 0) return fail_errno("private mounts");
    // SAFETY: as above; on top of /, the one directory that is always there.
    if (::syscall(SYS_move_mount, tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return fail_errno("attach the root");
    if (::fchdir(tree) < 0) return fail_errno("enter the root");
    // SAFETY: pivot_root(2) takes two paths; the old root ends up on top of the new one, and goes.
    if (::syscall(SYS_pivot_root, ".", ".") < 0) return fail_errno("pivot into the root");
    if (::umount2(".", 2 /* MNT_DETACH */) < 0) return fail_errno("leave the old root");
    if (::chdir("/") < 0) return fail_errno("enter the root");
    return {};
}

// The place of a mount, made where it is missing: each part below a descriptor inside the root.
Result<Fd> mount_point(int root, const std::string& path, bool folder) {
    auto there = open_in_root(root, path, O_PATH);
    if (there || there.error().code() != Code::not_found) return there;
    const std::size_t slash = path.find_last_not_of('/') == std::string::npos ? 0 : path.rfind('/');
    const std::string name = path.substr(slash + 1);
    if (name.empty()) return there;
    const Fd parent = TRY(mount_point(root, slash == 0 ? "/" : path.substr(0, slash), true));
    if (folder) {
        if (::mkdirat(parent.get(), name.c_str(), 0755) < 0 && errno != EEXIST) return fail_errno("make " + path);
    } else {
        const Fd file(::openat(parent.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0755));
        if (!file && errno != EEXIST) return fail_errno("make " + path);
    }
    return open_in_root(root, path, O_PATH);
}

Result<> attach(int root, const CopyMount& mount, int tree) {
    struct stat status{};
    if (::fstat(tree, &status) < 0) return fail_errno("stat the source of " + mount.destination);
    const Fd place = TRY(mount_point(root, mount.destination, S_ISDIR(status.st_mode)), mount.destination);
    if (mount.read_only)
        TRY(set_mount_attributes(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, MOUNT_ATTR_RDONLY), mount.destination);
    TRY(move_mount(tree, place.get()), mount.destination);
    return {};
}

}  // namespace

Result<Fd> enter_view(const CopyJob& job) {
    if (job.root == CopyRoot::mount_namespace) {
        if (::setns(copy_root_fd, CLONE_NEWNS) < 0) return fail_errno("join the container's mounts");
        // A copy of our own: the container goes on without noticing.
        if (::unshare(CLONE_NEWNS) < 0) return fail_errno("new mount namespace");
        if (::mount(nullptr, "/", nullptr, recursive_private, nullptr) < 0) return fail_errno("private mounts");
        for (const std::string& path : job.hidden) {
            // Several layers of mounts at one place go one by one; what is none is fine.
            while (::umount2(path.c_str(), detach_no_follow) == 0) {
            }
        }
    } else {
        TRY(become_root(copy_root_fd));
    }
    if (job.action == CopyAction::tree) {
        // Without what is mounted below it.
        // SAFETY: open_tree(2) takes plain integers and a path.
        Fd bare(static_cast<int>(::syscall(SYS_open_tree, AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
        if (!bare) return fail_errno("take the root alone");
        TRY(set_mount_attributes(bare.get(), "", AT_EMPTY_PATH, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID));
        return bare;
    }
    {
        const Fd root = TRY(open_file("/", O_PATH | O_DIRECTORY));
        for (std::size_t i = 0; i < job.mounts.size(); ++i)
            TRY(attach(root.get(), job.mounts[i], copy_root_fd + 1 + static_cast<int>(i)), "mount");
    }
    TRY(set_mount_attributes(AT_FDCWD, "/", AT_RECURSIVE, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID));
    if (job.root_read_only) TRY(set_mount_attributes(AT_FDCWD, "/", 0, MOUNT_ATTR_RDONLY));
    // Opened again: what is mounted on / itself is seen, too.
    return open_file("/", O_PATH | O_DIRECTORY);
}

}  // namespace wherry::image
