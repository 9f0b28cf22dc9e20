// Sources of bind mounts as detached trees, idmapped where asked for.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

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

}  // namespace

Result<> open_bind_sources(RootfsPlan& plan, BindSources which) {
    for (PlannedMount& planned : plan.mounts) {
        if (!planned.bind || planned.tree) continue;
        const Mount& mount = *planned.mount;
        bool mapped = planned.options.idmap || !mount.uid_mappings.empty();
        if (which == BindSources::idmapped && !mapped) continue;
        std::string source = mount.source.front() == '/' ? mount.source : plan.bundle + "/" + mount.source;
        auto tree =
            clone_tree(AT_FDCWD, source, planned.options.bind_recursive ? TreeDepth::recursive : TreeDepth::single);
        if (!tree) return fail_errno(tree.error().os_errno(), "mount " + mount.destination + ": source " + source);
        planned.tree = std::move(*tree);
        if (mapped) TRY(idmap(planned, plan.spec->linux_spec), "mount " + mount.destination);
    }
    return {};
}

}  // namespace wherry::oci
