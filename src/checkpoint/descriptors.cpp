#include "checkpoint/descriptors.hpp"

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/fd.hpp"
#include "base/json.hpp"

namespace wherry::checkpoint {

namespace {

constexpr std::size_t procfs_limit = 16U << 20U;

std::string read_link(const std::string& path) {
    std::array<char, 4096> target{};
    ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
    return length <= 0 ? std::string() : std::string(target.data(), static_cast<std::size_t>(length));
}

std::string hexadecimal(unsigned long value) {
    std::array<char, 16> digits{};
    auto [end, problem] = std::to_chars(digits.data(), digits.data() + digits.size(), value, 16);
    return {digits.data(), end};
}

// The line "mnt_id:\t25" of /proc/<pid>/fdinfo.
std::optional<unsigned> mount_of(const std::string& process, int fd) {
    auto text = read_file(process + "/fdinfo/" + std::to_string(fd), procfs_limit);
    if (!text) return std::nullopt;
    constexpr std::string_view name = "mnt_id:\t";
    std::size_t at = text->find(name);
    if (at == std::string::npos) return std::nullopt;
    unsigned mount = 0;
    const char* begin = text->data() + at + name.size();
    if (std::from_chars(begin, text->data() + text->size(), mount).ec != std::errc()) return std::nullopt;
    return mount;
}

// Each line of mountinfo begins with the mount's number.
bool has_mount(std::string_view mountinfo, unsigned mount) {
    std::string start = std::to_string(mount) + " ";
    return mountinfo.starts_with(start) || mountinfo.find("\n" + start) != std::string_view::npos;
}

bool all_of_kind(std::string_view text, bool (*kind)(char)) {
    return !text.empty() && text.size() <= 16 && std::ranges::all_of(text, kind);
}

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

bool is_hexadecimal(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f');
}

}  // namespace

bool is_file(std::string_view stream) {
    if (!stream.starts_with("file[") || !stream.ends_with("]")) return false;
    std::string_view inside = stream.substr(5, stream.size() - 6);
    auto colon = inside.find(':');
    return colon != std::string_view::npos && all_of_kind(inside.substr(0, colon), is_hexadecimal) &&
           all_of_kind(inside.substr(colon + 1), is_hexadecimal);
}

bool is_replaceable(std::string_view stream) {
    if (is_file(stream)) return true;
    return stream.starts_with("pipe:[") && stream.ends_with("]") &&
           all_of_kind(stream.substr(6, stream.size() - 7), is_digit);
}

Result<StandardStreams> standard_streams_of(pid_t pid) {
    std::string process = "/proc/" + std::to_string(pid);
    std::string mountinfo = TRY(read_file(process + "/mountinfo", procfs_limit));
    StandardStreams streams;
    for (int fd = 0; fd < 3; ++fd) {
        std::string path = process + "/fd/" + std::to_string(fd);
        std::string& stream = streams.at(static_cast<std::size_t>(fd));
        stream = read_link(path);
        struct stat info{};
        auto mount = mount_of(process, fd);
        if (is_replaceable(stream) || !mount || has_mount(mountinfo, *mount) || ::stat(path.c_str(), &info) < 0)
            continue;
        // Terminals are another matter.
        bool null = S_ISCHR(info.st_mode) && info.st_rdev == makedev(1, 3);
        if (null || S_ISREG(info.st_mode) || S_ISFIFO(info.st_mode))
            stream = "file[" + hexadecimal(*mount) + ":" + hexadecimal(info.st_ino) + "]";
    }
    return streams;
}

std::string to_text(const StandardStreams& streams) {
    json::array list;
    for (const std::string& stream : streams) list.emplace_back(stream);
    return to_json(json::value(std::move(list)));
}

Result<StandardStreams> parse_standard_streams(std::string_view text) {
    json::value value = TRY(parse_json(text), descriptors_file);
    if (!value.is_array()) return fail(Code::invalid_argument, std::string(descriptors_file) + ": expected a list");
    StandardStreams streams;
    const json::array& list = value.get_array();
    for (std::size_t i = 0; i < std::min(list.size(), streams.size()); ++i) {
        if (list[i].is_string() && is_replaceable(std::string_view(list[i].get_string())))
            streams.at(i) = list[i].get_string();
    }
    return streams;
}

}  // namespace wherry::checkpoint
