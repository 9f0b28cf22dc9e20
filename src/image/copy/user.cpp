#include "image/copy/user.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <charconv>
#include <optional>
#include <string>

#include "base/fd.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t max_file_bytes = 4U << 20U;
constexpr std::size_t max_fields = 7;

std::optional<std::uint32_t> number(std::string_view text) {
    std::uint32_t value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size() || value > 0x7fffffffU)
        return std::nullopt;
    return value;
}

using Fields = std::array<std::string_view, max_fields>;

// Calls test(fields) for every line of colon-separated fields until it returns true.
template <class Test>
bool any_line(std::string_view text, Test test) {
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        Fields fields;
        for (std::string_view& field : fields) {
            const std::size_t colon = std::min(line.find(':'), line.size());
            field = line.substr(0, colon);
            line.remove_prefix(std::min(colon + 1, line.size()));
        }
        if (test(fields)) return true;
    }
    return false;
}

// What is no regular file (a fifo that would block, say) or is too large counts as not there.
Result<std::string> read_small(int root, const std::string& path) {
    auto file = open_in_root(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (!file) {
        if (file.error().code() == Code::not_found) return std::string();
        return std::unexpected(std::move(file).error());
    }
    struct stat status{};
    if (::fstat(file->get(), &status) < 0) return fail_errno("stat " + path);
    if (!S_ISREG(status.st_mode)) return std::string();
    return read_to_end(file->get(), max_file_bytes);
}

}  // namespace

Result<FileOwner> find_owner_in(std::string_view passwd, std::string_view group, std::string_view user) {
    const std::size_t colon = user.find(':');
    const std::string_view name = user.substr(0, colon);
    FileOwner owner;
    const auto uid = number(name);
    const bool known = any_line(passwd, [&](const Fields& fields) {
        const auto id = number(fields[2]);
        const auto primary = number(fields[3]);
        if (!id || !primary || (fields[0] != name && (!uid || *id != *uid))) return false;
        owner = {.uid = *id, .gid = *primary};
        return true;
    });
    if (!known) {
        if (!uid) return fail(Code::invalid_argument, "unable to find user " + std::string(name));
        owner.uid = *uid;
    }
    if (colon == std::string_view::npos) return owner;
    const std::string_view wanted = user.substr(colon + 1);
    if (wanted.empty()) return owner;
    const auto gid = number(wanted);
    const bool found = any_line(group, [&](const Fields& fields) {
        const auto id = number(fields[2]);
        if (!id || fields[0] != wanted) return false;
        owner.gid = *id;
        return true;
    });
    if (!found) {
        if (!gid) return fail(Code::invalid_argument, "unable to find group " + std::string(wanted));
        owner.gid = *gid;
    }
    return owner;
}

Result<FileOwner> find_owner(int root, std::string_view user) {
    const std::string passwd = TRY(read_small(root, "/etc/passwd"));
    const std::string group = TRY(read_small(root, "/etc/group"));
    return find_owner_in(passwd, group, user);
}

}  // namespace wherry::image
