// Sources of bind mounts as detached trees, idmapped where asked for.
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <optional>

#include "confine/namespaces.hpp"
#include "oci/mount_calls.hpp"
#include "oci/rootfs.hpp"

namespace wherry::oci {

namespace {

// A user namespace with these maps and nobody in it: what mount_setattr(2) wants for an idmapped mount.
Result<Fd> user_namespace_with(const std::vector<IdMapping>& uids, const std::vector<IdMapping>& gids) {
    Pipe ready = TRY(make_pipe());
    Pipe done = TRY(make_pipe());
    pid_t child = ::fork();
    if (child < 0) return fail_errno("fork");
    if (child == 0) {
        // SAFETY: after fork: async-signal-safe calls only.
        char byte = ::unshare(CLONE_NEWUSER) == 0 ? 'y' : 'n';
        [[maybe_unused]] ssize_t told = ::write(ready.write.get(), &byte, 1);
        ::close(done.write.get());
        [[maybe_unused]] ssize_t waited = ::read(done.read.get(), &byte, 1);
        ::_exit(0);
    }
    ready.write.reset();
    auto made = [&]() -> Result<Fd> {
        char byte = 'n';
        if (::read(ready.read.get(), &byte, 1) != 1 || byte != 'y')
            return fail(Code::permission_denied, "user namespace for an idmapped mount");
        TRY(confine::write_id_maps(child, uids, gids));
        return confine::open_namespace_of(child, confine::Namespace::user);
    }();
    done.write.reset();
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
    return made;
}

Result<> idmap(const PlannedMount& planned, const LinuxSpec& spec) {
    const Mount& mount = *planned.mount;
    bool own = !mount.uid_mappings.empty();
    const auto& uids = own ? mount.uid_mappings : spec.uid_mappings;
    const auto& gids = own ? mount.gid_mappings : spec.gid_mappings;
    if (uids.empty() || gids.empty()) return fail(Code::invalid_argument, "idmap without mappings");
    Fd user_namespace = TRY(user_namespace_with(uids, gids));
    mount_attr attributes{};
    attributes.attr_set = MOUNT_ATTR_IDMAP;
    attributes.userns_fd = static_cast<std::uint64_t>(user_namespace.get());
    unsigned flags = AT_EMPTY_PATH | (planned.options.idmap_recursive ? static_cast<unsigned>(AT_RECURSIVE) : 0U);
    if (::mount_setattr(planned.tree.get(), "", flags, &attributes, sizeof attributes) < 0)
        return fail_errno("idmapped mount");
    return {};
}

// "/proc/<pid>/root/<path>": what a process of another mount namespace has at <path>.
struct ForeignSource {
    std::string process;  // "/proc/<pid>"
    std::string path;
};

std::optional<ForeignSource> foreign_source(const std::string& source) {
    constexpr std::string_view before = "/proc/";
    constexpr std::string_view behind = "/root/";
    if (!source.starts_with(before)) return std::nullopt;
    const std::size_t end = source.find_first_not_of("0123456789", before.size());
    if (end == std::string::npos || end == before.size() || source.compare(end, behind.size(), behind) != 0)
        return std::nullopt;
    return ForeignSource{.process = source.substr(0, end), .path = source.substr(end + behind.size() - 1)};
}

// The kernel clones mounts of the caller's own namespace only: a child joins the other one, clones there, and hands the
// tree over. No symlink is followed: the other side may be a container.
Result<Fd> clone_foreign_tree(const ForeignSource& source, TreeDepth depth) {
    const Fd names = TRY(open_file(source.process + "/ns/mnt", O_RDONLY));
    struct stat theirs{};
    struct stat ours{};
    if (::fstat(names.get(), &theirs) < 0 || ::stat("/proc/self/ns/mnt", &ours) < 0)
        return fail_errno("mount namespace of " + source.process);
    if (theirs.st_ino == ours.st_ino)
        return fail(Code::conflict, source.process + " is no process of another mount namespace");
    auto [here, there] = TRY(make_socket_pair(SOCK_STREAM));
    const pid_t child = ::fork();
    if (child < 0) return fail_errno("fork");
    if (child == 0) {
        // SAFETY: the forked copy of a single-threaded process, which ends here.
        open_how how{};
        how.flags = O_PATH | O_CLOEXEC;
        how.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
        char failed = 0;
        if (::setns(names.get(), CLONE_NEWNS) == 0) {
            const long place = ::syscall(SYS_openat2, AT_FDCWD, source.path.c_str(), &how, sizeof how);
            if (place >= 0) {
                const auto tree = clone_tree(static_cast<int>(place), depth);
                const int fds[] = {tree ? tree->get() : -1};
                if (tree && send_with_fds(there.get(), "t", fds)) ::_exit(0);
                if (!tree) errno = tree.error().os_errno();
            }
        }
        failed = static_cast<char>(errno);
        [[maybe_unused]] const ssize_t told = ::write(there.get(), &failed, 1);
        ::_exit(1);
    }
    there.reset();
    std::byte answer{};
    auto received = receive_with_fds(here.get(), std::span(&answer, 1));
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
    if (!received) return std::unexpected(std::move(received).error());
    if (received->fds.size() == 1) return std::move(received->fds.front());
    return fail_errno(received->bytes == 1 ? static_cast<int>(answer) : ESRCH, "take " + source.path);
}

}  // namespace

Result<> open_bind_sources(RootfsPlan& plan, BindSources which) {
    for (PlannedMount& planned : plan.mounts) {
        if (!planned.bind || planned.tree) continue;
        const Mount& mount = *planned.mount;
        bool mapped = planned.options.idmap || !mount.uid_mappings.empty();
        // Also while this is still outside of the container's namespaces.
        const auto foreign = foreign_source(mount.source);
        if (which == BindSources::idmapped && !mapped && !foreign) continue;
        std::string source = mount.source.front() == '/' ? mount.source : plan.bundle + "/" + mount.source;
        const TreeDepth depth = planned.options.bind_recursive ? TreeDepth::recursive : TreeDepth::single;
        auto tree = foreign ? clone_foreign_tree(*foreign, depth) : clone_tree(AT_FDCWD, source, depth);
        if (!tree) return fail_errno(tree.error().os_errno(), "mount " + mount.destination + ": source " + source);
        planned.tree = std::move(*tree);
        if (mapped) TRY(idmap(planned, plan.spec->linux_spec), "mount " + mount.destination);
    }
    return {};
}

}  // namespace wherry::oci
