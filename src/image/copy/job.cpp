#include "image/copy/job.hpp"

#include <sys/stat.h>

#include <array>
#include <charconv>

#include "base/id.hpp"
#include "image/bytes.hpp"
#include "image/unpack/program.hpp"

namespace wherry::image {

namespace {

constexpr std::array<std::string_view, 4> action_names{"stat", "read", "write", "tree"};
constexpr std::array<std::string_view, 2> root_names{"namespace", "mount"};

// A name as one word of a line: hexadecimal behind an "x", so that it is never empty.
std::string to_word(std::string_view name) {
    return "x" + hex(as_bytes(name));
}

bool from_word(std::string_view word, std::string& name) {
    if (!word.starts_with('x')) return false;
    auto bytes = unhex(word.substr(1));
    if (bytes) name = std::move(*bytes);
    return bytes.has_value();
}

template <class T>
bool parse_number(std::string_view text, T& value) {
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size();
}

std::string_view next_word(std::string_view& line) {
    const std::size_t blank = std::min(line.find(' '), line.size());
    std::string_view word = line.substr(0, blank);
    line.remove_prefix(std::min(blank + 1, line.size()));
    return word;
}

}  // namespace

std::vector<std::string> to_arguments(const CopyJob& job) {
    std::vector<std::string> arguments{"cp",
                                       std::string(action_names[static_cast<std::size_t>(job.action)]),
                                       std::string(root_names[static_cast<std::size_t>(job.root)]),
                                       job.keep_kinds ? "keep" : "replace",
                                       job.owner,
                                       job.path};
    if (job.root_read_only) arguments.insert(arguments.end(), {"root", "ro"});
    for (const std::string& path : job.hidden) {
        arguments.emplace_back("hide");
        arguments.push_back(path);
    }
    for (const CopyMount& mount : job.mounts) {
        arguments.emplace_back(mount.read_only ? "mount-ro" : "mount");
        arguments.push_back(mount.destination);
    }
    return arguments;
}

Result<CopyJob> parse_arguments(const std::vector<std::string_view>& arguments) {
    const auto wrong = [] { return fail(Code::invalid_argument, "not a copy job"); };
    if (arguments.size() < 6 || arguments.size() % 2 != 0 || arguments[0] != "cp") return wrong();
    CopyJob job;
    const auto index_in = [&](const auto& names, std::string_view word, auto& value) {
        for (std::size_t i = 0; i < names.size(); ++i) {
            if (names[i] != word) continue;
            value = static_cast<std::remove_cvref_t<decltype(value)>>(i);
            return true;
        }
        return false;
    };
    if (!index_in(action_names, arguments[1], job.action) || !index_in(root_names, arguments[2], job.root))
        return wrong();
    job.keep_kinds = arguments[3] == "keep";
    job.owner = arguments[4];
    job.path = arguments[5];
    for (std::size_t i = 6; i < arguments.size(); i += 2) {
        if (arguments[i] == "root" && arguments[i + 1] == "ro")
            job.root_read_only = true;
        else if (arguments[i] == "hide")
            job.hidden.emplace_back(arguments[i + 1]);
        else if (arguments[i] == "mount" || arguments[i] == "mount-ro")
            job.mounts.push_back(
                {.destination = std::string(arguments[i + 1]), .read_only = arguments[i] == "mount-ro"});
        else
            return wrong();
    }
    return job;
}

std::string format_stat(const PathStat& stat) {
    return "stat " + to_word(stat.name) + " " + std::to_string(stat.size_bytes) + " " + std::to_string(stat.mode) +
           " " + std::to_string(stat.mtime_seconds) + " " + std::to_string(stat.mtime_nanoseconds) + " " +
           to_word(stat.link_target) + "\n";
}

Result<PathStat> parse_stat(std::string_view line) {
    PathStat stat;
    if (next_word(line) == "stat" && from_word(next_word(line), stat.name) &&
        parse_number(next_word(line), stat.size_bytes) && parse_number(next_word(line), stat.mode) &&
        parse_number(next_word(line), stat.mtime_seconds) && parse_number(next_word(line), stat.mtime_nanoseconds) &&
        stat.mtime_nanoseconds < 1'000'000'000U && from_word(next_word(line), stat.link_target) && line.empty()) {
        return stat;
    }
    return fail(Code::internal, "wherry-unpack reported nonsense");
}

Error parse_copy_error(std::string_view line) {
    auto parsed = parse_report(line);
    if (parsed) return {Code::internal, "wherry-unpack reported nonsense"};
    return std::move(parsed).error();
}

std::uint32_t go_file_mode(std::uint32_t mode) {
    std::uint32_t go = mode & 0777U;
    switch (mode & S_IFMT) {
        case S_IFDIR:
            go |= 1U << 31U;
            break;
        case S_IFLNK:
            go |= 1U << 27U;
            break;
        case S_IFBLK:
            go |= 1U << 26U;
            break;
        case S_IFIFO:
            go |= 1U << 25U;
            break;
        case S_IFSOCK:
            go |= 1U << 24U;
            break;
        case S_IFCHR:
            go |= (1U << 26U) | (1U << 21U);
            break;
        default:
            break;
    }
    if ((mode & S_ISUID) != 0) go |= 1U << 23U;
    if ((mode & S_ISGID) != 0) go |= 1U << 22U;
    if ((mode & S_ISVTX) != 0) go |= 1U << 20U;
    return go;
}

}  // namespace wherry::image
