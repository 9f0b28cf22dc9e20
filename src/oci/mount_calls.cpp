#include "oci/mount_calls.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace wherry::oci {

namespace {

constexpr std::size_t fsconfig_value_limit = 255;
constexpr unsigned max_links = 40;  // as the kernel's MAXSYMLINKS

// What the kernel's log of a file system context says of the last failure ("e overlay: No changes allowed...").
std::string context_message(int context) {
    std::array<char, 512> buffer{};
    ssize_t got = ::read(context, buffer.data(), buffer.size() - 1);
    if (got <= 2) return {};
    std::string text(buffer.data() + 2, static_cast<std::size_t>(got - 2));
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return " (" + text + ")";
}

Result<Fd> resolve(int root, const std::string& path, std::uint64_t flags, std::uint64_t resolve_flags) {
    open_how how{};
    how.flags = flags | O_CLOEXEC;
    how.resolve = resolve_flags;
    for (int attempt = 0;; ++attempt) {
        // SAFETY: openat2(2) takes the structure and its size; fds are checked below.
        long fd = ::syscall(SYS_openat2, root, path.c_str(), &how, sizeof how);
        if (fd >= 0) return Fd(static_cast<int>(fd));
        // EAGAIN: a rename or mount raced with ".." resolution.
        if (errno != EINTR && (errno != EAGAIN || attempt > 100)) return fail_errno(path);
    }
}

std::string relative(const std::string& path) {
    std::size_t start = path.find_first_not_of('/');
    return start == std::string::npos ? "." : path.substr(start);
}

std::vector<std::string> parts_of(const std::string& path) {
    std::vector<std::string> parts;
    std::size_t at = 0;
    while (at < path.size()) {
        std::size_t end = path.find('/', at);
        if (end == std::string::npos) end = path.size();
        std::string part = path.substr(at, end - at);
        if (!part.empty() && part != ".") parts.push_back(std::move(part));
        at = end + 1;
    }
    return parts;
}

std::string join(const std::vector<std::string>& parts, std::size_t count) {
    std::string path;
    for (std::size_t i = 0; i < count; ++i) {
        if (i > 0) path += '/';
        path += parts[i];
    }
    return path.empty() ? "." : path;
}

Result<std::string> read_link(int directory, const std::string& name) {
    std::string target(4096, '\0');
    ssize_t got = ::readlinkat(directory, name.c_str(), target.data(), target.size());
    if (got < 0) return fail_errno(name);
    target.resize(static_cast<std::size_t>(got));
    return target;
}

// mount(2) for what fsconfig can't carry: on a detached tmpfs folder of our own, cloned from there.
Result<Fd> make_mount_by_string(const FileSystem& file_system) {
    FileSystem scratch;
    scratch.type = "tmpfs";
    scratch.values = {{"mode", "700"}, {"size", "64k"}};
    Fd holder = TRY(make_mount(scratch), "scratch folder");
    Fd slash = TRY(open_file("/", O_PATH | O_DIRECTORY));
    // A mount can only be made below an attached mount: attach the scratch folder over /, make it there, take it away.
    TRY(attach_mount(holder.get(), slash.get()));
    auto made = [&]() -> Result<Fd> {
        if (::mkdirat(holder.get(), "m", 0700) < 0) return fail_errno("scratch folder");
        std::string target = "/proc/self/fd/" + std::to_string(holder.get()) + "/m";
        std::string data;
        unsigned long flags = 0;
        for (const std::string& flag : file_system.flags) {
            if (flag == "ro") {
                flags |= MS_RDONLY;
            } else {
                data += (data.empty() ? "" : ",") + flag;
            }
        }
        for (const auto& [key, value] : file_system.values) {
            if (!data.empty()) data += ',';
            data.append(key).append("=").append(value);
        }
        if (data.size() >= 4096) return fail(Code::invalid_argument, "mount options are longer than a page");
        if (::mount(file_system.source.c_str(), target.c_str(), file_system.type.c_str(), flags, data.c_str()) < 0)
            return fail_errno("mount " + file_system.type);
        Fd tree = TRY(clone_tree(holder.get(), "m", TreeDepth::single));
        TRY(set_attributes(tree.get(), file_system.attributes, 0, TreeDepth::single));
        return tree;
    }();
    std::string holder_path = "/proc/self/fd/" + std::to_string(holder.get());
    if (::umount2(holder_path.c_str(), MNT_DETACH) < 0 && made) return fail_errno("detach scratch folder");
    return made;
}

}  // namespace

Result<Fd> clone_tree(int directory, const std::string& path, TreeDepth depth) {
    unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
    if (depth == TreeDepth::recursive) flags |= AT_RECURSIVE;
    if (path.empty()) flags |= AT_EMPTY_PATH;
    Fd tree(::open_tree(directory, path.c_str(), flags));
    if (!tree) return fail_errno("open_tree " + path);
    return tree;
}

Result<Fd> clone_tree(int fd, TreeDepth depth) {
    return clone_tree(fd, "", depth);
}

Result<Fd> make_mount(const FileSystem& file_system) {
    if (file_system.source.size() > fsconfig_value_limit) return make_mount_by_string(file_system);
    for (const auto& [key, value] : file_system.values) {
        if (value.size() > fsconfig_value_limit) return make_mount_by_string(file_system);
    }
    Fd context(::fsopen(file_system.type.c_str(), FSOPEN_CLOEXEC));
    if (!context) return fail_errno(errno, "file system " + file_system.type);
    auto failed = [&](const std::string& what) {
        int saved = errno;
        return fail_errno(saved, what + context_message(context.get()));
    };
    if (!file_system.source.empty() &&
        ::fsconfig(context.get(), FSCONFIG_SET_STRING, "source", file_system.source.c_str(), 0) < 0)
        return failed("source " + file_system.source);
    for (const std::string& flag : file_system.flags) {
        if (::fsconfig(context.get(), FSCONFIG_SET_FLAG, flag.c_str(), nullptr, 0) < 0)
            return failed("mount option " + flag);
    }
    for (const auto& [key, value] : file_system.values) {
        if (::fsconfig(context.get(), FSCONFIG_SET_STRING, key.c_str(), value.c_str(), 0) < 0)
            return failed(std::string("mount option ").append(key).append("=").append(value));
    }
    if (::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) return failed("create");
    Fd mount(::fsmount(context.get(), FSMOUNT_CLOEXEC, static_cast<unsigned>(file_system.attributes)));
    if (!mount) return failed("fsmount");
    return mount;
}

Result<> attach_mount(int mount, int target) {
    if (::move_mount(mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
        return fail_errno("move_mount");
    return {};
}

Result<> set_attributes(int mount, std::uint64_t set, std::uint64_t clear, TreeDepth depth) {
    if (set == 0 && clear == 0) return {};
    mount_attr attributes{};
    attributes.attr_set = set;
    attributes.attr_clr = clear;
    unsigned flags = AT_EMPTY_PATH | (depth == TreeDepth::recursive ? static_cast<unsigned>(AT_RECURSIVE) : 0U);
    if (::mount_setattr(mount, "", flags, &attributes, sizeof attributes) < 0) return fail_errno("mount_setattr");
    return {};
}

Result<> set_private(int mount, std::uint64_t attributes, TreeDepth depth) {
    mount_attr wanted{};
    wanted.attr_set = attributes;
    wanted.propagation = MS_PRIVATE;
    unsigned flags = AT_EMPTY_PATH | (depth == TreeDepth::recursive ? static_cast<unsigned>(AT_RECURSIVE) : 0U);
    if (::mount_setattr(mount, "", flags, &wanted, sizeof wanted) < 0) return fail_errno("mount_setattr");
    return {};
}

Result<> set_propagation(int mount, unsigned long flags) {
    if (flags == 0) return {};
    mount_attr attributes{};
    attributes.propagation = flags & ~static_cast<unsigned long>(MS_REC);
    unsigned at_flags = AT_EMPTY_PATH | ((flags & MS_REC) != 0 ? static_cast<unsigned>(AT_RECURSIVE) : 0U);
    if (::mount_setattr(mount, "", at_flags, &attributes, sizeof attributes) < 0) return fail_errno("propagation");
    return {};
}

Result<Fd> open_path_in_root(int root, const std::string& path) {
    return resolve(root, relative(path), O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

Result<Fd> open_path_in_root_nofollow(int root, const std::string& path) {
    return resolve(root, relative(path), O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS);
}

Result<Fd> make_path_in_root(int root, const std::string& path, PathKind kind) {
    std::vector<std::string> parts = parts_of(path);
    unsigned links = 0;
    for (;;) {
        // The common case: everything is there.
        auto whole = open_path_in_root(root, join(parts, parts.size()));
        if (whole) {
            struct stat info{};
            if (::fstat(whole->get(), &info) < 0) return fail_errno(path);
            bool directory = S_ISDIR(info.st_mode);
            if (directory != (kind == PathKind::directory)) return fail_errno(directory ? EISDIR : ENOTDIR, path);
            return whole;
        }
        if (whole.error().os_errno() != ENOENT) return whole;
        // The longest part that exists, then one name at a time below it.
        std::size_t existing = parts.size() - 1;
        Result<Fd> parent = open_path_in_root(root, join(parts, existing));
        while (!parent && parent.error().os_errno() == ENOENT && existing > 0)
            parent = open_path_in_root(root, join(parts, --existing));
        if (!parent) return parent;
        const std::string name = parts[existing];
        if (name == "..") return fail_errno(ENOENT, path);
        bool last = existing + 1 == parts.size();
        int made = 0;
        if (!last || kind == PathKind::directory) {
            made = ::mkdirat(parent->get(), name.c_str(), 0755);
        } else {
            made = ::openat(parent->get(), name.c_str(), O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_WRONLY, 0644);
            if (made >= 0) ::close(made);
        }
        if (made >= 0) continue;
        if (errno != EEXIST) return fail_errno("create " + path);
        // A dangling symlink: go on with its target in place of the name. The kernel resolves it inside the root.
        auto target = read_link(parent->get(), name);
        if (!target) {
            if (target.error().os_errno() == EINVAL && ++links <= max_links)
                continue;  // made by somebody else just now
            return fail_errno(ENOENT, path);
        }
        if (++links > max_links) return fail_errno(ELOOP, path);
        std::vector<std::string> next;
        if (target->empty() || target->front() != '/')
            next.assign(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(existing));
        for (std::string& part : parts_of(*target)) next.push_back(std::move(part));
        for (std::size_t i = existing + 1; i < parts.size(); ++i) next.push_back(std::move(parts[i]));
        parts = std::move(next);
    }
}

Result<std::pair<Fd, std::string>> make_parent_in_root(int root, const std::string& path) {
    std::string clean = clean_path(path);
    if (clean == "/") return fail_errno(EISDIR, path);
    std::size_t slash = clean.rfind('/');
    Fd parent = TRY(make_path_in_root(root, clean.substr(0, slash), PathKind::directory));
    return std::pair<Fd, std::string>(std::move(parent), clean.substr(slash + 1));
}

bool is_file_system(int fd, long magic) {
    struct statfs info{};
    return ::fstatfs(fd, &info) == 0 && info.f_type == magic;
}

Result<> prove_procfs_root(int fd) {
    struct stat info{};
    constexpr ino_t procfs_root_inode = 1;
    if (!is_file_system(fd, PROC_SUPER_MAGIC) || ::fstat(fd, &info) < 0 || info.st_ino != procfs_root_inode)
        return fail(Code::permission_denied, "/proc is not procfs");
    return {};
}

Result<Fd> open_null_device() {
    Fd null = TRY(open_file("/dev/null", O_PATH | O_NOFOLLOW));
    struct stat info{};
    if (::fstat(null.get(), &info) < 0) return fail_errno("/dev/null");
    if (!S_ISCHR(info.st_mode) || info.st_rdev != makedev(1, 3))
        return fail(Code::permission_denied, "/dev/null is not the null device");
    return null;
}

Result<> write_below_procfs(int procfs_root, const std::string& path, const std::string& value) {
    Fd file = TRY(resolve(procfs_root, relative(path), O_WRONLY | O_NOFOLLOW,
                          RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS));
    if (!is_file_system(file.get(), PROC_SUPER_MAGIC)) return fail(Code::permission_denied, path + ": not procfs");
    ssize_t written = ::write(file.get(), value.data(), value.size());
    if (written < 0) return fail_errno("write " + path);
    return {};
}

std::string clean_path(const std::string& path) {
    std::vector<std::string> parts;
    for (std::string& part : parts_of(path)) {
        if (part != "..") {
            parts.push_back(std::move(part));
        } else if (!parts.empty()) {
            parts.pop_back();
        }
    }
    std::string clean;
    for (const std::string& part : parts) {
        clean += '/';
        clean += part;
    }
    return clean.empty() ? "/" : clean;
}

}  // namespace wherry::oci
