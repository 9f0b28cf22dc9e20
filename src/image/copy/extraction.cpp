#include "image/copy/extraction.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "image/bytes.hpp"
#include "image/copy/place.hpp"
#include "image/tar/content.hpp"
#include "image/unpack/plan.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t max_times_bytes = 64U << 20U;  // beyond it, times of folders are left as they come
constexpr int new_file_flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;

std::array<timespec, 2> times_of(std::int64_t seconds, std::uint32_t nanoseconds) {
    timespec keep{};
    keep.tv_nsec = UTIME_OMIT;
    timespec modified{};
    modified.tv_sec = seconds;
    modified.tv_nsec = static_cast<long>(nanoseconds);
    return {keep, modified};
}

std::string_view parent_of(std::string_view path) {
    const std::size_t slash = path.rfind('/');
    return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

std::string base_of(std::string_view path) {
    const std::size_t slash = path.rfind('/');
    return std::string(slash == std::string_view::npos ? path : path.substr(slash + 1));
}

// A whole tree, by descriptors and without following symlinks.
Result<> remove_below(int parent, const std::string& name) {
    if (::unlinkat(parent, name.c_str(), 0) == 0 || errno == ENOENT) return {};
    if (errno != EISDIR && errno != EPERM) return fail_errno("remove " + name);
    Fd folder(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!folder) return fail_errno("remove " + name);
    Fd listed = TRY(open_at(folder.get(), ".", O_RDONLY | O_DIRECTORY));
    std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(listed.get()), &::closedir);
    if (!stream) return fail_errno("list " + name);
    (void)listed.release();
    while (const dirent* entry = ::readdir(stream.get())) {
        const std::string below = entry->d_name;
        if (below != "." && below != "..") TRY(remove_below(folder.get(), below));
    }
    if (::unlinkat(parent, name.c_str(), AT_REMOVEDIR) < 0 && errno != ENOENT) return fail_errno("remove " + name);
    return {};
}

}  // namespace

Result<Extraction> Extraction::open(int root, std::string_view place, ExtractionOptions options) {
    Extraction extraction(root, options);
    extraction.place_path_ = TRY(evaluate_place(root, place));
    auto folder = open_in_root(root, extraction.place_path_, O_PATH | O_DIRECTORY);
    if (!folder) {
        if (folder.error().os_errno() == ENOTDIR)
            return fail(Code::invalid_argument, "extraction point is not a directory");
        return std::unexpected(std::move(folder).error());
    }
    extraction.place_ = std::move(*folder);
    struct statvfs status{};
    if (::fstatvfs(extraction.place_.get(), &status) < 0) return fail_errno("stat " + extraction.place_path_);
    if ((status.f_flag & ST_RDONLY) != 0) return fail_errno(EROFS, extraction.place_path_);
    return extraction;
}

std::string Extraction::inside(std::string_view path) const {
    if (path.empty()) return place_path_;
    return (place_path_ == "/" ? "" : place_path_) + "/" + std::string(path);
}

// Missing folders on the way are made one by one, each below a descriptor.
Result<Fd> Extraction::make_folders(const std::string& path) const {
    auto there = open_in_root(root_, path, O_PATH | O_DIRECTORY);
    if (there || there.error().code() != Code::not_found || path == place_path_) return there;
    const std::size_t slash = path.rfind('/');
    const Fd parent = TRY(make_folders(slash == 0 ? "/" : path.substr(0, slash)));
    const std::string name = path.substr(slash + 1);
    if (::mkdirat(parent.get(), name.c_str(), 0755) < 0 && errno != EEXIST) return fail_errno("make folder " + path);
    if (options_.owner &&
        ::fchownat(parent.get(), name.c_str(), options_.owner->uid, options_.owner->gid, AT_SYMLINK_NOFOLLOW) < 0)
        return fail_errno("set owner of " + path);
    return open_in_root(root_, path, O_PATH | O_DIRECTORY);
}

Result<int> Extraction::folder(std::string_view path) {
    if (path.empty()) return place_.get();
    if (cached_ && cached_path_ == path) return cached_.get();
    cached_ = TRY(make_folders(inside(path)));
    cached_path_ = path;
    return cached_.get();
}

FileOwner Extraction::owner_of(const TarEntry& entry) const {
    return options_.owner.value_or(FileOwner{.uid = entry.uid, .gid = entry.gid});
}

// What stands at `name` gives way. True: a folder that stays for a folder.
Result<bool> Extraction::make_way(int parent, const std::string& name, const std::string& path, const TarEntry& entry) {
    busy_ = false;
    struct stat status{};
    if (::fstatat(parent, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno == ENOENT) return false;
        return fail_errno("find " + path);
    }
    const bool is_folder = S_ISDIR(status.st_mode);
    const bool folder_comes = entry.type == TarType::directory;
    if (options_.keep_kinds && is_folder && !folder_comes) {
        return fail(Code::invalid_argument,
                    "cannot overwrite directory \"" + inside(path) + "\" with non-directory \"" + place_path_ + "\"");
    }
    if (options_.keep_kinds && !is_folder && folder_comes) {
        return fail(Code::invalid_argument,
                    "cannot overwrite non-directory \"" + inside(path) + "\" with directory \"" + place_path_ + "\"");
    }
    if (is_folder && folder_comes) return true;
    cached_ = Fd();  // the way to it may have led over what goes
    cached_path_.clear();
    auto removed = remove_below(parent, name);
    if (removed) return false;
    if (removed.error().os_errno() == EBUSY && S_ISREG(status.st_mode) && entry.type == TarType::regular) {
        busy_ = true;  // something is mounted there (/etc/hosts, a bound file)
        return false;
    }
    return std::unexpected(std::move(removed).error());
}

Result<> Extraction::apply(const TarEntry& entry, TarReader& reader) {
    const auto shown = [](std::string_view text) { return "\"" + std::string(text.substr(0, 200)) + "\""; };
    if (entry.path.find('\0') != std::string::npos || entry.target.find('\0') != std::string::npos)
        return fail(Code::invalid_argument, "name holds a zero byte");
    auto cleaned = clean_path(entry.path);
    if (!cleaned && cleaned.error().message().contains("leads outside"))
        return fail(Code::invalid_argument, shown(entry.path) + " is outside of " + shown(place_path_));
    if (!cleaned) return std::unexpected(std::move(cleaned).error().context("copy to " + place_path_));
    const std::string path = std::move(*cleaned);
    if (path.empty()) return {};  // the folder itself is the container's business
    const std::string name = base_of(path);
    // A descriptor of its own: what is in the way may have been the way.
    const int cached_parent = TRY(folder(parent_of(path)), "copy to " + inside(path));
    const Fd parent(::fcntl(cached_parent, F_DUPFD_CLOEXEC, 0));
    if (!parent) return fail_errno("copy to " + inside(path));
    const bool stays = TRY(make_way(parent.get(), name, path, entry));
    const std::string what = "copy to " + inside(path);
    switch (entry.type) {
        case TarType::regular:
            if (busy_)
                TRY(overwrite(parent.get(), name, entry, reader), what);
            else
                TRY(create_file(parent.get(), name, entry, reader), what);
            return {};
        case TarType::directory:
            if (!stays && ::mkdirat(parent.get(), name.c_str(), entry.mode & 01777U) < 0 && errno != EEXIST)
                return fail_errno(what);
            TRY(create_directory(parent.get(), name, path, entry), what);
            return {};
        case TarType::hard_link:
            TRY(create_hard_link(parent.get(), name, entry), what);
            return {};
        case TarType::symlink:
        case TarType::character_device:
        case TarType::block_device:
        case TarType::fifo:
            TRY(create_other(parent.get(), name, entry), what);
            return {};
    }
    return {};
}

Result<> Extraction::set_attributes(int file, const TarEntry& entry) const {
    const FileOwner owner = owner_of(entry);
    if (::fchown(file, owner.uid, owner.gid) < 0) return fail_errno("set owner");
    // The owner's change drops some of these bits, so they come after it.
    if (::fchmod(file, entry.mode & 07777U) < 0) return fail_errno("set mode");
    for (const auto& [name, value] : entry.xattrs) {
        // Attributes that the file system has not got are lost, as with Docker.
        if (accepts_xattr(name) && ::fsetxattr(file, name.c_str(), value.data(), value.size(), 0) < 0 &&
            errno != ENOTSUP && errno != EPERM)
            return fail_errno("set " + name);
    }
    return {};
}

Result<> Extraction::create_file(int parent, const std::string& name, const TarEntry& entry, TarReader& reader) {
    const Fd file(::openat(parent, name.c_str(), new_file_flags, 0600));
    if (!file) return fail_errno("create");
    TRY(write_content(file.get(), entry, reader));
    TRY(set_attributes(file.get(), entry));
    const auto times = times_of(entry.mtime_seconds, entry.mtime_nanoseconds);
    if (::futimens(file.get(), times.data()) < 0) return fail_errno("set time");
    return {};
}

Result<> Extraction::overwrite(int parent, const std::string& name, const TarEntry& entry, TarReader& reader) {
    const Fd file(::openat(parent, name.c_str(), O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (!file) return fail_errno("open");
    struct stat status{};
    if (::fstat(file.get(), &status) < 0) return fail_errno("stat");
    if (!S_ISREG(status.st_mode)) return fail_errno(EBUSY, "replace");
    if (::ftruncate(file.get(), 0) < 0) return fail_errno("empty");
    return write_content(file.get(), entry, reader);
}

Result<> Extraction::create_directory(int parent, const std::string& name, const std::string& path,
                                      const TarEntry& entry) {
    const Fd directory(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!directory) return fail_errno("open folder");
    TRY(set_attributes(directory.get(), entry));
    times_bytes_ += path.size() + sizeof(FolderTime);
    if (times_bytes_ <= max_times_bytes)
        times_.push_back({.path = path, .seconds = entry.mtime_seconds, .nanoseconds = entry.mtime_nanoseconds});
    return {};
}

Result<> Extraction::create_other(int parent, const std::string& name, const TarEntry& entry) {
    int made = 0;
    if (entry.type == TarType::symlink) {
        made = ::symlinkat(entry.target.c_str(), parent, name.c_str());
    } else {
        const mode_t kind = entry.type == TarType::fifo           ? S_IFIFO
                            : entry.type == TarType::block_device ? S_IFBLK
                                                                  : S_IFCHR;
        const dev_t device = entry.type == TarType::fifo ? 0 : makedev(entry.device_major, entry.device_minor);
        // A device of number 0:0 would be overlayfs' sign of a deleted file.
        if (entry.type == TarType::character_device && device == 0) return fail_errno(EPERM, "make device 0:0");
        made = ::mknodat(parent, name.c_str(), kind | (entry.mode & 0777U), device);
    }
    if (made < 0) return fail_errno("create");
    const FileOwner owner = owner_of(entry);
    if (::fchownat(parent, name.c_str(), owner.uid, owner.gid, AT_SYMLINK_NOFOLLOW) < 0) return fail_errno("set owner");
    // Modes of devices and fifos follow mknod (umask is 0). Setting one by name could follow a symlink put there.
    const auto times = times_of(entry.mtime_seconds, entry.mtime_nanoseconds);
    if (::utimensat(parent, name.c_str(), times.data(), AT_SYMLINK_NOFOLLOW) < 0) return fail_errno("set time");
    return {};
}

Result<> Extraction::create_hard_link(int parent, const std::string& name, const TarEntry& entry) {
    auto target = clean_path(entry.target);
    if (!target || target->empty())
        return fail(Code::invalid_argument, "invalid hardlink -> \"" + entry.target.substr(0, 200) + "\"");
    const Fd folder = TRY(open_in_root(root_, inside(parent_of(*target)), O_PATH | O_DIRECTORY));
    // The link itself is linked where the target is a symlink.
    if (::linkat(folder.get(), base_of(*target).c_str(), parent, name.c_str(), 0) < 0)
        return fail_errno("link to " + inside(*target));
    return {};
}

Result<> Extraction::finish() {
    for (const FolderTime& one : times_) {
        const auto opened = open_in_root(root_, inside(one.path), O_RDONLY | O_DIRECTORY);
        if (!opened) continue;  // replaced by a later entry, or by the container
        const auto times = times_of(one.seconds, one.nanoseconds);
        if (::futimens(opened->get(), times.data()) < 0) return fail_errno("set time of " + inside(one.path));
    }
    return {};
}

}  // namespace wherry::image
