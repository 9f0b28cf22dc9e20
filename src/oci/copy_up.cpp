#include "oci/copy_up.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <string>

#include "base/fd.hpp"

namespace wherry::oci {

namespace {

constexpr int max_depth = 128;

struct CloseDirectory {
    void operator()(DIR* directory) const { ::closedir(directory); }
};

Result<> copy_attributes(int directory, const char* name, const struct stat& info) {
    if (::fchownat(directory, name, info.st_uid, info.st_gid, AT_SYMLINK_NOFOLLOW) < 0 && errno != EPERM)
        return fail_errno("chown");
    if (!S_ISLNK(info.st_mode) && ::fchmodat(directory, name, info.st_mode & 07777U, 0) < 0) return fail_errno("chmod");
    const std::array<timespec, 2> times{info.st_atim, info.st_mtim};
    if (::utimensat(directory, name, times.data(), AT_SYMLINK_NOFOLLOW) < 0) return fail_errno("times");
    return {};
}

Result<> copy_file(int from, int to, const std::string& name) {
    Fd source = TRY(open_at(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
    Fd target = TRY(open_at(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
    for (;;) {
        ssize_t sent = ::sendfile(target.get(), source.get(), nullptr, 1U << 30U);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0) return fail_errno("copy " + name);
        if (sent == 0) return {};
    }
}

Result<> copy_tree(int from, int to, int depth);

Result<> copy_entry(int from, int to, const std::string& name, int depth) {
    struct stat info{};
    if (::fstatat(from, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) < 0) return fail_errno(name);
    switch (info.st_mode & S_IFMT) {
        case S_IFDIR: {
            if (::mkdirat(to, name.c_str(), 0700) < 0) return fail_errno("mkdir " + name);
            Fd below_from = TRY(open_at(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
            Fd below_to = TRY(open_at(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
            TRY(copy_tree(below_from.get(), below_to.get(), depth + 1), name);
            break;
        }
        case S_IFREG:
            TRY(copy_file(from, to, name));
            break;
        case S_IFLNK: {
            std::array<char, 4097> target{};
            ssize_t got = ::readlinkat(from, name.c_str(), target.data(), target.size() - 1);
            if (got < 0 || ::symlinkat(target.data(), to, name.c_str()) < 0) return fail_errno("symlink " + name);
            break;
        }
        case S_IFIFO:
        case S_IFCHR:
        case S_IFBLK:
            if (::mknodat(to, name.c_str(), info.st_mode, info.st_rdev) < 0) return fail_errno("mknod " + name);
            break;
        default:
            return {};
    }
    return copy_attributes(to, name.c_str(), info);
}

Result<> copy_tree(int from, int to, int depth) {
    if (depth > max_depth) return fail(Code::invalid_argument, "directories are nested too deeply");
    Fd listing = TRY(open_at(from, ".", O_RDONLY | O_DIRECTORY));
    std::unique_ptr<DIR, CloseDirectory> directory(::fdopendir(listing.get()));
    if (!directory) return fail_errno("read directory");
    listing.release();
    errno = 0;
    while (const dirent* entry = ::readdir(directory.get())) {
        std::string name = entry->d_name;
        if (name != "." && name != "..") TRY(copy_entry(from, to, name, depth));
        errno = 0;
    }
    if (errno != 0) return fail_errno("read directory");
    return {};
}

}  // namespace

Result<> copy_directory(int from, int to) {
    return copy_tree(from, to, 0);
}

}  // namespace wherry::oci
