#include "jailer/chroot.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>

namespace wherry::jailer {
namespace {

constexpr unsigned misc_major = 10;
constexpr unsigned tun_minor = 200;
constexpr unsigned kvm_minor = 232;
constexpr unsigned memory_major = 1;
constexpr unsigned urandom_minor = 9;

Result<Fd> make_and_open_directory(int parent, const std::string& name, mode_t mode) {
    if (::mkdirat(parent, name.c_str(), mode) != 0 && errno != EEXIST) return fail_errno("making " + name);
    return open_at(parent, name, O_DIRECTORY | O_NOFOLLOW | O_RDONLY);
}

Result<> copy_file(const std::string& from, int directory, const std::string& name) {
    // O_NONBLOCK: what is no regular file after all (a FIFO) must not hold us up.
    Fd source = TRY(open_file(from, O_RDONLY | O_NONBLOCK), "--exec-file");
    struct stat status{};
    if (::fstat(source.get(), &status) != 0) return fail_errno("--exec-file " + from);
    if (!S_ISREG(status.st_mode))
        return fail(Code::invalid_argument, "--exec-file: " + from + " is not a regular file");
    // The directory was the jailed user's in a former run: never write through what lies there.
    if (::unlinkat(directory, name.c_str(), 0) != 0 && errno != ENOENT) return fail_errno("replacing " + name);
    Fd target = TRY(open_at(directory, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0500));
    off_t done = 0;
    while (done < status.st_size) {
        ssize_t n = ::sendfile(target.get(), source.get(), &done, static_cast<std::size_t>(status.st_size - done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno("copying " + from);
        if (n == 0) return fail(Code::data_loss, "copying " + from + ": it became shorter meanwhile");
    }
    // Whoever the monitor runs as may read and execute it, not change it.
    if (::fchmod(target.get(), 0555) != 0) return fail_errno("mode of " + name);
    return {};
}

Result<> give(int directory, const char* name, uid_t uid, gid_t gid) {
    if (::fchownat(directory, name, uid, gid, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0)
        return fail_errno("owner of " + std::string(*name == '\0' ? "the root" : name));
    return {};
}

struct Device {
    const char* name;
    unsigned major;
    unsigned minor;
};

Result<> make_device(int directory, const Device& device, uid_t uid, gid_t gid) {
    if (::unlinkat(directory, device.name, 0) != 0 && errno != ENOENT)
        return fail_errno(std::string("replacing ") + device.name);
    if (::mknodat(directory, device.name, S_IFCHR | 0600, ::makedev(device.major, device.minor)) != 0)
        return fail_errno(std::string("making device ") + device.name);
    return give(directory, device.name, uid, gid);
}

}  // namespace

std::optional<unsigned> userfaultfd_minor(std::string_view proc_misc) {
    while (!proc_misc.empty()) {
        std::string_view line = proc_misc.substr(0, proc_misc.find('\n'));
        proc_misc.remove_prefix(std::min(line.size() + 1, proc_misc.size()));
        auto begin = line.find_first_not_of(' ');
        if (begin == std::string_view::npos) continue;
        line.remove_prefix(begin);
        unsigned minor = 0;
        auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), minor);
        if (error != std::errc()) continue;
        if (std::string_view(end, line.data() + line.size()) == " userfaultfd") return minor;
    }
    return std::nullopt;
}

Result<Chroot> Chroot::create(const Options& options) {
    Fd base = TRY(open_file(options.chroot_base, O_DIRECTORY | O_RDONLY), "--chroot-base-dir");
    std::string name = options.exec_name();
    // Owned by whoever runs the jailer, so these two cannot have been replaced by a jailed user.
    Fd of_monitor = TRY(make_and_open_directory(base.get(), name, 0755), "chroot");
    Fd of_id = TRY(make_and_open_directory(of_monitor.get(), options.id, 0755), "chroot");
    Fd root = TRY(make_and_open_directory(of_id.get(), "root", 0700), "chroot");
    TRY(copy_file(options.exec_file, root.get(), name));
    std::string path = options.chroot_base + "/" + name + "/" + options.id + "/root";
    return Chroot(std::move(path), std::move(name), std::move(root));
}

Result<> Chroot::enter() {
    // By descriptor, not by path: the path is free to change meanwhile. The tree is taken before the new mount
    // namespace is made, for a descriptor of the old one cannot be cloned in the new one; and it must not be shared, as
    // all mounts are under systemd, or pivot_root refuses it. SAFETY: open_tree(2) takes plain integers and an empty
    // path.
    Fd tree(static_cast<int>(
        ::syscall(SYS_open_tree, root_.get(), "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH)));
    if (!tree) return fail_errno("cloning " + path_);
    mount_attr attributes{};
    attributes.propagation = MS_PRIVATE;
    // SAFETY: mount_setattr(2) reads the structure, whose size is given.
    if (::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0)
        return fail_errno("making " + path_ + " private");
    if (::unshare(CLONE_NEWNS) != 0) return fail_errno("new mount namespace");
    if (::mount(nullptr, "/", nullptr, MS_SLAVE | MS_REC, nullptr) != 0) return fail_errno("making mounts slaves");
    // On top of /, the one directory that is always there.
    // SAFETY: move_mount(2) takes plain integers and paths.
    if (::syscall(SYS_move_mount, tree.get(), "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) != 0)
        return fail_errno("mounting " + path_);
    if (::fchdir(tree.get()) != 0) return fail_errno("entering " + path_);
    // SAFETY: pivot_root(2) takes two paths. The old root ends up on top of the new one, so no directory is needed for
    // it.
    if (::syscall(SYS_pivot_root, ".", ".") != 0) return fail_errno("pivot_root");
    if (::umount2(".", MNT_DETACH) != 0) return fail_errno("unmounting the old root");
    if (::chdir("/") != 0) return fail_errno("entering the new root");
    root_ = TRY(open_file("/", O_DIRECTORY | O_RDONLY));
    return {};
}

Result<> Chroot::populate(uid_t uid, gid_t gid, std::optional<unsigned> userfaultfd_minor) {
    Fd dev = TRY(make_and_open_directory(root_.get(), "dev", 0700));
    Fd net = TRY(make_and_open_directory(dev.get(), "net", 0700));
    Fd run = TRY(make_and_open_directory(root_.get(), "run", 0700));
    TRY(make_device(net.get(), {.name = "tun", .major = misc_major, .minor = tun_minor}, uid, gid));
    TRY(make_device(dev.get(), {.name = "kvm", .major = misc_major, .minor = kvm_minor}, uid, gid));
    TRY(make_device(dev.get(), {.name = "urandom", .major = memory_major, .minor = urandom_minor}, uid, gid));
    if (userfaultfd_minor)
        TRY(make_device(dev.get(), {.name = "userfaultfd", .major = misc_major, .minor = *userfaultfd_minor}, uid,
                        gid));
    for (const Fd* directory : {&root_, &dev, &net, &run}) TRY(give(directory->get(), "", uid, gid));
    return {};
}

Result<> Chroot::write_pid(pid_t pid) {
    std::string name = exec_name_ + ".pid";
    if (::unlinkat(root_.get(), name.c_str(), 0) != 0 && errno != ENOENT) return fail_errno("replacing " + name);
    Fd file = TRY(open_at(root_.get(), name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0644));
    return write_all(file.get(), std::to_string(pid));
}

}  // namespace wherry::jailer
