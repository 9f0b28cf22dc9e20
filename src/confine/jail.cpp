#include "confine/jail.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "confine/process_attributes.hpp"

namespace wherry::confine {
namespace {

// The directory as a mount of its own, still detached. Taken before the new mount namespace is made: a descriptor of
// the old one cannot be cloned in the new one. An errno, negated, in place of a descriptor.
int clone_root(int root, std::uint64_t added) noexcept {
    // SAFETY: open_tree(2) takes plain integers and an empty path.
    long tree = ::syscall(SYS_open_tree, root, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
    if (tree < 0) return -errno;
    // Under systemd every mount is shared, the clone as well, and pivot_root refuses a shared one.
    mount_attr attributes{};
    attributes.propagation = MS_PRIVATE;
    attributes.attr_set = added;
    // SAFETY: mount_setattr(2) reads the structure, whose size is given.
    if (::syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0) {
        int error = errno;
        ::close(static_cast<int>(tree));
        return -error;
    }
    return static_cast<int>(tree);
}

// The tree becomes the root of this (new) mount namespace, and the old root is gone from it.
post_fork::JailFailure pivot_into(int tree) noexcept {
    // Nothing done here may travel back to the host.
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return {JailStep::private_mounts, errno};
    // On top of /, the one directory that is always there.
    // SAFETY: move_mount(2) takes plain integers and paths.
    if (::syscall(SYS_move_mount, tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) != 0)
        return {JailStep::root_mount, errno};
    if (::fchdir(tree) != 0) return {JailStep::change_directory, errno};
    // The old root ends up on top of the new one, and goes.
    if (::syscall(SYS_pivot_root, ".", ".") != 0) return {JailStep::pivot, errno};
    if (::umount2(".", MNT_DETACH) != 0) return {JailStep::pivot, errno};
    if (::chdir("/") != 0) return {JailStep::change_directory, errno};
    return {};
}

post_fork::JailFailure chroot_into(int root) noexcept {
    if (::fchdir(root) != 0) return {JailStep::change_directory, errno};
    if (::chroot(".") != 0) return {JailStep::chroot, errno};
    if (::chdir("/") != 0) return {JailStep::change_directory, errno};
    return {};
}

post_fork::JailFailure change_identity(const Jail& jail) noexcept {
    Capabilities wanted = container_capabilities(jail.keep_capabilities);
    int error = 0;
    if (jail.uid || jail.gid) {
        error = post_fork::become_user(jail.uid.value_or(::getuid()), jail.gid.value_or(::getgid()), {}, wanted);
    } else {
        error = post_fork::limit_bounding_set(wanted.bounding);
        if (error == 0) error = post_fork::set_capabilities(wanted);
    }
    if (error != 0) return {JailStep::capabilities, error};
    return {};
}

}  // namespace

const char* to_string(JailStep step) {
    switch (step) {
        case JailStep::none:
            return "nothing";
        case JailStep::parent:
            return "the parent is gone";
        case JailStep::unshare:
            return "new namespaces";
        case JailStep::private_mounts:
            return "making mounts private";
        case JailStep::root_mount:
            return "mounting the root";
        case JailStep::pivot:
            return "pivot_root";
        case JailStep::chroot:
            return "chroot";
        case JailStep::change_directory:
            return "changing the directory";
        case JailStep::limits:
            return "resource limits";
        case JailStep::capabilities:
            return "user and capabilities";
        case JailStep::dumpable:
            return "dumpable";
        case JailStep::privileges:
            return "no_new_privs";
        case JailStep::close:
            return "closing descriptors";
        case JailStep::seccomp:
            return "seccomp";
    }
    return "unknown";
}

Result<PreparedJail> PreparedJail::prepare(Jail jail) {
    constexpr std::uint64_t allowed = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
    if ((jail.namespaces & ~allowed) != 0)
        return fail(Code::invalid_argument, "a jail can unshare mount, network, ipc, uts and cgroup namespaces only");
    if (jail.root_kind != JailRoot::keep && jail.root < 0)
        return fail(Code::invalid_argument, "a jail with a root needs the root's descriptor");
    if (jail.root_kind == JailRoot::pivot) jail.namespaces |= CLONE_NEWNS;
    if (!jail.seccomp.empty() && !jail.no_new_privileges && !jail.keep_capabilities.contains(21 /* CAP_SYS_ADMIN */))
        return fail(Code::invalid_argument, "seccomp needs no_new_privs or CAP_SYS_ADMIN");
    TRY(check_resource_limits(jail.limits));
    std::ranges::sort(jail.keep_fds);
    auto repeated = std::ranges::unique(jail.keep_fds);
    jail.keep_fds.erase(repeated.begin(), repeated.end());
    return PreparedJail(std::move(jail));
}

Result<> enter_jail(Jail jail) {
    PreparedJail prepared = TRY(PreparedJail::prepare(std::move(jail)));
    auto failure = post_fork::enter_jail(prepared);
    if (failure.error != 0)
        return fail_errno(failure.error, std::string("entering the jail: ") + to_string(failure.step));
    return {};
}

namespace post_fork {

JailFailure enter_jail(const PreparedJail& prepared) noexcept {
    const Jail& jail = prepared.jail();
    int tree = -1;
    if (jail.root_kind == JailRoot::pivot) {
        tree = clone_root(jail.root, jail.root_attributes);
        if (tree < 0) return {JailStep::root_mount, -tree};
    }
    if (jail.namespaces != 0 && ::unshare(static_cast<int>(jail.namespaces)) != 0) return {JailStep::unshare, errno};
    JailFailure failure;
    switch (jail.root_kind) {
        case JailRoot::keep:
            break;
        case JailRoot::pivot:
            failure = pivot_into(tree);
            ::close(tree);
            break;
        case JailRoot::chroot_only:
            failure = chroot_into(jail.root);
            break;
    }
    if (failure.error != 0) return failure;
    if (int error = set_resource_limits(jail.limits)) return {JailStep::limits, error};
    failure = change_identity(jail);
    if (failure.error != 0) return failure;
    // A change of ids resets both the dumpable flag and the parent-death signal: so they come after it.
    if (int error = set_dumpable(jail.dumpable)) return {JailStep::dumpable, error};
    if (jail.die_with_parent != 0)
        if (int error = die_with_parent(jail.die_with_parent)) return {JailStep::parent, error};
    if (jail.no_new_privileges)
        if (int error = set_no_new_privileges()) return {JailStep::privileges, error};
    if (int error = close_all_but(jail.keep_fds)) return {JailStep::close, error};
    // Last: from here only what the program allows.
    if (!jail.seccomp.empty())
        if (int error = install_seccomp(jail.seccomp.instructions, jail.seccomp.flags))
            return {JailStep::seccomp, error};
    return {};
}

}  // namespace post_fork
}  // namespace wherry::confine
