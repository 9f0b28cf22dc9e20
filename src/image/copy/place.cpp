#include "image/copy/place.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace wherry::image {

namespace {

constexpr int max_symlinks = 40;  // as the kernel counts
constexpr std::size_t longest_path_bytes = 4095;

bool names_itself(std::string_view path) {  // "x/." or "."
    return path == "." || path.ends_with("/.");
}

void append_part(std::string& path, std::string_view part) {
    if (!path.ends_with('/')) path += '/';
    path += part;
}

void remove_last(std::string& path) {
    const std::size_t slash = path.rfind('/');
    path.resize(slash == 0 || slash == std::string::npos ? 1 : slash);
}

Result<std::string> read_link(int folder, const std::string& name) {
    std::array<char, 4096> target{};
    const ssize_t length = ::readlinkat(folder, name.c_str(), target.data(), target.size());
    if (length < 0) return fail_errno("read link " + name);
    return std::string(target.data(), static_cast<std::size_t>(length));
}

}  // namespace

std::string absolute_place(std::string_view path) {
    std::string clean = "/";
    for (std::string_view left = path; !left.empty();) {
        const std::size_t slash = std::min(left.find('/'), left.size());
        const std::string_view part = left.substr(0, slash);
        left.remove_prefix(std::min(slash + 1, left.size()));
        if (part.empty() || part == ".") continue;
        if (part == "..")
            remove_last(clean);
        else
            append_part(clean, part);
    }
    if (names_itself(path)) {
        append_part(clean, ".");
    } else if (path.ends_with('/') && !clean.ends_with('/')) {
        clean += '/';
    }
    return clean;
}

std::string place_name(std::string_view absolute) {
    while (absolute.size() > 1 && absolute.ends_with('/')) absolute.remove_suffix(1);
    if (absolute == "/") return "/";
    return std::string(absolute.substr(absolute.rfind('/') + 1));
}

Result<std::string> evaluate_place(int root, std::string_view absolute) {
    std::string done = "/";
    std::string left(absolute);
    int links = 0;
    while (!left.empty()) {
        const std::size_t slash = std::min(left.find('/'), left.size());
        const std::string part = left.substr(0, slash);
        left.erase(0, std::min(slash + 1, left.size()));
        if (part.empty() || part == ".") continue;
        if (part == "..") {
            remove_last(done);
            continue;
        }
        struct stat status{};
        auto folder = open_in_root(root, done, O_PATH | O_DIRECTORY);
        if (folder && ::fstatat(folder->get(), part.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISLNK(status.st_mode)) {
            if (++links > max_symlinks) return fail_errno(ELOOP, "find " + std::string(absolute));
            const auto target = read_link(folder->get(), part);
            if (target) {
                if (target->starts_with('/')) done = "/";
                left = *target + (left.empty() ? "" : "/" + left);
                if (left.size() > 2 * longest_path_bytes)
                    return fail_errno(ENAMETOOLONG, "find " + std::string(absolute));
                continue;
            }
        }
        append_part(done, part);
    }
    return done;
}

Result<Place> find_place(int root, std::string_view absolute) {
    Place place;
    place.name = place_name(absolute);
    if (absolute.ends_with('/') || names_itself(absolute)) {
        place.folder = TRY(open_in_root(root, std::string(absolute), O_PATH | O_DIRECTORY));
        if (::fstat(place.folder.get(), &place.status) < 0) return fail_errno("stat " + std::string(absolute));
        return place;
    }
    const std::size_t slash = absolute.rfind('/');
    place.entry = absolute.substr(slash + 1);
    place.folder = TRY(open_in_root(root, std::string(absolute.substr(0, slash + 1)), O_PATH | O_DIRECTORY));
    if (::fstatat(place.folder.get(), place.entry.c_str(), &place.status, AT_SYMLINK_NOFOLLOW) < 0)
        return fail_errno("stat " + std::string(absolute));
    if (S_ISDIR(place.status.st_mode)) {
        // A folder may be where something is mounted: opened through the root, not beside it.
        place.folder = TRY(open_in_root(root, std::string(absolute) + "/", O_PATH | O_DIRECTORY));
        place.entry.clear();
        if (::fstat(place.folder.get(), &place.status) < 0) return fail_errno("stat " + std::string(absolute));
    }
    return place;
}

Result<PathStat> describe_place(int root, std::string_view absolute, const Place& place) {
    PathStat stat;
    stat.name = place.name;
    stat.size_bytes = place.status.st_size;
    stat.mode = go_file_mode(place.status.st_mode);
    stat.mtime_seconds = place.status.st_mtim.tv_sec;
    stat.mtime_nanoseconds = static_cast<std::uint32_t>(place.status.st_mtim.tv_nsec);
    if (S_ISLNK(place.status.st_mode)) stat.link_target = TRY(evaluate_place(root, absolute));
    return stat;
}

}  // namespace wherry::image
