// Filling a new volume from the image: a copy of a tree by descriptors that never follows a symlink.
#include <dirent.h>
#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <map>
#include <memory>
#include <vector>

#include "engine/volume_service.hpp"

namespace wherry::engine {
namespace {

constexpr int max_depth = 256;

using Directory = std::unique_ptr<DIR, int (*)(DIR*)>;

Result<Directory> read_directory(int fd) {
    Fd own = TRY(open_at(fd, ".", O_RDONLY | O_DIRECTORY));
    DIR* raw = ::fdopendir(own.get());
    if (raw == nullptr) return fail_errno("reading a directory");
    own.release();
    return Directory(raw, &::closedir);
}

// Owner, mode, times; what the file system does not take (xattrs) is left out.
Result<> copy_attributes(int from, int to, const struct stat& info) {
    if (::fchown(to, info.st_uid, info.st_gid) != 0) return fail_errno("fchown");
    if (::fchmod(to, info.st_mode & 07777U) != 0) return fail_errno("fchmod");
    std::array<char, 4096> names{};
    const ssize_t length = ::flistxattr(from, names.data(), names.size());
    for (ssize_t at = 0; at < length;) {
        const char* name = names.data() + at;
        at += static_cast<ssize_t>(std::string_view(name).size()) + 1;
        if (std::string_view(name).starts_with("trusted.overlay.")) continue;
        std::array<char, 4096> value{};
        const ssize_t size = ::fgetxattr(from, name, value.data(), value.size());
        if (size >= 0) ::fsetxattr(to, name, value.data(), static_cast<std::size_t>(size), 0);
    }
    const std::array<timespec, 2> times{info.st_atim, info.st_mtim};
    if (::futimens(to, times.data()) != 0) return fail_errno("futimens");
    return {};
}

Result<> copy_content(int from, int to) {
    while (true) {
        const ssize_t copied = ::copy_file_range(from, nullptr, to, nullptr, 1U << 30U, 0);
        if (copied == 0) return {};
        if (copied < 0) break;
    }
    if (errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS)
        return fail_errno("copy_file_range");
    while (true) {
        const ssize_t copied = ::sendfile(to, from, nullptr, 1U << 30U);
        if (copied == 0) return {};
        if (copied < 0) return fail_errno("sendfile");
    }
}

using Links = std::map<std::pair<dev_t, ino_t>, std::string>;

Result<> copy_tree(int from, int to, int to_root, const std::string& relative, Links& links, int depth) {
    if (depth > max_depth) return fail(Code::invalid_argument, "the tree is too deep");
    const Directory directory = TRY(read_directory(from));
    while (const dirent* entry = ::readdir(directory.get())) {
        const std::string name = entry->d_name;
        if (name == "." || name == "..") continue;
        struct stat info{};
        if (::fstatat(from, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) return fail_errno("stat " + name);
        const std::string path = relative.empty() ? name : relative + "/" + name;
        if (!S_ISDIR(info.st_mode) && info.st_nlink > 1) {
            const auto [place, first] = links.emplace(std::pair(info.st_dev, info.st_ino), path);
            if (!first) {
                if (::linkat(to_root, place->second.c_str(), to, name.c_str(), 0) != 0)
                    return fail_errno("link " + name);
                continue;
            }
        }
        if (S_ISDIR(info.st_mode)) {
            if (::mkdirat(to, name.c_str(), 0700) != 0) return fail_errno("mkdir " + name);
            const Fd source = TRY(open_at(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
            const Fd target = TRY(open_at(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
            TRY(copy_tree(source.get(), target.get(), to_root, path, links, depth + 1));
            TRY(copy_attributes(source.get(), target.get(), info));
        } else if (S_ISREG(info.st_mode)) {
            const Fd source = TRY(open_at(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
            const Fd target = TRY(open_at(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
            TRY(copy_content(source.get(), target.get()));
            TRY(copy_attributes(source.get(), target.get(), info));
        } else {
            if (S_ISLNK(info.st_mode)) {
                std::string target(static_cast<std::size_t>(info.st_size) + 1, '\0');
                const ssize_t length = ::readlinkat(from, name.c_str(), target.data(), target.size());
                if (length < 0) return fail_errno("readlink " + name);
                target.resize(static_cast<std::size_t>(length));
                if (::symlinkat(target.c_str(), to, name.c_str()) != 0) return fail_errno("symlink " + name);
            } else if (::mknodat(to, name.c_str(), info.st_mode, info.st_rdev) != 0) {
                return fail_errno("mknod " + name);
            }
            if (::fchownat(to, name.c_str(), info.st_uid, info.st_gid, AT_SYMLINK_NOFOLLOW) != 0)
                return fail_errno("chown " + name);
            const std::array<timespec, 2> times{info.st_atim, info.st_mtim};
            ::utimensat(to, name.c_str(), times.data(), AT_SYMLINK_NOFOLLOW);
        }
    }
    return {};
}

Result<std::int64_t> size_below(int fd, int depth) {
    if (depth > max_depth) return std::int64_t{0};
    std::int64_t total = 0;
    const Directory directory = TRY(read_directory(fd));
    while (const dirent* entry = ::readdir(directory.get())) {
        const std::string name = entry->d_name;
        if (name == "." || name == "..") continue;
        struct stat info{};
        if (::fstatat(fd, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (S_ISREG(info.st_mode)) total += info.st_size;
        if (S_ISDIR(info.st_mode)) {
            if (auto inner = open_at(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)) {
                if (auto size = size_below(inner->get(), depth + 1)) total += *size;
            }
        }
    }
    return total;
}

}  // namespace

Result<> populate_volume(int root, const std::string& path, const std::string& target) {
    auto source = open_in_root(root, path, O_RDONLY | O_DIRECTORY);
    if (!source) {
        if (source.error().code() == Code::not_found || source.error().os_errno() == ENOTDIR) return {};
        return std::unexpected(std::move(source).error());
    }
    const Fd to = TRY(open_file(target, O_RDONLY | O_DIRECTORY));
    struct stat info{};
    if (::fstat(source->get(), &info) != 0) return fail_errno("fstat");
    Links links;
    TRY(copy_tree(source->get(), to.get(), to.get(), "", links, 0));
    return copy_attributes(source->get(), to.get(), info);
}

Result<std::int64_t> tree_size(const std::string& path) {
    const Fd directory = TRY(open_file(path, O_RDONLY | O_DIRECTORY));
    return size_below(directory.get(), 0);
}

}  // namespace wherry::engine
