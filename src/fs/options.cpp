#include "fs/options.hpp"

#include <functional>
#include <map>
#include <utility>

#include "base/number.hpp"

namespace wherry::fs {

constexpr std::string_view usage_text = R"(Usage: wherry-fs --shared-dir DIRECTORY (--socket PATH | --fd N) [options]

Serves a directory to one microVM as a virtio-fs device over vhost-user, confined to the directory.
Ends when the monitor ends.

      --shared-dir DIRECTORY      what the guest sees; file systems mounted below it are not part of it
      --socket PATH               listen here for the monitor; the file is removed once it has connected
      --fd N                      a listening or connected socket that this process was started with
      --read-only                 nothing can be changed through this process
      --cache none|auto|always    how long the guest may believe what it saw (default auto: a second)
      --uid N, --gid N            do everything as this user and group, without any right of root
      --map-uid GUEST:HOST:COUNT  users of the guest and of the host that are the same; may be repeated
      --map-gid GUEST:HOST:COUNT  the same for groups
      --squash-uid N              users of the guest outside of the maps are this one of the host
      --squash-gid N              the same for groups
      --descriptors N             how many files this process may have open (default: its hard limit)
      --help, --version

With maps and nothing to squash to, a guest's user outside of them can own nothing (EOVERFLOW); users of the host outside
of them appear as 65534. See docs/shared-folders.md.
)";
const std::string_view usage = usage_text;

namespace {

template <class T>
Result<T> number_of(std::string_view name, std::string_view text) {
    if (const auto value = parse_number<T>(text)) return *value;
    return invalid("--" + std::string(name) + ": no number: " + std::string(text));
}

Result<fuse::CacheMode> parse_cache(std::string_view text) {
    if (text == "none") return fuse::CacheMode::none;
    if (text == "auto") return fuse::CacheMode::automatic;
    if (text == "always") return fuse::CacheMode::always;
    return invalid("--cache: none, auto or always, not " + std::string(text));
}

}  // namespace

Result<Options> parse_options(std::span<const char* const> arguments) {
    Options options;
    using Handler = std::function<Result<>(std::string_view, std::string_view)>;
    const auto text_into = [](std::string& to) -> Handler {
        return [&to](std::string_view, std::string_view value) -> Result<> {
            to = value;
            return {};
        };
    };
    const auto number_into = [](auto& to) -> Handler {
        return [&to](std::string_view name, std::string_view value) -> Result<> {
            to = TRY(number_of<std::uint32_t>(name, value));
            return {};
        };
    };
    const auto range_into = [](std::vector<fuse::IdRange>& to) -> Handler {
        return [&to](std::string_view, std::string_view value) -> Result<> {
            to.push_back(TRY(fuse::parse_id_range(value)));
            return {};
        };
    };
    const std::map<std::string_view, bool*> flags = {
        {"read-only", &options.is_read_only}, {"help", &options.help}, {"version", &options.version}};
    const std::map<std::string_view, Handler> values = {
        {"shared-dir", text_into(options.shared_directory)},
        {"socket", text_into(options.socket)},
        {"fd",
         [&options](std::string_view name, std::string_view value) -> Result<> {
             options.fd = TRY(number_of<int>(name, value));
             return {};
         }},
        {"cache",
         [&options](std::string_view, std::string_view value) -> Result<> {
             options.cache = TRY(parse_cache(value));
             return {};
         }},
        {"uid", number_into(options.uid)},
        {"gid", number_into(options.gid)},
        {"squash-uid", number_into(options.squash_uid)},
        {"squash-gid", number_into(options.squash_gid)},
        {"descriptors", number_into(options.descriptors)},
        {"map-uid", range_into(options.uid_ranges)},
        {"map-gid", range_into(options.gid_ranges)},
    };
    std::map<std::string_view, bool> seen;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        std::string_view argument = arguments[i];
        if (!argument.starts_with("--")) return invalid("unexpected argument: " + std::string(argument));
        argument.remove_prefix(2);
        const std::size_t equals = argument.find('=');
        const std::string_view name = argument.substr(0, equals);
        const bool may_repeat = name.starts_with("map-");
        if (std::exchange(seen[name], true) && !may_repeat) return invalid("given twice: --" + std::string(name));
        if (const auto flag = flags.find(name); flag != flags.end() && equals == std::string_view::npos) {
            *flag->second = true;
            continue;
        }
        const auto value = values.find(name);
        if (value == values.end()) return invalid("unknown argument: --" + std::string(argument));
        if (equals == std::string_view::npos && i + 1 == arguments.size())
            return invalid("--" + std::string(name) + " needs a value");
        TRY(value->second(name, equals != std::string_view::npos ? argument.substr(equals + 1) : arguments[++i]));
    }
    if (options.help || options.version) return options;
    if (options.shared_directory.empty()) return invalid("--shared-dir is missing");
    if (options.socket.empty() == (options.fd < 0)) return invalid("one of --socket and --fd is needed");
    if (options.uid == UINT32_MAX || options.gid == UINT32_MAX) return invalid("--uid and --gid: an id that is none");
    return options;
}

}  // namespace wherry::fs
