#include "image/unpack/unpacker.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "image/tar/content.hpp"

namespace wherry::image {

namespace {

constexpr int max_symlinks = 40;  // as the kernel counts
constexpr std::size_t times_buffer_bytes = 64U << 10U;

std::string_view parent_of(std::string_view path) {
    std::size_t slash = path.rfind('/');
    return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

std::string base_of(std::string_view path) {
    std::size_t slash = path.rfind('/');
    return std::string(slash == std::string_view::npos ? path : path.substr(slash + 1));
}

std::string join(std::string_view folder, std::string_view name) {
    return folder.empty() ? std::string(name) : std::string(folder) + "/" + std::string(name);
}

std::array<timespec, 2> times_of(std::int64_t seconds, std::uint32_t nanoseconds) {
    timespec keep{};
    keep.tv_nsec = UTIME_OMIT;
    timespec modified{};
    modified.tv_sec = seconds;
    modified.tv_nsec = static_cast<long>(nanoseconds);
    return {keep, modified};
}

bool is_whiteout(const struct stat& status) {
    return S_ISCHR(status.st_mode) && status.st_rdev == 0;
}

// File systems without extended attributes lose those that only inform; a lost capability would be a broken image.
bool may_be_lost(std::string_view name, int error) {
    return error == ENOTSUP && name != "security.capability";
}

Result<> set_xattrs(int file, const std::string& path, const TarEntry& entry) {
    for (const auto& [name, value] : entry.xattrs) {
        if (!accepts_xattr(name)) continue;
        if (::fsetxattr(file, name.c_str(), value.data(), value.size(), 0) < 0 && !may_be_lost(name, errno)) {
            return fail_errno("set " + name + " of " + path);
        }
    }
    return {};
}

}  // namespace

Result<Unpacker> Unpacker::create(int workspace, RecipeWriter& recipe, std::uint64_t max_entries) {
    Unpacker unpacker(recipe, max_entries);
    unpacker.root_ = TRY(open_at(workspace, "diff", O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    unpacker.replaced_ = TRY(open_at(workspace, "replaced", O_PATH | O_DIRECTORY | O_NOFOLLOW));
    unpacker.opaque_ = TRY(open_at(workspace, "opaque", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
    unpacker.directory_times_ = TRY(open_at(workspace, ".", O_TMPFILE | O_RDWR, 0600));
    return unpacker;
}

// `path` without symlinks in it; "" is the root. ELOOP when there is one.
Result<Fd> Unpacker::open_beneath(const std::string& path, int flags) const {
    open_how how{};
    how.flags = static_cast<unsigned>(flags | O_CLOEXEC | O_NOFOLLOW);
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
    const char* name = path.empty() ? "." : path.c_str();
    int fd = static_cast<int>(::syscall(SYS_openat2, root_.get(), name, &how, sizeof(how)));
    if (fd < 0) return fail_errno("open " + path);
    return Fd(fd);
}

// Follows the archive's symlinks as a process chrooted into the root would, and makes missing folders.
Result<std::string> Unpacker::resolve(std::string_view path, Missing missing) const {
    std::string done;
    std::string left(path);
    int links = 0;
    while (!left.empty()) {
        std::size_t slash = left.find('/');
        std::string part = left.substr(0, slash);
        left.erase(0, slash == std::string::npos ? left.size() : slash + 1);
        if (part.empty() || part == ".") continue;
        if (part == "..") {  // from a symlink's target; above the root is the root
            done = parent_of(done);
            continue;
        }
        Fd folder = TRY(open_beneath(done, O_PATH | O_DIRECTORY));
        struct stat status{};
        if (::fstatat(folder.get(), part.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0) {
            if (errno != ENOENT || missing == Missing::fail) return fail_errno("find " + join(done, part));
            if (::mkdirat(folder.get(), part.c_str(), 0755) < 0) return fail_errno("make folder " + join(done, part));
        } else if (S_ISLNK(status.st_mode)) {
            if (++links > max_symlinks) return fail_errno(ELOOP, "find " + std::string(path));
            std::array<char, 4096> target{};
            ssize_t length = ::readlinkat(folder.get(), part.c_str(), target.data(), target.size());
            if (length < 0) return fail_errno("read link " + join(done, part));
            std::string_view text(target.data(), static_cast<std::size_t>(length));
            if (text.starts_with('/')) done.clear();
            left = std::string(text) + (left.empty() ? "" : "/" + left);
            if (left.size() > 2 * target.size()) return fail_errno(ENAMETOOLONG, "find " + std::string(path));
            continue;
        } else if (is_whiteout(status) && missing == Missing::create) {
            // Deleted and made again by this layer: nothing of the lower layers shows in it.
            if (::unlinkat(folder.get(), part.c_str(), 0) < 0) return fail_errno("remove " + join(done, part));
            if (::mkdirat(folder.get(), part.c_str(), 0755) < 0) return fail_errno("make folder " + join(done, part));
            std::string marked = join(done, part);
            TRY(write_all(opaque_.get(), std::string_view(marked.c_str(), marked.size() + 1)), "note opaque folder");
        } else if (!S_ISDIR(status.st_mode)) {
            return fail_errno(ENOTDIR, "find " + join(done, part));
        }
        done = join(done, part);
    }
    return done;
}

Result<Unpacker::Folder> Unpacker::folder(std::string_view path, Missing missing) {
    if (cached_valid_ && cached_request_ == path) return cached_;
    std::string found(path);
    auto opened = open_beneath(found, O_PATH | O_DIRECTORY);
    if (!opened) {
        found = TRY(resolve(path, missing));
        opened = TRY(open_beneath(found, O_PATH | O_DIRECTORY));
    }
    cached_fd_ = std::move(*opened);
    cached_request_ = path;
    cached_valid_ = true;
    cached_ = {std::move(found), cached_fd_.get()};
    return cached_;
}

// Keeps what the recipe refers to: earlier entries' content that a later entry of the same name takes the place of.
Result<> Unpacker::set_aside(const Folder& parent, const std::string& name, bool directory) {
    std::string path = join(parent.path, name);
    if (directory && ::unlinkat(parent.fd, name.c_str(), AT_REMOVEDIR) == 0) return {};
    std::string number = std::to_string(replaced_count_);
    if (::renameat(parent.fd, name.c_str(), replaced_.get(), number.c_str()) < 0) return fail_errno("replace " + path);
    TRY(recipe_->replaced(path, replaced_count_));
    ++replaced_count_;
    return {};
}

// What stands at `name` gives way to a new entry (nullptr: a link or special file). Folders stay for folders.
Result<> Unpacker::make_way(const Folder& parent, const std::string& name, const TarEntry* entry) {
    struct stat status{};
    if (::fstatat(parent.fd, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0) {
        return errno == ENOENT ? Result<>() : fail_errno("find " + join(parent.path, name));
    }
    bool new_directory = entry != nullptr && entry->type == TarType::directory;
    if (S_ISDIR(status.st_mode) && new_directory) return {};
    cached_valid_ = false;  // the way to it may have led over what goes; parent.fd stays open until the next folder()
    if (S_ISDIR(status.st_mode) || S_ISREG(status.st_mode)) return set_aside(parent, name, S_ISDIR(status.st_mode));
    if (::unlinkat(parent.fd, name.c_str(), 0) < 0) return fail_errno("replace " + join(parent.path, name));
    if (is_whiteout(status) && new_directory) TRY(mark_opaque(join(parent.path, name)));
    return {};
}

Result<> Unpacker::mark_opaque(std::string_view path) {
    std::string text(path);
    return write_all(opaque_.get(), std::string_view(text.c_str(), text.size() + 1));
}

Result<> Unpacker::apply(const TarEntry& entry, TarReader& reader) {
    if (++totals_.entries > max_entries_) {
        return fail(Code::resource_exhausted, "layer has more than " + std::to_string(max_entries_) + " entries");
    }
    Plan plan = TRY(plan_entry(entry));
    switch (plan.kind) {
        case PlanKind::ignore:
            return {};
        case PlanKind::root:
            return directory_attributes(root_.get(), "", entry);
        case PlanKind::opaque: {
            Folder at = TRY(folder(plan.path, Missing::create), "opaque folder " + plan.path);
            return mark_opaque(at.path);
        }
        case PlanKind::whiteout:
            return whiteout(plan);
        case PlanKind::create:
            return create(plan, entry, reader);
    }
    return {};
}

Result<> Unpacker::whiteout(const Plan& plan) {
    Folder parent = TRY(folder(parent_of(plan.path), Missing::create), "whiteout of " + plan.path);
    std::string name = base_of(plan.path);
    if (::mknodat(parent.fd, name.c_str(), S_IFCHR, makedev(0, 0)) == 0) return {};
    if (errno != EEXIST) return fail_errno("whiteout of " + plan.path);
    // A whiteout concerns lower layers only: what this layer itself brought stays, with nothing showing through.
    struct stat status{};
    if (::fstatat(parent.fd, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0)
        return fail_errno("whiteout of " + plan.path);
    if (S_ISDIR(status.st_mode)) TRY(mark_opaque(join(parent.path, name)));
    return {};
}

Result<> Unpacker::create(const Plan& plan, const TarEntry& entry, TarReader& reader) {
    std::string what = "unpack " + plan.path;
    Folder parent = TRY(folder(parent_of(plan.path), Missing::create), what);
    std::string name = base_of(plan.path);
    switch (entry.type) {
        case TarType::regular:
            TRY(create_file(parent, name, entry, reader), what);
            break;
        case TarType::directory:
            TRY(create_directory(parent, name, entry), what);
            break;
        case TarType::hard_link:
            TRY(create_hard_link(parent, name, plan), what);
            break;
        case TarType::symlink:
        case TarType::character_device:
        case TarType::block_device:
        case TarType::fifo:
            TRY(create_special(parent, name, plan, entry), what);
            break;
    }
    return {};
}

Result<> Unpacker::create_file(const Folder& parent, const std::string& name, const TarEntry& entry,
                               TarReader& reader) {
    constexpr int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    Fd file(::openat(parent.fd, name.c_str(), flags, entry.mode & 0777U));
    if (!file && errno == EEXIST) {
        TRY(make_way(parent, name, &entry));
        file = Fd(::openat(parent.fd, name.c_str(), flags, entry.mode & 0777U));
    }
    if (!file) return fail_errno("create");
    if (entry.stored_bytes > 0) TRY(recipe_->file(join(parent.path, name), entry.stored_bytes, entry.extents));
    TRY(write_content(file.get(), entry, reader));
    if (::fchown(file.get(), entry.uid, entry.gid) < 0) return fail_errno("set owner");
    // The owner's change drops these bits, so they come after it; and so do capabilities.
    if ((entry.mode & 07000U) != 0 && ::fchmod(file.get(), entry.mode) < 0) return fail_errno("set mode");
    if (!entry.xattrs.empty()) TRY(set_xattrs(file.get(), name, entry));
    auto times = times_of(entry.mtime_seconds, entry.mtime_nanoseconds);
    if (::futimens(file.get(), times.data()) < 0) return fail_errno("set time");
    totals_.size_bytes += entry.stored_bytes;
    return {};
}

Result<> Unpacker::create_directory(const Folder& parent, const std::string& name, const TarEntry& entry) {
    if (::mkdirat(parent.fd, name.c_str(), entry.mode & 01777U) < 0) {
        if (errno != EEXIST) return fail_errno("make folder");
        TRY(make_way(parent, name, &entry));
        if (::mkdirat(parent.fd, name.c_str(), entry.mode & 01777U) < 0 && errno != EEXIST)
            return fail_errno("make folder");
    }
    Fd directory(::openat(parent.fd, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!directory) return fail_errno("open folder");
    return directory_attributes(directory.get(), join(parent.path, name), entry);
}

// Times of folders are restored at the end: what is made in them changes them. They are noted in a file, so that an
// archive of millions of folders costs no memory: "<seconds> <nanoseconds> <path>\0".
Result<> Unpacker::directory_attributes(int directory, const std::string& path, const TarEntry& entry) {
    if (::fchown(directory, entry.uid, entry.gid) < 0) return fail_errno("set owner");
    if (::fchmod(directory, entry.mode) < 0) return fail_errno("set mode");
    if (!entry.xattrs.empty()) TRY(set_xattrs(directory, path, entry));
    pending_times_ += std::to_string(entry.mtime_seconds) + " " + std::to_string(entry.mtime_nanoseconds) + " " + path;
    pending_times_ += '\0';
    if (pending_times_.size() >= times_buffer_bytes) {
        TRY(write_all(directory_times_.get(), pending_times_), "note folder times");
        pending_times_.clear();
    }
    return {};
}

Result<> Unpacker::create_special(const Folder& parent, const std::string& name, const Plan& plan,
                                  const TarEntry& entry) {
    auto make = [&] {
        if (entry.type == TarType::symlink) return ::symlinkat(entry.target.c_str(), parent.fd, name.c_str());
        mode_t kind = entry.type == TarType::fifo ? S_IFIFO : entry.type == TarType::block_device ? S_IFBLK : S_IFCHR;
        dev_t device = entry.type == TarType::fifo ? 0 : makedev(entry.device_major, entry.device_minor);
        return ::mknodat(parent.fd, name.c_str(), kind | (entry.mode & 0777U), device);
    };
    if (make() < 0) {
        if (errno != EEXIST) return fail_errno("create");
        TRY(make_way(parent, name, nullptr));
        if (make() < 0) return fail_errno("create");
    }
    if (::fchownat(parent.fd, name.c_str(), entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) < 0)
        return fail_errno("set owner");
    if (entry.type != TarType::symlink && (entry.mode & 07000U) != 0 &&
        ::fchmodat(parent.fd, name.c_str(), entry.mode, 0) < 0) {
        return fail_errno("set mode");
    }
    if (!entry.xattrs.empty()) {
        // Only by name, and there is no /proc here to name a descriptor with. Nothing else uses the working directory.
        if (::fchdir(parent.fd) < 0) return fail_errno("enter folder");
        for (const auto& [key, value] : entry.xattrs) {
            if (!accepts_xattr(key) || key.starts_with("user."))
                continue;  // the kernel has user.* on files and folders only
            if (::lsetxattr(name.c_str(), key.c_str(), value.data(), value.size(), 0) < 0 && !may_be_lost(key, errno)) {
                return fail_errno("set " + key + " of " + plan.path);
            }
        }
    }
    auto times = times_of(entry.mtime_seconds, entry.mtime_nanoseconds);
    if (::utimensat(parent.fd, name.c_str(), times.data(), AT_SYMLINK_NOFOLLOW) < 0) return fail_errno("set time");
    return {};
}

Result<> Unpacker::create_hard_link(const Folder& parent, const std::string& name, const Plan& plan) {
    std::string target_folder = TRY(resolve(parent_of(plan.target), Missing::fail), "link to " + plan.target);
    Fd from = TRY(open_beneath(target_folder, O_PATH | O_DIRECTORY), "link to " + plan.target);
    std::string target = base_of(plan.target);
    struct stat status{};
    if (::fstatat(from.get(), target.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0)
        return fail_errno("link to " + plan.target);
    if (S_ISDIR(status.st_mode)) return fail(Code::invalid_argument, "hard link to a folder: " + plan.target);
    if (::linkat(from.get(), target.c_str(), parent.fd, name.c_str(), 0) == 0) return {};
    if (errno != EEXIST) return fail_errno("link to " + plan.target);
    struct stat present{};
    if (::fstatat(parent.fd, name.c_str(), &present, AT_SYMLINK_NOFOLLOW) < 0)
        return fail_errno("link to " + plan.target);
    if (present.st_ino == status.st_ino && present.st_dev == status.st_dev) return {};  // it is that file already
    if (S_ISDIR(present.st_mode) && (join(target_folder, target) + "/").starts_with(join(parent.path, name) + "/")) {
        return fail(Code::invalid_argument, "hard link takes the place of a folder above its target: " + plan.target);
    }
    TRY(make_way(parent, name, nullptr));
    if (::linkat(from.get(), target.c_str(), parent.fd, name.c_str(), 0) < 0)
        return fail_errno("link to " + plan.target);
    return {};
}

Result<> Unpacker::restore_directory_times() {
    TRY(write_all(directory_times_.get(), pending_times_), "note folder times");
    if (::lseek(directory_times_.get(), 0, SEEK_SET) < 0) return fail_errno("rewind folder times");
    std::string buffer;
    std::vector<char> chunk(times_buffer_bytes);
    for (;;) {
        ssize_t count = ::read(directory_times_.get(), chunk.data(), chunk.size());
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return fail_errno("read folder times");
        if (count == 0) return {};
        buffer.append(chunk.data(), static_cast<std::size_t>(count));
        std::size_t start = 0;
        for (std::size_t end = buffer.find('\0'); end != std::string::npos; end = buffer.find('\0', start)) {
            std::size_t first = buffer.find(' ', start);
            std::size_t second = buffer.find(' ', first + 1);
            std::string path = buffer.substr(second + 1, end - second - 1);
            auto times = times_of(std::strtoll(buffer.c_str() + start, nullptr, 10),
                                  static_cast<std::uint32_t>(std::strtoul(buffer.c_str() + first, nullptr, 10)));
            start = end + 1;
            auto directory = open_beneath(path, O_RDONLY | O_DIRECTORY);
            if (!directory) continue;  // replaced by something else since
            if (::futimens(directory->get(), times.data()) < 0) return fail_errno("set time of " + path);
        }
        buffer.erase(0, start);
    }
}

Result<Unpacker::Totals> Unpacker::finish() {
    TRY(restore_directory_times());
    return totals_;
}

}  // namespace wherry::image
