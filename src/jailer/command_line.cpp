#include "jailer/command_line.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <limits>

namespace wherry::jailer {
namespace {

constexpr std::size_t longest_id = 64;
constexpr std::uint64_t default_open_files = 2048;

template <class Number>
Result<Number> parse_number(std::string_view flag, std::string_view text) {
    Number value{};
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size())
        return fail(Code::invalid_argument,
                    std::string(flag) + ": \"" + std::string(text) + "\" is no number of the allowed range");
    return value;
}

bool letter_or_digit(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool among(std::span<const std::string_view> words, std::string_view word) {
    return std::ranges::find(words, word) != words.end();
}

struct Parser {
    Options options;
    std::vector<std::string_view> seen;
    bool has_uid = false;
    bool has_gid = false;

    // One flag; `value` is what followed it, or nothing for a switch.
    Result<> take(std::string_view flag, std::string_view value) {
        if (flag == "--id") {
            TRY(validate_id(value), "--id");
            options.id = value;
        } else if (flag == "--exec-file") {
            options.exec_file = value;
        } else if (flag == "--uid") {
            options.uid = TRY(parse_number<uid_t>(flag, value));
            has_uid = true;
        } else if (flag == "--gid") {
            options.gid = TRY(parse_number<gid_t>(flag, value));
            has_gid = true;
        } else if (flag == "--chroot-base-dir") {
            options.chroot_base = value;
        } else if (flag == "--netns") {
            options.network_namespace = value;
        } else if (flag == "--cgroup") {
            options.cgroups.push_back(TRY(parse_cgroup_setting(value), "--cgroup"));
        } else if (flag == "--resource-limit") {
            auto limit = TRY(parse_resource_limit(value), "--resource-limit");
            std::erase_if(options.limits, [&](const auto& other) { return other.resource == limit.resource; });
            options.limits.push_back(limit);
        } else if (flag == "--cgroup-version") {
            if (value != "1" && value != "2")
                return fail(Code::invalid_argument,
                            "--cgroup-version: \"" + std::string(value) + "\" is neither 1 nor 2");
            options.cgroup_version = value == "1" ? CgroupVersion::v1 : CgroupVersion::v2;
        } else {
            TRY(validate_parent_cgroup(value), "--parent-cgroup");
            options.parent_cgroup = value;
        }
        return {};
    }
};

constexpr std::string_view valued[] = {"--id",           "--exec-file",       "--uid",
                                       "--gid",          "--chroot-base-dir", "--netns",
                                       "--cgroup",       "--resource-limit",  "--cgroup-version",
                                       "--parent-cgroup"};
constexpr std::string_view repeatable[] = {"--cgroup", "--resource-limit"};

}  // namespace

std::string Options::exec_name() const {
    auto slash = exec_file.rfind('/');
    return slash == std::string::npos ? exec_file : exec_file.substr(slash + 1);
}

std::string Options::effective_parent_cgroup() const {
    return parent_cgroup.empty() ? exec_name() : parent_cgroup;
}

Result<> validate_id(std::string_view id) {
    if (id.empty() || id.size() > longest_id)
        return fail(Code::invalid_argument, "an id has 1 to 64 characters, this one " + std::to_string(id.size()));
    for (std::size_t i = 0; i < id.size(); ++i)
        if (!letter_or_digit(id[i]) && id[i] != '-')
            return fail(Code::invalid_argument, "an id has letters, digits and '-' only: character " +
                                                    std::to_string(i + 1) + " of this one is none of them");
    return {};
}

Result<> validate_parent_cgroup(std::string_view path) {
    if (path.empty() || path.front() == '/')
        return fail(Code::invalid_argument, "a parent cgroup is a relative path that is not empty");
    while (true) {
        auto slash = path.find('/');
        std::string_view part = path.substr(0, slash);
        if (part.empty() || part == "." || part == ".." || part.size() > 255)
            return fail(Code::invalid_argument, "a parent cgroup has no empty, \".\" or \"..\" parts");
        if (std::ranges::any_of(part, [](unsigned char c) { return c < 0x20 || c == 0x7f; }))
            return fail(Code::invalid_argument, "a parent cgroup has no control characters");
        if (slash == std::string_view::npos) return {};
        path.remove_prefix(slash + 1);
    }
}

Result<CgroupSetting> parse_cgroup_setting(std::string_view text) {
    auto equals = text.find('=');
    if (equals == std::string_view::npos || equals == 0 || equals + 1 == text.size())
        return fail(Code::invalid_argument, "\"" + std::string(text) + "\" is not of the form file=value");
    std::string_view file = text.substr(0, equals);
    auto point = file.find('.');
    // The name is one component below the cgroup's directory, never a way out of it.
    bool plain =
        std::ranges::all_of(file, [](char c) { return letter_or_digit(c) || c == '.' || c == '_' || c == '-'; });
    if (point == std::string_view::npos || point == 0 || point + 1 == file.size() || !plain ||
        file.find("..") != std::string_view::npos || file.size() > 255)
        return fail(Code::invalid_argument,
                    "\"" + std::string(file) + "\" is no file of a cgroup (controller.setting)");
    return CgroupSetting{.controller = std::string(file.substr(0, point)),
                         .file = std::string(file),
                         .value = std::string(text.substr(equals + 1))};
}

Result<confine::ResourceLimit> parse_resource_limit(std::string_view text) {
    auto equals = text.find('=');
    if (equals == std::string_view::npos)
        return fail(Code::invalid_argument, "\"" + std::string(text) + "\" is not of the form resource=value");
    std::string_view name = text.substr(0, equals);
    int resource = 0;
    if (name == "fsize") {
        resource = RLIMIT_FSIZE;
    } else if (name == "no-file") {
        resource = RLIMIT_NOFILE;
    } else {
        return fail(Code::invalid_argument, "\"" + std::string(name) + "\" is neither fsize nor no-file");
    }
    auto value = TRY(parse_number<std::uint64_t>(name, text.substr(equals + 1)));
    return confine::ResourceLimit{.resource = resource, .soft = value, .hard = value};
}

Result<Options> parse_command_line(std::span<const std::string_view> arguments) {
    Parser parser;
    std::size_t at = 0;
    for (; at < arguments.size(); ++at) {
        std::string_view word = arguments[at];
        if (word == "--") {
            ++at;
            break;
        }
        if (word == "--help" || word == "-h") {
            parser.options.action = Action::help;
            return std::move(parser.options);
        }
        if (word == "--version" || word == "-V") {
            parser.options.action = Action::version;
            return std::move(parser.options);
        }
        auto equals = word.find('=');
        std::string_view flag = word.substr(0, equals);
        if (among(parser.seen, flag) && !among(repeatable, flag))
            return fail(Code::invalid_argument, std::string(flag) + " was given twice");
        parser.seen.push_back(flag);
        if (word == "--daemonize") {
            parser.options.daemonize = true;
        } else if (word == "--new-pid-ns") {
            parser.options.new_pid_namespace = true;
        } else if (among(valued, flag)) {
            std::string_view value;
            if (equals != std::string_view::npos) {
                value = word.substr(equals + 1);
            } else if (++at < arguments.size() && arguments[at] != "--") {
                value = arguments[at];
            }
            if (value.empty()) return fail(Code::invalid_argument, std::string(flag) + " needs a value");
            // A NUL cannot come from a command line, only from other callers; it would cut paths short.
            if (value.find('\0') != std::string_view::npos)
                return fail(Code::invalid_argument, std::string(flag) + ": a value has no NUL");
            TRY(parser.take(flag, value));
        } else {
            return fail(Code::invalid_argument, "unknown argument \"" + std::string(word) + "\"");
        }
    }
    for (; at < arguments.size(); ++at) parser.options.monitor_arguments.emplace_back(arguments[at]);

    Options& options = parser.options;
    if (options.id.empty()) return fail(Code::invalid_argument, "--id is missing");
    if (options.exec_file.empty()) return fail(Code::invalid_argument, "--exec-file is missing");
    if (!parser.has_uid) return fail(Code::invalid_argument, "--uid is missing");
    if (!parser.has_gid) return fail(Code::invalid_argument, "--gid is missing");
    // -1 means "leave it alone" to the system calls that set identities.
    if (options.uid == std::numeric_limits<uid_t>::max() || options.gid == std::numeric_limits<gid_t>::max())
        return fail(Code::invalid_argument, "--uid, --gid: 4294967295 is nobody");
    std::string name = options.exec_name();
    if (name.empty() || name == "." || name == ".." || name.size() > 200)
        return fail(Code::invalid_argument, "--exec-file: \"" + options.exec_file + "\" names no file");
    if (std::ranges::none_of(options.limits, [](const auto& limit) { return limit.resource == RLIMIT_NOFILE; }))
        options.limits.push_back({.resource = RLIMIT_NOFILE, .soft = default_open_files, .hard = default_open_files});
    return std::move(options);
}

std::string_view usage() {
    return "wherry-jailer --id ID --exec-file FILE --uid UID --gid GID [options] [-- arguments of the monitor]\n"
           "\n"
           "Builds a chroot with the monitor and its devices, enters namespaces, limits and cgroups, and becomes the "
           "monitor.\n"
           "\n"
           "  --id ID                     1 to 64 letters, digits, '-'; handed to the monitor\n"
           "  --exec-file FILE            the monitor's binary, copied into the chroot\n"
           "  --uid UID, --gid GID        whom it runs as\n"
           "  --chroot-base-dir DIR       the chroot is DIR/<name of FILE>/ID/root (default /srv/jailer)\n"
           "  --netns PATH                network namespace to join\n"
           "  --daemonize                 own session, standard streams on /dev/null\n"
           "  --new-pid-ns                the monitor is process 1 of a new pid namespace\n"
           "  --cgroup FILE=VALUE         a file of the cgroup, cpu.shares=512 (repeatable)\n"
           "  --cgroup-version 1|2        where cgroups are made (default: where the controller is)\n"
           "  --parent-cgroup PATH        the cgroup is PATH/ID (default: name of FILE)\n"
           "  --resource-limit NAME=N     fsize or no-file (repeatable; no-file is 2048 by default)\n"
           "  --version, --help\n"
           "\n"
           "The chroot's /<name of FILE>.pid holds the monitor's process id.\n";
}

}  // namespace wherry::jailer
