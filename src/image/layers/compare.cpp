#include "image/layers/compare.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "image/layers/descend.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t compare_buffer_bytes = 128U << 10U;

std::unexpected<Error> differs(const std::string& path, const char* how) {
    return fail(Code::data_loss, "/" + path + " was changed: " + how);
}

// Attributes by name. `file` is O_PATH: read by way of its name in /proc.
Result<std::map<std::string, std::string>> xattrs_of(int file, bool symlink) {
    std::map<std::string, std::string> found;
    if (symlink) return found;  // the layers keep none of symlinks that a user could set
    const std::string name = "/proc/self/fd/" + std::to_string(file);
    std::vector<char> list(64U << 10U);
    ssize_t length = ::listxattr(name.c_str(), list.data(), list.size());
    if (length < 0)
        return errno == ENOTSUP ? Result<std::map<std::string, std::string>>(found) : fail_errno("attributes");
    std::vector<char> value(64U << 10U);
    for (std::size_t at = 0; at < static_cast<std::size_t>(length);) {
        const std::string key = list.data() + at;
        at += key.size() + 1;
        ssize_t size = ::getxattr(name.c_str(), key.c_str(), value.data(), value.size());
        if (size < 0) return fail_errno("attribute " + key);
        found[key] = std::string(value.data(), static_cast<std::size_t>(size));
    }
    return found;
}

Result<std::string> target_of(int link) {
    std::array<char, 4096> target{};
    ssize_t length = ::readlinkat(link, "", target.data(), target.size());
    if (length < 0) return fail_errno("read link");
    return std::string(target.data(), static_cast<std::size_t>(length));
}

class Comparison {
  public:
    Comparison(int expected, int actual, const std::function<bool()>& cancelled)
        : expected_(expected), actual_(actual), cancelled_(cancelled) {}

    Result<> run() {
        folders_.emplace_back();
        TRY(entry(""));
        while (!folders_.empty()) {
            const std::string path = std::move(folders_.back());
            folders_.pop_back();
            TRY(folder(path));
        }
        return {};
    }

  private:
    Result<> folder(const std::string& path) {
        const Fd wanted = TRY(open_beneath(expected_, path, O_RDONLY | O_DIRECTORY));
        const Fd found = TRY(open_beneath(actual_, path, O_RDONLY | O_DIRECTORY));
        const std::vector<std::string> wanted_names = TRY(sorted_names(wanted.get()), path);
        const std::vector<std::string> found_names = TRY(sorted_names(found.get()), path);
        const auto inside = [&](const std::string& name) { return path.empty() ? name : path + "/" + name; };
        for (const std::string& name : found_names)
            if (!std::ranges::binary_search(wanted_names, name))
                return differs(inside(name), "the layer has no such file");
        for (const std::string& name : wanted_names) {
            if (!std::ranges::binary_search(found_names, name)) return differs(inside(name), "it is missing");
            TRY(entry(inside(name)));
        }
        return {};
    }

    Result<> entry(const std::string& path) {
        if (cancelled_ && cancelled_()) return fail(Code::cancelled, "cancelled");
        const Fd wanted = TRY(open_beneath(expected_, path, O_PATH));
        const Fd found = TRY(open_beneath(actual_, path, O_PATH));
        struct stat want{};
        struct stat have{};
        if (::fstat(wanted.get(), &want) < 0 || ::fstat(found.get(), &have) < 0) return fail_errno("inspect " + path);
        if ((want.st_mode & S_IFMT) != (have.st_mode & S_IFMT)) return differs(path, "its kind");
        if (!S_ISLNK(want.st_mode) && want.st_mode != have.st_mode) return differs(path, "its mode");
        if (want.st_uid != have.st_uid || want.st_gid != have.st_gid) return differs(path, "its owner");
        if (want.st_rdev != have.st_rdev) return differs(path, "its device");
        if (!S_ISDIR(want.st_mode)) {
            if (want.st_size != have.st_size) return differs(path, "its size");
            if (want.st_nlink > 1 || have.st_nlink > 1) TRY(links(path, want.st_ino, have.st_ino));
        }
        const bool symlink = S_ISLNK(want.st_mode);
        if (symlink && TRY(target_of(wanted.get())) != TRY(target_of(found.get()))) return differs(path, "its target");
        if (TRY(xattrs_of(wanted.get(), symlink), path) != TRY(xattrs_of(found.get(), symlink), path))
            return differs(path, "its attributes");
        if (S_ISREG(want.st_mode)) TRY(content(path, want));
        // A whiteout and a folder that no entry names have the time they were made at.
        if (S_ISREG(want.st_mode) || symlink) {
            if (want.st_mtim.tv_sec != have.st_mtim.tv_sec || want.st_mtim.tv_nsec != have.st_mtim.tv_nsec)
                return differs(path, "its time");
        }
        if (S_ISDIR(want.st_mode) && !path.empty()) folders_.push_back(path);
        return {};
    }

    // Names that are one file there are one file here, and no others. Links from outside of the tree do not count: an
    // adopted layer shares its files with whom it was adopted from.
    Result<> links(const std::string& path, ino_t wanted, ino_t found) {
        const auto partner = actual_of_.try_emplace(wanted, found).first;
        const auto back = expected_of_.try_emplace(found, wanted).first;
        if (partner->second != found || back->second != wanted) return differs(path, "its links");
        return {};
    }

    Result<> content(const std::string& path, const struct stat& status) {
        // Further names of the same file were compared by their links.
        if (status.st_nlink > 1 && !seen_.insert(status.st_ino).second) return {};
        const Fd wanted = TRY(open_beneath(expected_, path, O_RDONLY));
        const Fd found = TRY(open_beneath(actual_, path, O_RDONLY));
        while (true) {
            if (cancelled_ && cancelled_()) return fail(Code::cancelled, "cancelled");
            const ssize_t left = ::read(wanted.get(), left_.data(), left_.size());
            if (left < 0) return fail_errno("read " + path);
            if (left == 0) return {};
            auto other = read_exact(found.get(),
                                    std::as_writable_bytes(std::span(right_)).first(static_cast<std::size_t>(left)));
            if (!other && other.error().code() != Code::data_loss)
                return std::unexpected(std::move(other).error().context("read " + path));
            if (!other || !std::equal(left_.begin(), left_.begin() + left, right_.begin()))
                return differs(path, "its content");
        }
    }

    int expected_;
    int actual_;
    const std::function<bool()>& cancelled_;
    std::vector<std::string> folders_;
    std::set<ino_t> seen_;
    std::map<ino_t, ino_t> actual_of_;    // of files with several names
    std::map<ino_t, ino_t> expected_of_;  // and back
    std::vector<char> left_ = std::vector<char>(compare_buffer_bytes);
    std::vector<char> right_ = std::vector<char>(compare_buffer_bytes);
};

}  // namespace

Result<> compare_trees(int expected, int actual, const std::function<bool()>& cancelled) {
    return Comparison(expected, actual, cancelled).run();
}

}  // namespace wherry::image
