#include "oci/rootfs.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "oci/copy_up.hpp"
#include "oci/mount_calls.hpp"
#include "oci/overlay.hpp"
#include "oci/sysctl.hpp"

namespace wherry::oci {

namespace {

// Files of /proc that something (lxcfs, CRIU) may lay over; any other mount inside /proc could fake what the runtime
// reads or writes there (CVE-2019-16884, CVE-2019-19921).
constexpr std::array<std::string_view, 12> proc_overlays{
    "/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo",
    "/proc/stat",    "/proc/swaps",     "/proc/uptime",
    "/proc/loadavg", "/proc/slabinfo",  "/proc/sys/kernel/ns_last_pid",
    "/proc/net/dev", "/proc/scsi",      "/proc/sys/crypto/fips_enabled"};

bool inside(std::string_view path, std::string_view folder) {
    return path.size() > folder.size() && path.starts_with(folder) && path[folder.size()] == '/';
}

Result<> check_destination(const PlannedMount& planned) {
    const std::string& destination = planned.destination;
    if (destination == "/") return fail(Code::invalid_argument, "mount over / of the container");
    if (destination == "/proc") {
        if (planned.mount->type == "proc") return {};
        // The host's /proc bound as it is (nested containers); proven when it is mounted.
        if (planned.bind && clean_path(planned.mount->source) == "/proc") return {};
        return fail(Code::invalid_argument, "/proc must be procfs");
    }
    if (!inside(destination, "/proc") || planned.mount->type == "proc") return {};
    for (std::string_view allowed : proc_overlays) {
        if (destination == allowed) return {};
    }
    return fail(Code::invalid_argument, destination + ": cannot be mounted because it is inside /proc");
}

// What would have no effect is refused.
Result<> check_options(const PlannedMount& planned) {
    const MountOptions& options = planned.options;
    if (options.copy_up && planned.mount->type != "tmpfs")
        return fail(Code::invalid_argument, "tmpcopyup is for tmpfs");
    if (!planned.bind) return {};
    std::string option;
    if (!options.values.empty()) option = options.values.front().first;
    if (!options.flags.empty()) option = options.flags.front();
    if (option.empty()) return {};
    return fail(Code::invalid_argument, "bind mounts cannot have any filesystem-specific options applied: " + option);
}

unsigned long propagation_flags(const std::string& name) {
    if (name.empty()) return 0;
    const std::string options[] = {name};
    auto parsed = parse_mount_options(options);
    return parsed ? parsed->propagation : 0;
}

}  // namespace

Result<RootfsPlan> plan_rootfs(const Spec& spec, const std::string& bundle, const OverlayRoot* overlay) {
    RootfsPlan plan;
    plan.spec = &spec;
    plan.overlay = overlay;
    plan.bundle = bundle;
    if (overlay != nullptr) {
        if (overlay->lower.empty()) return fail(Code::invalid_argument, "overlay root without a lower directory");
        if (overlay->upper.empty() != overlay->work.empty())
            return fail(Code::invalid_argument, "overlay root: upper and work directory come together");
    } else {
        if (spec.root.path.empty()) return fail(Code::invalid_argument, "root.path: missing");
        plan.root_path = spec.root.path.front() == '/' ? spec.root.path : bundle + "/" + spec.root.path;
    }
    plan.terminal = spec.process && spec.process->terminal;
    for (const Mount& mount : spec.mounts) {
        PlannedMount planned;
        planned.mount = &mount;
        planned.options = TRY(parse_mount_options(mount.options), "mount " + mount.destination);
        planned.destination = clean_path(mount.destination);
        planned.bind = planned.options.bind || mount.type == "bind";
        if (mount.type == "bind" && !planned.options.bind) planned.options.bind = true;
        if (planned.bind && (mount.source.empty()))
            return fail(Code::invalid_argument, "mount " + mount.destination + ": bind without a source");
        if (!planned.bind && mount.type.empty())
            return fail(Code::invalid_argument, "mount " + mount.destination + ": type missing");
        if ((planned.options.idmap || !mount.uid_mappings.empty()) && !planned.bind)
            return fail(Code::invalid_argument, "mount " + mount.destination + ": only bind mounts can be idmapped");
        TRY(check_destination(planned));
        TRY(check_options(planned), "mount " + mount.destination);
        if (planned.bind && mount.source.front() != '/' && bundle.empty())
            return fail(Code::invalid_argument, "mount " + mount.destination + ": source must be absolute");
        plan.mounts.push_back(std::move(planned));
    }
    return plan;
}

Result<> Rootfs::detach_from_host() {
    // From here on nothing that happens here reaches the host; what the host mounts later reaches binds only when
    // asked.
    if (!plan_.joined_mount_namespace) {
        unsigned long flags = propagation_flags(plan_.spec->linux_spec.rootfs_propagation);
        if (flags == 0) flags = MS_SLAVE | MS_REC;
        if (::mount(nullptr, "/", nullptr, flags, nullptr) < 0)
            return fail_errno("propagation of the new mount namespace");
    }
    if (plan_.sources_in_child) TRY(open_bind_sources(plan_, BindSources::all));
    old_root_ = TRY(open_file("/", O_PATH | O_DIRECTORY));
    null_device_ = TRY(open_null_device());
    return {};
}

// In a namespace of others, who look at their own /: the root is mounted over its own place and entered by chroot.
Result<> Rootfs::attach_root_aside() {
    if (plan_.overlay != nullptr)
        return fail(Code::invalid_argument, "an overlay root needs a mount namespace of its own");
    root_ = TRY(clone_tree(AT_FDCWD, plan_.root_path, TreeDepth::recursive), "root filesystem");
    TRY(set_propagation(root_.get(), MS_PRIVATE | MS_REC));
    Fd place = TRY(open_file(plan_.root_path, O_PATH | O_DIRECTORY), "root filesystem");
    return attach_mount(root_.get(), place.get());
}

Result<> Rootfs::attach_root() {
    if (plan_.joined_mount_namespace) return attach_root_aside();
    if (plan_.overlay != nullptr) {
        // The sources were taken: now / itself becomes private, so that what is attached over it never reaches a peer.
        if (::mount(nullptr, "/", nullptr, MS_PRIVATE, nullptr) < 0) return fail_errno("make / private");
        root_ = TRY(mount_overlay(*plan_.overlay), "overlay");
    } else {
        root_ = TRY(clone_tree(AT_FDCWD, plan_.root_path, TreeDepth::recursive), "root filesystem");
        if (::mount(nullptr, "/", nullptr, MS_PRIVATE, nullptr) < 0) return fail_errno("make / private");
        TRY(set_propagation(root_.get(), MS_PRIVATE | MS_REC));
    }
    TRY(attach_mount(root_.get(), old_root_.get()), "root filesystem");
    return {};
}

Result<> Rootfs::make_mounts() {
    for (PlannedMount& planned : plan_.mounts) TRY(make_mount_entry(planned), "mount " + planned.mount->destination);
    if (proc_mounted_) {
        // What /proc leads to now is the procfs made above, whatever was mounted since.
        Fd proc = TRY(open_path_in_root_nofollow(root_.get(), "/proc"), "/proc");
        TRY(prove_procfs_root(proc.get()));
    }
    return {};
}

Result<> Rootfs::make_mount_entry(PlannedMount& planned) {
    const Mount& mount = *planned.mount;
    const MountOptions& options = planned.options;
    PathKind kind = PathKind::directory;
    if (planned.bind) {
        struct stat info{};
        if (::fstat(planned.tree.get(), &info) < 0) return fail_errno("source");
        if (!S_ISDIR(info.st_mode)) kind = PathKind::file;
    }
    Fd target = TRY(make_path_in_root(root_.get(), planned.destination, kind), "destination");
    if (mount.type == "proc" || mount.type == "sysfs") {
        // Never by way of a symlink of the image (CVE-2019-19921, CVE-2023-27561).
        auto plain = open_path_in_root_nofollow(root_.get(), planned.destination);
        if (!plain) return fail(Code::invalid_argument, mount.type + " must be mounted on an ordinary directory");
        target = std::move(*plain);
    }
    if (mount.type == "cgroup" || mount.type == "cgroup2") {
        if (plan_.before_cgroups) TRY(plan_.before_cgroups());
        if (!planned.bind) return make_cgroup_mount(planned, target.get());
    }

    Fd tree;
    bool late_readonly = false;
    if (planned.bind) {
        tree = std::move(planned.tree);
        TRY(set_attributes(tree.get(), options.recursive_set, options.recursive_clear, TreeDepth::recursive));
        std::uint64_t clear = options.attributes_clear & ~options.attributes_set;
        if ((options.attributes_clear & MOUNT_ATTR__ATIME) != 0) clear |= MOUNT_ATTR__ATIME;
        TRY(set_attributes(tree.get(), options.attributes_set, clear, TreeDepth::single));
    } else {
        FileSystem file_system;
        file_system.type = mount.type;
        file_system.source = mount.source.empty() ? mount.type : mount.source;
        file_system.flags = options.flags;
        file_system.values = options.values;
        file_system.attributes = options.attributes_set | options.recursive_set;
        if (mount.type == "tmpfs") {
            struct stat info{};
            // As with Docker, a tmpfs takes over the mode of the directory it covers unless told otherwise.
            bool mode_given = false;
            for (const auto& entry : options.values) mode_given = mode_given || entry.first == "mode";
            if (!mode_given && ::fstat(target.get(), &info) == 0) {
                std::array<char, 16> text{};
                std::snprintf(text.data(), text.size(), "%o", info.st_mode & 07777U);
                file_system.values.emplace_back("mode", text.data());
            }
            late_readonly = options.readonly();
            file_system.attributes &= ~std::uint64_t{MOUNT_ATTR_RDONLY};
        }
        const std::string& label = plan_.spec->linux_spec.mount_label;
        if (!label.empty() && mount.type != "proc" && mount.type != "sysfs" && mount.type != "mqueue")
            file_system.values.emplace_back("context", label);  // SELinux's
        tree = TRY(make_mount(file_system));
        if (options.copy_up) TRY(copy_directory(target.get(), tree.get()), "copy up");
    }
    TRY(attach_mount(tree.get(), target.get()));
    TRY(set_propagation(tree.get(), options.propagation));

    if (planned.destination == "/proc") {
        TRY(prove_procfs_root(tree.get()));
        procfs_ = TRY(tree.duplicate());
        proc_mounted_ = true;
    }
    if (planned.destination == "/dev/pts" && mount.type == "devpts") devpts_ = TRY(tree.duplicate());
    if (late_readonly) {
        readonly_at_the_end_.push_back(tree.get());
        kept_.push_back(std::move(tree));
    }
    return {};
}

// Each hierarchy's own directory of the container, bound below a small tmpfs (v1, hybrid), or straight there (v2). With
// or without a cgroup namespace a container sees its own subtree and nothing else.
Result<> Rootfs::make_cgroup_mount(const PlannedMount& planned, int target) {
    const MountOptions& options = planned.options;
    std::uint64_t attributes = options.attributes_set | options.recursive_set;
    if (plan_.cgroups.empty()) return fail(Code::not_found, "no cgroup hierarchy is mounted on this host");
    if (plan_.cgroups.size() == 1 && plan_.cgroups.front().name.empty()) {
        Fd tree = TRY(clone_tree(AT_FDCWD, plan_.cgroups.front().source, TreeDepth::recursive));
        TRY(set_private(tree.get(), attributes, TreeDepth::recursive));
        TRY(attach_mount(tree.get(), target));
        return set_propagation(tree.get(), options.propagation);
    }
    FileSystem folder;
    folder.type = "tmpfs";
    folder.source = "cgroup";
    folder.values = {{"mode", "755"}};
    folder.attributes = attributes & ~std::uint64_t{MOUNT_ATTR_RDONLY};
    Fd holder = TRY(make_mount(folder));
    TRY(attach_mount(holder.get(), target));
    for (const CgroupDirectory& directory : plan_.cgroups) {
        auto tree = clone_tree(AT_FDCWD, directory.source, TreeDepth::single);
        if (!tree) {
            if (tree.error().os_errno() == ENOENT) continue;  // a hierarchy the container has no directory in
            return fail_errno(tree.error().os_errno(), "cgroup hierarchy " + directory.name);
        }
        TRY(set_private(tree->get(), attributes, TreeDepth::single));
        if (::mkdirat(holder.get(), directory.name.c_str(), 0755) < 0) return fail_errno("cgroup hierarchy");
        Fd place = TRY(open_path_in_root_nofollow(holder.get(), directory.name));
        TRY(attach_mount(tree->get(), place.get()), "cgroup hierarchy " + directory.name);
    }
    TRY(set_attributes(holder.get(), attributes & MOUNT_ATTR_RDONLY, 0, TreeDepth::single));
    return set_propagation(holder.get(), options.propagation);
}

Result<> Rootfs::make_link(const std::string& path, const std::string& target) {
    auto [parent, name] = TRY(make_parent_in_root(root_.get(), path), path);
    if (::symlinkat(target.c_str(), parent.get(), name.c_str()) < 0 && errno != EEXIST) return fail_errno(path);
    return {};
}

Result<> Rootfs::make_devices() {
    // A /dev bound from outside is somebody else's: nothing is made there.
    for (const PlannedMount& planned : plan_.mounts) {
        if (planned.destination == "/dev" && planned.bind) return {};
    }
    static constexpr struct {
        const char* path;
        unsigned major_number, minor_number;
    } required[] = {{"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
                    {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};
    ::umask(0);
    for (const Device& device : plan_.spec->linux_spec.devices) TRY(make_device(device), "device " + device.path);
    for (const auto& entry : required) {
        bool given = false;
        for (const Device& device : plan_.spec->linux_spec.devices)
            given = given || clean_path(device.path) == entry.path;
        if (given) continue;
        Device device;
        device.path = entry.path;
        device.major = entry.major_number;
        device.minor = entry.minor_number;
        TRY(make_device(device), "device " + device.path);
    }
    ::umask(022);
    TRY(make_link("/dev/fd", "/proc/self/fd"));
    TRY(make_link("/dev/stdin", "/proc/self/fd/0"));
    TRY(make_link("/dev/stdout", "/proc/self/fd/1"));
    TRY(make_link("/dev/stderr", "/proc/self/fd/2"));
    if (::faccessat(AT_FDCWD, "/proc/kcore", F_OK, 0) == 0) TRY(make_link("/dev/core", "/proc/kcore"));
    if (devpts_) {
        auto [parent, name] = TRY(make_parent_in_root(root_.get(), "/dev/ptmx"), "/dev/ptmx");
        if (::unlinkat(parent.get(), name.c_str(), 0) < 0 && errno != ENOENT && errno != EBUSY && errno != EROFS)
            return fail_errno("/dev/ptmx");
        if (::symlinkat("pts/ptmx", parent.get(), name.c_str()) < 0 && errno != EEXIST) return fail_errno("/dev/ptmx");
    }
    return {};
}

Result<> Rootfs::make_device(const Device& device) {
    std::string path = clean_path(device.path);
    if (path == "/dev/ptmx") return {};  // always a link to the container's own devpts
    auto [parent, name] = TRY(make_parent_in_root(root_.get(), path));
    mode_t type = device.type == 'b' ? S_IFBLK : device.type == 'p' ? S_IFIFO : S_IFCHR;
    dev_t number =
        device.type == 'p' ? 0 : makedev(static_cast<unsigned>(device.major), static_cast<unsigned>(device.minor));
    int made = plan_.user_namespace ? -1 : ::mknodat(parent.get(), name.c_str(), type | device.mode, number);
    if (plan_.user_namespace) errno = EPERM;
    if (made == 0) {
        if ((device.uid != 0 || device.gid != 0) &&
            ::fchownat(parent.get(), name.c_str(), device.uid, device.gid, AT_SYMLINK_NOFOLLOW) < 0)
            return fail_errno("chown");
        return {};
    }
    if (errno == EEXIST) {
        struct stat info{};
        if (::fstatat(parent.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) < 0) return fail_errno("stat");
        // The image's own node of the same device will do; anything else in the way would be used in its place.
        if ((info.st_mode & S_IFMT) == type && (type == S_IFIFO || info.st_rdev == number)) return {};
        return fail(Code::conflict, "something else is in the way");
    }
    if (errno != EPERM || type == S_IFIFO) return fail_errno("mknod");
    // Not allowed (a user namespace): the host's node of the same number is bound.
    Fd source = TRY(open_file(path, O_PATH | O_NOFOLLOW), "host");
    struct stat info{};
    if (::fstat(source.get(), &info) < 0) return fail_errno("host");
    if ((info.st_mode & S_IFMT) != type || info.st_rdev != number)
        return fail(Code::permission_denied, "the host's node is another device");
    Fd tree = TRY(clone_tree(source.get(), TreeDepth::single));
    TRY(set_propagation(tree.get(), MS_PRIVATE));
    Fd target = TRY(make_path_in_root(root_.get(), path, PathKind::file));
    return attach_mount(tree.get(), target.get());
}

Result<Terminal> Rootfs::open_terminal() {
    Terminal terminal;
    constexpr int flags = O_RDWR | O_NOCTTY | O_CLOEXEC;
    if (devpts_) {
        // Through the descriptor of the mount that was just made: no path of the container is involved.
        terminal.master = TRY(open_at(devpts_.get(), "ptmx", flags), "ptmx of the container");
    } else {
        terminal.master = TRY(open_file("/dev/ptmx", flags), "ptmx");
    }
    int unlock = 0;
    // SAFETY: TIOCSPTLCK reads an int; TIOCGPTPEER takes open flags and gives a descriptor.
    if (::ioctl(terminal.master.get(), TIOCSPTLCK, &unlock) < 0) return fail_errno("unlock terminal");
    // CVE-2025-52565: the other side comes from the master itself, never by a path.
    terminal.slave.reset(::ioctl(terminal.master.get(), TIOCGPTPEER, flags));
    if (!terminal.slave) return fail_errno("TIOCGPTPEER");
    return terminal;
}

Result<> Rootfs::bind_console(int slave) {
    auto [parent, name] = TRY(make_parent_in_root(root_.get(), "/dev/console"));
    Fd made(::openat(parent.get(), name.c_str(), O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_WRONLY, 0600));
    if (!made && errno != EEXIST) return fail_errno("/dev/console");
    Fd target = TRY(open_path_in_root_nofollow(parent.get(), name), "/dev/console");
    struct stat info{};
    if (::fstat(target.get(), &info) < 0) return fail_errno("/dev/console");
    if (S_ISDIR(info.st_mode) || S_ISLNK(info.st_mode))
        return fail(Code::conflict, "/dev/console is not a file to mount the terminal on");
    Fd tree = TRY(clone_tree(slave, TreeDepth::single), "terminal");
    return attach_mount(tree.get(), target.get());
}

Result<> Rootfs::write_sysctls() {
    const auto& settings = plan_.spec->linux_spec.sysctl;
    if (settings.empty()) return {};
    Fd own;
    if (!procfs_) {
        // The container has no /proc: one that is never attached anywhere.
        FileSystem file_system;
        file_system.type = "proc";
        file_system.source = "proc";
        own = TRY(make_mount(file_system), "procfs");
        TRY(prove_procfs_root(own.get()));
    }
    for (const auto& [name, value] : settings) {
        TRY(write_below_procfs(procfs_ ? procfs_.get() : own.get(), "sys/" + sysctl_path(name), value),
            "sysctl " + name);
    }
    return {};
}

// A path to cover: symlinks of the image stay inside the root; what is named below /proc must be on procfs.
Result<Fd> Rootfs::open_guarded(const std::string& path) {
    std::string clean = clean_path(path);
    Fd target = TRY(open_path_in_root(root_.get(), clean));
    if (proc_mounted_ && inside(clean, "/proc") && !is_file_system(target.get(), PROC_SUPER_MAGIC)) {
        for (std::string_view allowed : proc_overlays) {
            if (clean == allowed) return target;
        }
        return fail(Code::permission_denied, path + " is not on procfs");
    }
    return target;
}

Result<> Rootfs::mask(const std::string& path) {
    auto target = open_guarded(path);
    if (!target) {
        int problem = target.error().os_errno();
        if (problem == ENOENT || problem == ENOTDIR) return {};
        return std::unexpected<Error>(std::move(target).error());
    }
    struct stat info{};
    if (::fstat(target->get(), &info) < 0) return fail_errno(path);
    if (!S_ISDIR(info.st_mode)) {
        Fd tree = TRY(clone_tree(null_device_.get(), TreeDepth::single));
        TRY(set_propagation(tree.get(), MS_PRIVATE));  // the host's /dev is a peer of others
        return attach_mount(tree.get(), target->get());
    }
    if (!empty_folder_) {
        FileSystem file_system;
        file_system.type = "tmpfs";
        file_system.source = "tmpfs";
        file_system.flags = {"ro"};
        file_system.values = {{"mode", "755"}, {"nr_blocks", "1"}, {"nr_inodes", "1"}};
        file_system.attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        empty_folder_ = TRY(make_mount(file_system));
        return attach_mount(empty_folder_.get(), target->get());
    }
    Fd tree = TRY(clone_tree(empty_folder_.get(), TreeDepth::single));
    return attach_mount(tree.get(), target->get());
}

Result<> Rootfs::make_readonly(const std::string& path) {
    auto target = open_guarded(path);
    if (!target) {
        int problem = target.error().os_errno();
        if (problem == ENOENT || problem == ENOTDIR) return {};
        return std::unexpected<Error>(std::move(target).error());
    }
    Fd tree = TRY(clone_tree(target->get(), TreeDepth::recursive));
    TRY(set_attributes(tree.get(), MOUNT_ATTR_RDONLY, 0, TreeDepth::recursive));
    return attach_mount(tree.get(), target->get());
}

Result<> Rootfs::protect() {
    for (const std::string& path : plan_.spec->linux_spec.readonly_paths) TRY(make_readonly(path), "read-only " + path);
    for (const std::string& path : plan_.spec->linux_spec.masked_paths) TRY(mask(path), "mask " + path);
    for (int mount : readonly_at_the_end_) TRY(set_attributes(mount, MOUNT_ATTR_RDONLY, 0, TreeDepth::single));
    if (plan_.spec->root.readonly) TRY(set_attributes(root_.get(), MOUNT_ATTR_RDONLY, 0, TreeDepth::single));
    return {};
}

Result<> Rootfs::pivot() {
    if (::fchdir(root_.get()) < 0) return fail_errno("chdir to the root");
    if (plan_.no_pivot || plan_.joined_mount_namespace) {
        // The host's root is an initramfs, which cannot be pivoted from: the container's root is moved over it.
        if (::chroot(".") < 0) return fail_errno("chroot");
        if (::chdir("/") < 0) return fail_errno("chdir /");
        return {};
    }
    // Both roots are stacked on one place; the old one is then taken off (pivot_root(2), "pivot_root(".", ".")").
    if (::syscall(SYS_pivot_root, ".", ".") < 0) return fail_errno("pivot_root");
    if (::fchdir(old_root_.get()) < 0) return fail_errno("chdir to the old root");
    // Unmounting must not travel to the host's peers.
    if (::mount(nullptr, ".", nullptr, MS_SLAVE | MS_REC, nullptr) < 0) return fail_errno("old root slave");
    if (::umount2(".", MNT_DETACH) < 0) return fail_errno("detach the old root");
    if (::chdir("/") < 0) return fail_errno("chdir /");
    old_root_.reset();
    if (unsigned long flags = propagation_flags(plan_.spec->linux_spec.rootfs_propagation); flags != 0) {
        if (::mount(nullptr, "/", nullptr, flags, nullptr) < 0) return fail_errno("propagation of the root");
    }
    return {};
}

}  // namespace wherry::oci
