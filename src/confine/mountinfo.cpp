#include "confine/mountinfo.hpp"

#include <algorithm>

#include "confine/cgroup_internal.hpp"

namespace wherry::confine {

namespace {

// The kernel writes blanks, tabs, newlines and backslashes in mountinfo as three octal digits.
std::string unescape(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 3 < text.size()) {
            auto digit = [&](std::size_t at) { return static_cast<unsigned>(text[at] - '0'); };
            if (digit(i + 1) < 4 && digit(i + 2) < 8 && digit(i + 3) < 8) {
                out += static_cast<char>(digit(i + 1) * 64 + digit(i + 2) * 8 + digit(i + 3));
                i += 3;
                continue;
            }
        }
        out += text[i];
    }
    return out;
}

}  // namespace

std::vector<MountedFileSystem> find_mounts(std::string_view mountinfo, std::initializer_list<std::string_view> types) {
    std::vector<MountedFileSystem> out;
    for (std::string_view line : cgroup_detail::split(mountinfo, '\n')) {
        auto dash = line.find(" - ");
        if (dash == std::string_view::npos) continue;
        auto before = cgroup_detail::split(line.substr(0, dash), ' ');
        auto after = cgroup_detail::split(line.substr(dash + 3), ' ');
        if (before.size() < 5 || after.empty() || !cgroup_detail::contains(types, after[0])) continue;
        MountedFileSystem mounted{.type = std::string(after[0]),
                                  .root = unescape(before[3]),
                                  .mount_point = unescape(before[4]),
                                  .options = {}};
        if (after.size() > 2)
            for (std::string_view option : cgroup_detail::split(after[2], ',')) mounted.options.emplace_back(option);
        out.push_back(std::move(mounted));
    }
    return out;
}

}  // namespace wherry::confine
