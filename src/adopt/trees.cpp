#include "adopt/trees.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "base/id.hpp"

namespace wherry::adopt {

namespace {

constexpr int max_depth = 1000;
constexpr std::size_t max_attribute_bytes = 64U << 10U;

Result<std::vector<std::string>> names_in(int folder) {
    Fd again = TRY(open_at(folder, ".", O_RDONLY | O_DIRECTORY));
    std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(again.get()), &::closedir);
    if (!stream) return fail_errno("list folder");
    static_cast<void>(again.release());
    std::vector<std::string> names;
    while (const dirent* entry = ::readdir(stream.get())) {
        std::string name = entry->d_name;
        if (name != "." && name != "..") names.push_back(std::move(name));
    }
    std::ranges::sort(names);
    return names;
}

// An entry of a folder that is held open; not followed by the l... calls.
std::string path_of(int folder, const std::string& name) {
    return "/proc/self/fd/" + std::to_string(folder) + "/" + name;
}

using AttributeList = std::map<std::string, std::string>;

Result<AttributeList> read_attributes(const std::string& path) {
    std::string names(max_attribute_bytes, '\0');
    ssize_t length = ::llistxattr(path.c_str(), names.data(), names.size());
    if (length < 0) {
        if (errno == ENOTSUP) return AttributeList();
        return fail_errno("attributes");
    }
    names.resize(static_cast<std::size_t>(length));
    AttributeList list;
    for (std::size_t at = 0; at < names.size();) {
        std::string name = names.c_str() + at;
        at += name.size() + 1;
        std::string value(max_attribute_bytes, '\0');
        ssize_t got = ::lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
        if (got < 0) {
            if (errno == ENODATA) continue;
            return fail_errno("attribute " + name);
        }
        value.resize(static_cast<std::size_t>(got));
        list.emplace(std::move(name), std::move(value));
    }
    return list;
}

bool is_overlay(std::string_view name) {
    return name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.");
}

class Copier {
  public:
    Copier(int root, Attributes attributes) : root_(root), attributes_(attributes) {}

    Result<> folder(int from, int to, const std::string& path, int depth) {
        if (depth > max_depth) return fail(Code::resource_exhausted, "folders nest too deeply");
        for (const std::string& name : TRY(names_in(from))) {
            std::string inner = path.empty() ? name : path + "/" + name;
            TRY(entry(from, to, name, inner, depth), inner);
        }
        return {};
    }

    // Owner, mode, extended attributes and times, after the content.
    Result<> finish(const std::string& from, const std::string& to, const struct stat& info) const {
        if (::lchown(to.c_str(), info.st_uid, info.st_gid) < 0) return fail_errno("owner");
        if (!S_ISLNK(info.st_mode) && ::chmod(to.c_str(), info.st_mode & 07777U) < 0) return fail_errno("mode");
        for (const auto& [name, value] : TRY(read_attributes(from))) {
            if (is_overlay(name)) {
                if (attributes_ == Attributes::plain) continue;
                if (name.ends_with(".redirect") || name.ends_with(".metacopy"))
                    return fail(Code::unimplemented, "made with overlayfs' redirects or metadata-only copies");
                // Of this place alone: where the file came from, counts of links.
                if (!name.ends_with(".opaque") && !name.ends_with(".whiteout")) continue;
            }
            if (::lsetxattr(to.c_str(), name.c_str(), value.data(), value.size(), 0) < 0)
                return fail_errno("attribute " + name);
        }
        const timespec times[2] = {info.st_atim, info.st_mtim};
        if (::utimensat(AT_FDCWD, to.c_str(), times, AT_SYMLINK_NOFOLLOW) < 0) return fail_errno("time");
        return {};
    }

    const TreeTotals& totals() const { return totals_; }

  private:
    Result<> entry(int from, int to, const std::string& name, const std::string& path, int depth) {
        struct stat info{};
        if (::fstatat(from, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) < 0) return fail_errno("stat");
        if (!S_ISDIR(info.st_mode) && info.st_nlink > 1) {
            auto [known, first] = links_.try_emplace({info.st_dev, info.st_ino}, path);
            if (!first) {
                if (::linkat(root_, known->second.c_str(), to, name.c_str(), 0) < 0) return fail_errno("link");
                return {};
            }
        }
        switch (info.st_mode & S_IFMT) {
            case S_IFDIR: {
                if (::mkdirat(to, name.c_str(), 0700) < 0) return fail_errno("folder");
                Fd inner_from = TRY(open_at(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
                Fd inner_to = TRY(open_at(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
                TRY(folder(inner_from.get(), inner_to.get(), path, depth + 1));
                break;
            }
            case S_IFREG:
                TRY(file(from, to, name));
                break;
            case S_IFLNK: {
                std::string target(static_cast<std::size_t>(PATH_MAX), '\0');
                ssize_t length = ::readlinkat(from, name.c_str(), target.data(), target.size());
                if (length < 0) return fail_errno("link");
                target.resize(static_cast<std::size_t>(length));
                if (::symlinkat(target.c_str(), to, name.c_str()) < 0) return fail_errno("link");
                break;
            }
            default:
                if (::mknodat(to, name.c_str(), info.st_mode & (S_IFMT | 07777U), info.st_rdev) < 0)
                    return fail_errno("special file");
        }
        return finish(path_of(from, name), path_of(to, name), info);
    }

    Result<> file(int from, int to, const std::string& name) {
        Fd source = TRY(open_at(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
        struct stat info{};
        if (::fstat(source.get(), &info) < 0) return fail_errno("stat");
        if (!S_ISREG(info.st_mode)) return fail(Code::data_loss, "it changed while it was copied");
        Fd target = TRY(open_at(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
        ++totals_.files;
        totals_.bytes += static_cast<std::uint64_t>(info.st_size);
        // SAFETY: FICLONE takes a descriptor.
        if (::ioctl(target.get(), FICLONE, source.get()) == 0) return {};
        if (::ftruncate(target.get(), info.st_size) < 0) return fail_errno("size");
        for (off_t at = 0; at < info.st_size;) {
            off_t data = ::lseek(source.get(), at, SEEK_DATA);
            if (data < 0 && errno == ENXIO) break;  // a hole up to the end
            if (data < 0) return fail_errno("read");
            off_t end = ::lseek(source.get(), data, SEEK_HOLE);
            if (end < 0) return fail_errno("read");
            off_t read_at = data;
            off_t write_at = data;
            while (read_at < end) {
                ssize_t moved = ::copy_file_range(source.get(), &read_at, target.get(), &write_at,
                                                  static_cast<std::size_t>(end - read_at), 0);
                if (moved < 0 && errno == EINTR) continue;
                if (moved < 0 && (errno == EXDEV || errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS)) {
                    TRY(copy_bytes(source.get(), target.get(), read_at, end));
                    break;
                }
                if (moved < 0) return fail_errno("copy");
                if (moved == 0) return fail(Code::data_loss, "it became shorter while it was copied");
            }
            at = end;
        }
        return {};
    }

    static Result<> copy_bytes(int from, int to, off_t at, off_t end) {
        std::vector<char> buffer(256U << 10U);
        while (at < end) {
            std::size_t wanted = std::min<std::size_t>(buffer.size(), static_cast<std::size_t>(end - at));
            ssize_t got = ::pread(from, buffer.data(), wanted, at);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) return fail_errno("read");
            if (got == 0) return fail(Code::data_loss, "it became shorter while it was copied");
            for (ssize_t written = 0; written < got;) {
                ssize_t count =
                    ::pwrite(to, buffer.data() + written, static_cast<std::size_t>(got - written), at + written);
                if (count < 0 && errno == EINTR) continue;
                if (count < 0) return fail_errno("write");
                written += count;
            }
            at += got;
        }
        return {};
    }

    int root_;
    Attributes attributes_;
    TreeTotals totals_;
    std::map<std::pair<dev_t, ino_t>, std::string> links_;
};

bool same_time(const timespec& a, const timespec& b) {
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

class Sharer {
  public:
    explicit Sharer(std::int64_t before) : before_(before) {}

    // False: another file system.
    Result<bool> folder(int from, int to, int depth) {
        if (depth > max_depth) return fail(Code::resource_exhausted, "folders nest too deeply");
        struct stat times{};
        if (::fstat(to, &times) < 0) return fail_errno("stat");
        bool possible = true;
        for (const std::string& name : TRY(names_in(to))) {
            if (!TRY(entry(from, to, name, depth))) {
                possible = false;
                break;
            }
        }
        const timespec kept[2] = {times.st_atim, times.st_mtim};
        if (::futimens(to, kept) < 0) return fail_errno("time");
        return possible;
    }
    const TreeTotals& totals() const { return totals_; }

  private:
    Result<bool> entry(int from, int to, const std::string& name, int depth) {
        struct stat theirs{};
        struct stat ours{};
        if (::fstatat(to, name.c_str(), &ours, AT_SYMLINK_NOFOLLOW) < 0) return fail_errno("stat");
        if (::fstatat(from, name.c_str(), &theirs, AT_SYMLINK_NOFOLLOW) < 0) return true;
        if (S_ISDIR(ours.st_mode) && S_ISDIR(theirs.st_mode)) {
            Fd inner_from = TRY(open_at(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
            Fd inner_to = TRY(open_at(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
            return folder(inner_from.get(), inner_to.get(), depth + 1);
        }
        if (!S_ISREG(ours.st_mode) || !S_ISREG(theirs.st_mode)) return true;
        if (ours.st_dev != theirs.st_dev) return false;
        // A file with several names in the layer stays as it is: all of them would have to move together.
        bool equal = ours.st_ino != theirs.st_ino && ours.st_nlink == 1 && ours.st_mode == theirs.st_mode &&
                     ours.st_uid == theirs.st_uid && ours.st_gid == theirs.st_gid && ours.st_size == theirs.st_size &&
                     ours.st_size > 0 && same_time(ours.st_mtim, theirs.st_mtim) && theirs.st_ctim.tv_sec < before_;
        if (!equal) return true;
        if (TRY(read_attributes(path_of(from, name))) != TRY(read_attributes(path_of(to, name)))) return true;
        const std::string temporary = ".wherry-adopt-" + make_id();
        if (::linkat(from, name.c_str(), to, temporary.c_str(), 0) < 0) {
            if (errno == EXDEV) return false;
            if (errno == EMLINK || errno == EPERM || errno == ENOENT) return true;
            return fail_errno("link");
        }
        if (::renameat(to, temporary.c_str(), to, name.c_str()) < 0) {
            Error error = std::move(fail_errno("rename")).error();
            ::unlinkat(to, temporary.c_str(), 0);
            return std::unexpected(std::move(error));
        }
        ++totals_.files;
        totals_.bytes += static_cast<std::uint64_t>(ours.st_size);
        return true;
    }

    std::int64_t before_;
    TreeTotals totals_;
};

}  // namespace

Result<TreeTotals> copy_tree(int from, int to, Attributes attributes) {
    struct stat info{};
    if (::fstat(from, &info) < 0) return fail_errno("stat");
    if (!TRY(names_in(to)).empty()) return fail(Code::conflict, "the folder to copy into is not empty");
    Copier copier(to, attributes);
    TRY(copier.folder(from, to, {}, 0));
    TRY(copier.finish("/proc/self/fd/" + std::to_string(from) + "/.", "/proc/self/fd/" + std::to_string(to) + "/.",
                      info));
    return copier.totals();
}

Result<TreeTotals> share_files(int from, int to, std::int64_t before) {
    Sharer sharer(before);
    TRY(sharer.folder(from, to, 0));
    return sharer.totals();
}

}  // namespace wherry::adopt
