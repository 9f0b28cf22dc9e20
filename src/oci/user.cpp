#include "oci/user.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>

#include "base/fd.hpp"

namespace wherry::oci {

namespace {

constexpr std::size_t database_limit = 16U << 20U;
constexpr std::uint32_t largest_id = 0x7fffffff;  // Docker's limit; -1 means "leave alone" to setresuid

// "a:b:c" -> the fields as views.
std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> fields;
    std::size_t at = 0;
    for (;;) {
        std::size_t end = text.find(separator, at);
        fields.push_back(text.substr(at, end == std::string_view::npos ? end : end - at));
        if (end == std::string_view::npos) return fields;
        at = end + 1;
    }
}

std::optional<std::uint64_t> number(std::string_view text) {
    if (text.empty() || text.size() > 10) return std::nullopt;
    std::uint64_t value = 0;
    for (char digit : text) {
        if (digit < '0' || digit > '9') return std::nullopt;
        value = value * 10 + static_cast<std::uint64_t>(digit - '0');
    }
    return value;
}

struct PasswdEntry {
    std::string name;
    uid_t uid = 0;
    gid_t gid = 0;
    std::string home;
};

template <class Visit>  // Visit(fields) -> true to stop
void each_line(std::string_view text, Visit visit) {
    while (!text.empty()) {
        std::size_t end = text.find('\n');
        std::string_view line = text.substr(0, end);
        if (!line.empty() && line.front() != '#' && visit(split(line, ':'))) return;
        if (end == std::string_view::npos) return;
        text.remove_prefix(end + 1);
    }
}

// A name wins over a number, as with Docker: a user may be called "1000".
std::optional<PasswdEntry> find_user(std::string_view passwd, std::string_view who) {
    std::optional<PasswdEntry> by_name, by_number;
    auto wanted = number(who);
    each_line(passwd, [&](const std::vector<std::string_view>& fields) {
        if (fields.size() < 4) return false;
        auto uid = number(fields[2]);
        auto gid = number(fields[3]);
        if (!uid || !gid || *uid > largest_id || *gid > largest_id) return false;
        bool named = fields[0] == who;
        if (!named && (by_number || !wanted || *uid != *wanted)) return false;
        PasswdEntry entry{std::string(fields[0]), static_cast<uid_t>(*uid), static_cast<gid_t>(*gid),
                          fields.size() > 5 ? std::string(fields[5]) : std::string()};
        (named ? by_name : by_number) = std::move(entry);
        return named;
    });
    return by_name ? by_name : by_number;
}

std::optional<gid_t> find_group(std::string_view group, std::string_view who) {
    std::optional<gid_t> by_name, by_number;
    auto wanted = number(who);
    each_line(group, [&](const std::vector<std::string_view>& fields) {
        if (fields.size() < 3) return false;
        auto gid = number(fields[2]);
        if (!gid || *gid > largest_id) return false;
        if (fields[0] == who) {
            by_name = static_cast<gid_t>(*gid);
            return true;
        }
        if (wanted && *wanted == *gid) by_number = static_cast<gid_t>(*gid);
        return false;
    });
    return by_name ? by_name : by_number;
}

Result<gid_t> group_id(std::string_view group, std::string_view who) {
    if (auto gid = find_group(group, who)) return *gid;
    if (auto gid = number(who)) {
        if (*gid > largest_id) return fail(Code::invalid_argument, "uids and gids must be in range 0-2147483647");
        return static_cast<gid_t>(*gid);
    }
    return fail(Code::not_found, "unable to find group " + std::string(who) + ": no matching entries in group file");
}

Result<std::string> read_database(int root, const std::string& path) {
    auto file = open_in_root(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (!file) {
        int problem = file.error().os_errno();
        if (problem == ENOENT || problem == ENOTDIR || problem == ELOOP) return std::string();
        return std::unexpected<Error>(std::move(file).error());
    }
    struct stat info{};
    if (::fstat(file->get(), &info) < 0) return fail_errno(path);
    if (!S_ISREG(info.st_mode)) return std::string();
    return read_to_end(file->get(), database_limit);
}

}  // namespace

Result<ResolvedUser> resolve_user_in(std::string_view passwd, std::string_view group, std::string_view specification,
                                     std::span<const std::string> extra_groups) {
    ResolvedUser resolved;
    std::size_t colon = specification.find(':');
    std::string_view user_part = specification.substr(0, colon);
    std::string_view group_part =
        colon == std::string_view::npos ? std::string_view() : specification.substr(colon + 1);

    std::string_view wanted = user_part.empty() ? std::string_view("0") : user_part;
    if (auto entry = find_user(passwd, wanted)) {
        resolved.user.uid = entry->uid;
        resolved.user.gid = entry->gid;
        resolved.home = std::move(entry->home);
        resolved.name = std::move(entry->name);
    } else {
        auto uid = number(wanted);
        if (!uid)
            return fail(Code::not_found,
                        "unable to find user " + std::string(wanted) + ": no matching entries in passwd file");
        if (*uid > largest_id) return fail(Code::invalid_argument, "uids and gids must be in range 0-2147483647");
        resolved.user.uid = static_cast<uid_t>(*uid);
    }
    if (resolved.home.empty()) resolved.home = "/";

    auto add = [&](gid_t gid) {
        auto& gids = resolved.user.additional_gids;
        if (std::ranges::find(gids, gid) == gids.end()) gids.push_back(gid);
    };
    if (!group_part.empty()) {
        // With an explicit group the memberships of /etc/group do not count, says Docker.
        resolved.user.gid = TRY(group_id(group, group_part));
    } else if (!resolved.name.empty()) {
        each_line(group, [&](const std::vector<std::string_view>& fields) {
            if (fields.size() < 4) return false;
            auto gid = number(fields[2]);
            if (!gid || *gid > largest_id) return false;
            for (std::string_view member : split(fields[3], ',')) {
                if (member == resolved.name) add(static_cast<gid_t>(*gid));
            }
            return false;
        });
    }
    for (const std::string& name : extra_groups) {
        gid_t gid = TRY(group_id(group, name));
        add(gid);
    }
    return resolved;
}

Result<ResolvedUser> resolve_user(int root, std::string_view specification, std::span<const std::string> extra_groups) {
    std::string passwd = TRY(read_database(root, "etc/passwd"), "/etc/passwd");
    std::string group = TRY(read_database(root, "etc/group"), "/etc/group");
    return resolve_user_in(passwd, group, specification, extra_groups);
}

}  // namespace wherry::oci
