#include "image/layers/tree.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "image/layers/descend.hpp"
#include "image/tar/writer.hpp"
#include "image/unpack/plan.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t tree_buffer_bytes = 256U << 10U;
constexpr std::size_t max_sparse_extents = 100'000;
constexpr std::uint64_t worthwhile_hole_bytes = 64U << 10U;

bool vanished(int error) {
    return error == ENOENT || error == ENOTDIR || error == ELOOP || error == ESTALE;
}

bool is_whiteout(const struct stat& status) {
    return S_ISCHR(status.st_mode) && status.st_rdev == 0;
}

bool is_opaque(int folder) {
    std::array<char, 4> value{};
    return ::fgetxattr(folder, "trusted.overlay.opaque", value.data(), value.size()) == 1 && value[0] == 'y';
}

// Attributes of a descriptor (files, folders) that an archive carries.
std::map<std::string, std::string> read_xattrs(int file) {
    std::map<std::string, std::string> xattrs;
    std::string names(4096, '\0');
    ssize_t length = ::flistxattr(file, names.data(), names.size());
    if (length < 0 && errno == ERANGE) {
        names.resize(64U << 10U);
        length = ::flistxattr(file, names.data(), names.size());
    }
    if (length <= 0) return xattrs;
    names.resize(static_cast<std::size_t>(length));
    for (std::size_t start = 0; start < names.size();) {
        std::string name = names.c_str() + start;
        start += name.size() + 1;
        if (!accepts_xattr(name)) continue;
        std::string value(64U << 10U, '\0');
        ssize_t size = ::fgetxattr(file, name.c_str(), value.data(), value.size());
        if (size < 0) continue;
        value.resize(static_cast<std::size_t>(size));
        xattrs.emplace(std::move(name), std::move(value));
    }
    return xattrs;
}

// Where a file has data, when it has holes worth the trouble.
std::optional<std::vector<TarExtent>> data_extents(int file, const struct stat& status) {
    auto size = static_cast<std::uint64_t>(status.st_size);
    if (static_cast<std::uint64_t>(status.st_blocks) * 512 + worthwhile_hole_bytes > size) return std::nullopt;
    std::vector<TarExtent> extents;
    off_t at = 0;
    while (at < status.st_size) {
        off_t data = ::lseek(file, at, SEEK_DATA);
        if (data < 0) {
            if (errno == ENXIO) break;
            return std::nullopt;
        }
        off_t hole = ::lseek(file, data, SEEK_HOLE);
        if (hole < 0 || data >= status.st_size || extents.size() >= max_sparse_extents) return std::nullopt;
        hole = std::min(hole, status.st_size);
        extents.push_back({static_cast<std::uint64_t>(data), static_cast<std::uint64_t>(hole - data)});
        at = hole;
    }
    return extents;
}

class TreeTar {
  public:
    TreeTar(int root, TreeKind kind, const ByteSink& sink)
        : root_(root), kind_(kind), writer_(sink), buffer_(tree_buffer_bytes) {}

    Result<> run() {
        TRY(folder(""));
        return writer_.finish();
    }

    // The root too, and everything under the name `shown`.
    Result<> run_as(const std::string& shown) {
        prefix_ = shown.ends_with('/') ? shown : shown + "/";
        struct stat status{};
        if (::fstat(root_, &status) < 0) return fail_errno("read " + shown);
        const Fd opened = TRY(open_at(root_, ".", O_RDONLY | O_DIRECTORY), "read " + shown);
        TarEntry entry = described("", status);
        entry.type = TarType::directory;
        entry.xattrs = read_xattrs(opened.get());
        TRY(begin(std::move(entry)));
        TRY(writer_.end());
        return run();
    }

    // `name` alone, which is no folder.
    Result<> run_single(const std::string& name, const std::string& shown) {
        renamed_ = shown;
        TRY(entry(root_, "", name));
        return writer_.finish();
    }

  private:
    static TarEntry described(std::string path, const struct stat& status) {
        TarEntry entry;
        entry.path = std::move(path);
        entry.mode = status.st_mode & 07777U;
        entry.uid = status.st_uid;
        entry.gid = status.st_gid;
        entry.mtime_seconds = status.st_mtim.tv_sec;
        entry.mtime_nanoseconds = static_cast<std::uint32_t>(status.st_mtim.tv_nsec);
        return entry;
    }

    Result<> begin(TarEntry entry) {
        entry.path = renamed_.empty() ? prefix_ + entry.path : renamed_;
        if (entry.type == TarType::hard_link) entry.target = prefix_ + entry.target;
        return writer_.begin(entry);
    }

    Result<> folder(const std::string& path) {
        auto opened = open_beneath(root_, path, O_RDONLY | O_DIRECTORY);
        if (!opened)
            return vanished(opened.error().os_errno()) ? Result<>() : std::unexpected(std::move(opened).error());
        auto names = TRY(sorted_names(opened->get()));
        if (kind_ == TreeKind::overlay_upper && !path.empty() && is_opaque(opened->get()))
            TRY(writer_.file(path + "/.wh..wh..opq", ""));
        for (const auto& name : names) TRY(entry(opened->get(), path, name));
        return {};
    }

    Result<> entry(int parent, const std::string& parent_path, const std::string& name) {
        struct stat status{};
        if (::fstatat(parent, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0) {
            return vanished(errno) ? Result<>() : fail_errno("read " + parent_path + "/" + name);
        }
        std::string prefix = parent_path.empty() ? "" : parent_path + "/";
        if (kind_ == TreeKind::overlay_upper && is_whiteout(status)) return writer_.file(prefix + ".wh." + name, "");
        if (S_ISSOCK(status.st_mode)) return {};  // archives have none
        TarEntry entry = described(prefix + name, status);
        if (!S_ISDIR(status.st_mode) && status.st_nlink > 1) {
            auto [known, first] = links_.try_emplace({status.st_dev, status.st_ino}, entry.path);
            if (!first) {
                entry.type = TarType::hard_link;
                entry.target = known->second;
                TRY(begin(std::move(entry)));
                return writer_.end();
            }
        }
        if (S_ISREG(status.st_mode)) return file(parent, name, std::move(entry));
        if (S_ISDIR(status.st_mode)) return directory(parent, name, std::move(entry));
        return special(parent, name, status, std::move(entry));
    }

    Result<> directory(int parent, const std::string& name, TarEntry entry) {
        std::string path = entry.path;
        Fd opened(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!opened) return vanished(errno) ? Result<>() : fail_errno("open " + path);
        if (kind_ == TreeKind::overlay_upper &&
            ::fgetxattr(opened.get(), "trusted.overlay.redirect", nullptr, 0) >= 0) {
            return fail(Code::unimplemented,
                        path + " was moved by overlayfs with redirect_dir, which is not supported");
        }
        entry.xattrs = read_xattrs(opened.get());
        entry.type = TarType::directory;
        entry.path += '/';
        opened.reset();
        TRY(begin(std::move(entry)));
        TRY(writer_.end());
        return folder(path);
    }

    Result<> special(int parent, const std::string& name, const struct stat& status, TarEntry entry) {
        if (S_ISLNK(status.st_mode)) {
            std::string target(4096, '\0');
            ssize_t length = ::readlinkat(parent, name.c_str(), target.data(), target.size());
            if (length < 0) return vanished(errno) ? Result<>() : fail_errno("read link " + entry.path);
            target.resize(static_cast<std::size_t>(length));
            entry.type = TarType::symlink;
            entry.target = std::move(target);
        } else if (S_ISFIFO(status.st_mode)) {
            entry.type = TarType::fifo;
        } else {
            entry.type = S_ISCHR(status.st_mode) ? TarType::character_device : TarType::block_device;
            entry.device_major = ::gnu_dev_major(status.st_rdev);
            entry.device_minor = ::gnu_dev_minor(status.st_rdev);
        }
        TRY(begin(std::move(entry)));
        return writer_.end();
    }

    Result<> file(int parent, const std::string& name, TarEntry entry) {
        Fd opened(::openat(parent, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
        if (!opened) return vanished(errno) ? Result<>() : fail_errno("open " + entry.path);
        struct stat status{};
        if (::fstat(opened.get(), &status) < 0) return fail_errno("read " + entry.path);
        if (!S_ISREG(status.st_mode)) return {};  // something else took its place
        entry.xattrs = read_xattrs(opened.get());
        entry.size_bytes = static_cast<std::uint64_t>(status.st_size);
        entry.stored_bytes = entry.size_bytes;
        std::vector<TarExtent> extents{{0, entry.size_bytes}};
        if (auto sparse = data_extents(opened.get(), status)) {
            extents = std::move(*sparse);
            entry.sparse = true;
            entry.extents = extents;
            entry.stored_bytes = 0;
            for (const auto& extent : extents) entry.stored_bytes += extent.length;
        }
        TRY(begin(entry));
        for (TarExtent extent : extents) {
            while (extent.length > 0) {
                std::size_t want = static_cast<std::size_t>(std::min<std::uint64_t>(extent.length, buffer_.size()));
                ssize_t count = ::pread(opened.get(), buffer_.data(), want, static_cast<off_t>(extent.offset));
                if (count < 0 && errno == EINTR) continue;
                if (count < 0) return fail_errno("read " + entry.path);
                if (count == 0) return writer_.end();
                TRY(writer_.content(std::span(buffer_).first(static_cast<std::size_t>(count))));
                extent.offset += static_cast<std::uint64_t>(count);
                extent.length -= static_cast<std::uint64_t>(count);
            }
        }
        return writer_.end();
    }

    int root_;
    TreeKind kind_;
    TarWriter writer_;
    std::string prefix_;   // of all names in the archive
    std::string renamed_;  // not empty: what the only entry is called
    std::vector<std::byte> buffer_;
    std::map<std::pair<dev_t, ino_t>, std::string> links_;
};

Result<> add_sizes(int root, const std::string& path, std::set<std::pair<dev_t, ino_t>>& seen, std::uint64_t& total) {
    auto folder = open_beneath(root, path, O_RDONLY | O_DIRECTORY);
    if (!folder) return vanished(folder.error().os_errno()) ? Result<>() : std::unexpected(std::move(folder).error());
    for (const auto& name : TRY(sorted_names(folder->get()))) {
        struct stat status{};
        if (::fstatat(folder->get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0) continue;
        if (S_ISDIR(status.st_mode)) {
            TRY(add_sizes(root, path.empty() ? name : path + "/" + name, seen, total));
        } else if (S_ISREG(status.st_mode) &&
                   (status.st_nlink == 1 || seen.insert({status.st_dev, status.st_ino}).second)) {
            total += static_cast<std::uint64_t>(status.st_size);
        }
    }
    return {};
}

class UpperComparison {
  public:
    UpperComparison(int upper, int lower, const std::set<std::string>& made)
        : upper_(upper), lower_(lower), made_(made) {
        for (const std::string& path : made) touched_.insert(path.substr(0, path.rfind('/')));
    }

    Result<std::vector<Change>> run() {
        TRY(folder("", false));
        std::vector<Change> changes;
        for (const auto& [path, kind] : found_) changes.push_back({kind, path});
        return changes;
    }

  private:
    // Docker names a folder as modified when something in it came or went.
    void note(const std::string& path, ChangeKind kind) {
        found_["/" + path] = kind;
        if (kind == ChangeKind::modified) return;
        std::size_t slash = path.rfind('/');
        if (slash != std::string::npos) found_.try_emplace("/" + path.substr(0, slash), ChangeKind::modified);
    }

    std::optional<struct stat> lower_status(const std::string& path) const {
        auto file = open_beneath(lower_, path, O_PATH);
        struct stat status{};
        if (!file || ::fstat(file->get(), &status) < 0) return std::nullopt;
        return status;
    }

    // `fresh`: nothing of the lower tree shows here.
    Result<> folder(const std::string& path, bool fresh) {
        auto opened = open_beneath(upper_, path, O_RDONLY | O_DIRECTORY);
        if (!opened)
            return vanished(opened.error().os_errno()) ? Result<>() : std::unexpected(std::move(opened).error());
        auto names = TRY(sorted_names(opened->get()));
        if (!fresh && !path.empty() && is_opaque(opened->get())) TRY(lost_below(path, names));
        for (const auto& name : names) {
            std::string below = path.empty() ? name : path + "/" + name;
            struct stat status{};
            if (::fstatat(opened->get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0) continue;
            auto before = fresh ? std::nullopt : lower_status(below);
            if (is_whiteout(status)) {
                if (before) note(below, ChangeKind::deleted);
                continue;
            }
            bool directory = S_ISDIR(status.st_mode);
            bool both = before && directory && S_ISDIR(before->st_mode);
            if (!before && made_.contains("/" + below)) continue;
            bool same_time = both && before->st_mtim.tv_sec == status.st_mtim.tv_sec &&
                             before->st_mtim.tv_nsec == status.st_mtim.tv_nsec;
            bool same = both && before->st_mode == status.st_mode && before->st_uid == status.st_uid &&
                        before->st_gid == status.st_gid && (same_time || touched_.contains("/" + below));
            if (!same) note(below, before ? ChangeKind::modified : ChangeKind::added);
            if (directory) TRY(folder(below, !both));
        }
        return {};
    }

    // What an opaque folder hides of the lower one.
    Result<> lost_below(const std::string& path, const std::vector<std::string>& kept) {
        auto before = open_beneath(lower_, path, O_RDONLY | O_DIRECTORY);
        if (!before) return {};
        for (const auto& name : TRY(sorted_names(before->get()))) {
            if (!std::ranges::binary_search(kept, name)) note(path + "/" + name, ChangeKind::deleted);
        }
        return {};
    }

    int upper_;
    int lower_;
    const std::set<std::string>& made_;
    std::set<std::string> touched_;
    std::map<std::string, ChangeKind> found_;
};

}  // namespace

Result<> write_tree_tar(int root, TreeKind kind, const ByteSink& sink) {
    return TreeTar(root, kind, sink).run();
}

Result<> write_place_tar(int folder, const std::string& name, const std::string& shown, const ByteSink& sink) {
    TreeTar tar(folder, TreeKind::plain, sink);
    return name.empty() ? tar.run_as(shown) : tar.run_single(name, shown);
}

Result<std::uint64_t> tree_size(int root) {
    std::set<std::pair<dev_t, ino_t>> seen;
    std::uint64_t total = 0;
    TRY(add_sizes(root, "", seen, total));
    return total;
}

Result<std::vector<Change>> compare_upper(int upper, int lower, const std::set<std::string>& made) {
    return UpperComparison(upper, lower, made).run();
}

}  // namespace wherry::image
