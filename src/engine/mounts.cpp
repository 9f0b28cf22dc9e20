#include "engine/mounts.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "engine/names.hpp"

namespace wherry::engine {
namespace {

constexpr std::array<std::string_view, 6> propagations{"private", "rprivate", "shared", "rshared", "slave", "rslave"};

bool is_propagation(std::string_view text) {
    return std::ranges::find(propagations, text) != propagations.end();
}

Strings split(std::string_view text, char separator) {
    Strings parts;
    while (true) {
        const std::size_t end = text.find(separator);
        parts.emplace_back(text.substr(0, end));
        if (end == std::string_view::npos) return parts;
        text.remove_prefix(end + 1);
    }
}

std::unexpected<Error> bad_spec(std::string_view text, const std::string& why = {}) {
    return fail(Code::invalid_argument,
                "invalid volume specification: '" + std::string(text) + "'" + (why.empty() ? "" : ": " + why));
}

Result<> apply_mode(PlannedMount& mount, std::string_view mode, std::string_view text) {
    mount.point.mode = mode;
    std::set<std::string> seen;
    for (const std::string& option : split(mode, ',')) {
        const bool volume = mount.point.type == "volume";
        std::string kind;
        if (option == "ro" || option == "rw") {
            kind = "access";
            mount.point.read_write = option == "rw";
        } else if (option == "z" || option == "Z") {
            kind = "label";  // relabelling is SELinux's; there is none to do
        } else if (is_propagation(option) && !volume) {
            kind = "propagation";
            mount.point.propagation = option;
        } else if (option == "nocopy" && volume) {
            kind = "copy";
            mount.populate = false;
        } else if (option == "consistent" || option == "cached" || option == "delegated") {
            kind = "consistency";
        } else {
            return fail(Code::invalid_argument, "invalid mode: " + std::string(mode));
        }
        if (!seen.insert(kind).second) return bad_spec(text, "invalid mode: " + std::string(mode));
    }
    return {};
}

Result<> check_destination(const std::string& destination, std::string_view text) {
    if (destination.empty() || destination.front() != '/') {
        return bad_spec(text, "invalid mount config: mount path must be absolute");
    }
    if (clean_path(destination) == "/") return bad_spec(text, "invalid specification: destination can't be '/'");
    return {};
}

std::unexpected<Error> bad_mount(const MountRequest& request, const std::string& why) {
    return fail(Code::invalid_argument, "invalid mount config for type \"" + request.type + "\": " + why);
}

}  // namespace

std::string clean_path(std::string_view path) {
    Strings kept;
    for (const std::string& part : split(path, '/')) {
        if (part.empty() || part == ".") continue;
        if (part == "..") {
            if (!kept.empty()) kept.pop_back();
        } else {
            kept.push_back(part);
        }
    }
    std::string clean;
    for (const std::string& part : kept) clean += "/" + part;
    return clean.empty() ? "/" : clean;
}

Result<std::int64_t> parse_bytes(std::string_view text) {
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const auto invalid = [&] { return fail(Code::invalid_argument, "invalid size: '" + std::string(text) + "'"); };
    if (error != std::errc{} || number < 0) return invalid();
    std::string unit(end, text.data() + text.size());
    std::ranges::transform(unit, unit.begin(),
                           [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    unsigned shift = 0;
    if (unit.empty() || unit == "b")
        shift = 0;
    else if (unit == "k" || unit == "kb" || unit == "kib")
        shift = 10;
    else if (unit == "m" || unit == "mb" || unit == "mib")
        shift = 20;
    else if (unit == "g" || unit == "gb" || unit == "gib")
        shift = 30;
    else if (unit == "t" || unit == "tb" || unit == "tib")
        shift = 40;
    else
        return invalid();
    if (number > (std::numeric_limits<std::int64_t>::max() >> shift)) return invalid();
    return number << shift;
}

Result<Strings> parse_tmpfs_options(std::string_view text) {
    Strings options{"noexec", "nosuid", "nodev"};
    const auto replace = [&](std::string_view opposite, const std::string& option) {
        std::erase(options, opposite);
        std::erase(options, option);
        options.push_back(option);
    };
    const auto with_mode = [&] {
        if (std::ranges::none_of(options, [](const std::string& one) { return one.starts_with("mode="); }))
            options.emplace_back("mode=1777");
    };
    if (text.empty()) {
        with_mode();
        return options;
    }
    constexpr std::array<std::pair<std::string_view, std::string_view>, 5> flags{
        {{"rw", "ro"}, {"suid", "nosuid"}, {"dev", "nodev"}, {"exec", "noexec"}, {"atime", "noatime"}}};
    for (const std::string& option : split(text, ',')) {
        const std::size_t equals = option.find('=');
        const std::string name = option.substr(0, equals);
        if (equals != std::string::npos) {
            const std::string value = option.substr(equals + 1);
            const bool octal = !value.empty() && value.find_first_not_of("01234567") == std::string::npos;
            const bool decimal = !value.empty() && value.find_first_not_of("0123456789") == std::string::npos;
            bool good = false;
            if (name == "size" || name == "nr_inodes" || name == "nr_blocks") {
                good = value.ends_with('%') || parse_bytes(value).has_value();
            } else if (name == "mode") {
                good = octal;
            } else if (name == "uid" || name == "gid") {
                good = decimal;
            }
            if (!good) return fail(Code::invalid_argument, "invalid tmpfs option \"" + option + "\"");
            options.push_back(option);
            continue;
        }
        bool known = is_propagation(option);
        for (const auto& [on, off] : flags) {
            if (option == on || option == off) {
                replace(option == on ? off : on, option);
                known = true;
            }
        }
        if (!known) {
            for (const std::string_view other :
                 {"diratime", "nodiratime", "relatime", "norelatime", "strictatime", "sync", "async"}) {
                if (option == other) {
                    options.push_back(option);
                    known = true;
                }
            }
        }
        if (!known) return fail(Code::invalid_argument, "invalid tmpfs option \"" + option + "\"");
    }
    with_mode();
    return options;
}

Result<PlannedMount> parse_bind(std::string_view text, const std::string& volume_driver) {
    const Strings parts = split(text, ':');
    if (parts.size() < 2 || parts.size() > 3 || std::ranges::any_of(parts, &std::string::empty)) return bad_spec(text);
    PlannedMount mount;
    TRY(check_destination(parts[1], text));
    mount.point.destination = clean_path(parts[1]);
    if (parts[0].starts_with('/')) {
        mount.point.type = "bind";
        mount.point.source = clean_path(parts[0]);
        mount.point.propagation = "rprivate";
        mount.make_source = true;
        mount.populate = false;
    } else {
        mount.point.type = "volume";
        mount.point.name = parts[0];
        mount.point.driver = volume_driver.empty() ? "local" : volume_driver;
        TRY(check_volume_name(parts[0]));
    }
    if (parts.size() == 3) {
        TRY(apply_mode(mount, parts[2], text));
    } else if (mount.point.type == "volume") {
        mount.point.mode = "z";
    }
    return mount;
}

Result<PlannedMount> parse_mount(const MountRequest& request) {
    PlannedMount mount;
    if (request.target.empty()) return bad_mount(request, "field Target must not be empty");
    if (!request.target.starts_with('/')) {
        return bad_mount(request, "invalid mount path: '" + request.target + "' mount path must be absolute");
    }
    mount.point.type = request.type;
    mount.point.destination = clean_path(request.target);
    mount.point.read_write = !request.read_only;
    if (mount.point.destination == "/") return bad_mount(request, "invalid specification: destination can't be '/'");
    if (request.type == "bind") {
        if (request.source.empty()) return bad_mount(request, "field Source must not be empty");
        if (!request.source.starts_with('/')) {
            return bad_mount(request, "invalid mount path: '" + request.source + "' mount path must be absolute");
        }
        if (request.volume_options) return bad_mount(request, "field VolumeOptions must not be specified");
        if (request.tmpfs_options) return bad_mount(request, "field TmpfsOptions must not be specified");
        mount.point.source = clean_path(request.source);
        mount.point.propagation = "rprivate";
        mount.populate = false;
        if (request.bind_options) {
            const BindOptions& options = *request.bind_options;
            if (!options.propagation.empty()) {
                if (!is_propagation(options.propagation)) {
                    return bad_mount(request, "invalid propagation mode: " + options.propagation);
                }
                mount.point.propagation = options.propagation;
            }
            mount.make_source = options.create_mountpoint;
        }
    } else if (request.type == "volume") {
        if (request.bind_options) return bad_mount(request, "field BindOptions must not be specified");
        if (request.tmpfs_options) return bad_mount(request, "field TmpfsOptions must not be specified");
        mount.point.driver = "local";
        mount.point.name = request.source;
        mount.point.mode = "z";
        mount.anonymous = request.source.empty();
        if (!mount.anonymous) TRY(check_volume_name(request.source));
        if (request.volume_options) {
            mount.volume_options = *request.volume_options;
            mount.populate = !request.volume_options->no_copy;
            if (!request.volume_options->driver.empty()) mount.point.driver = request.volume_options->driver;
            const std::string& subpath = request.volume_options->subpath;
            if (!subpath.empty() && (subpath.front() == '/' || clean_path("/" + subpath) != "/" + subpath)) {
                return bad_mount(request, "subpath must be a relative path within the volume");
            }
        }
    } else if (request.type == "tmpfs") {
        if (!request.source.empty()) return bad_mount(request, "field Source must not be specified");
        if (request.bind_options) return bad_mount(request, "field BindOptions must not be specified");
        if (request.volume_options) return bad_mount(request, "field VolumeOptions must not be specified");
        mount.populate = false;
    } else {
        return fail(Code::invalid_argument,
                    "invalid mount config for type \"" + request.type + "\": mount type unknown");
    }
    return mount;
}

Result<std::vector<PlannedMount>> plan_mounts(const Config& config, const HostConfig& host_config,
                                              const std::vector<MountPoint>& inherited) {
    std::map<std::string, PlannedMount> by_destination;
    std::set<std::string> named_here;
    const auto add = [&](PlannedMount mount) -> Result<> {
        const std::string destination = mount.point.destination;
        if (!named_here.insert(destination).second) {
            return fail(Code::invalid_argument, "Duplicate mount point: " + destination);
        }
        by_destination[destination] = std::move(mount);
        return {};
    };
    for (const MountPoint& point : inherited) {
        by_destination[point.destination] = PlannedMount{.point = point, .populate = false, .volume_options = {}};
    }
    for (const std::string& bind : host_config.binds) TRY(add(TRY(parse_bind(bind, host_config.volume_driver))));
    for (const MountRequest& request : host_config.mounts) TRY(add(TRY(parse_mount(request))));
    for (const auto& [path, options] : host_config.tmpfs) {
        if (!path.starts_with('/')) {
            return fail(Code::invalid_argument, "invalid tmpfs path: '" + path + "' mount path must be absolute");
        }
        TRY(parse_tmpfs_options(options));
        const std::string destination = clean_path(path);
        if (!named_here.insert(destination).second) {
            return fail(Code::invalid_argument, "Duplicate mount point: " + destination);
        }
        by_destination.erase(destination);  // the specification takes tmpfs from HostConfig itself
    }
    for (const std::string& path : config.volumes) {
        if (!path.starts_with('/')) {
            return fail(Code::invalid_argument,
                        "invalid volume specification: '" + path + "': mount path must be absolute");
        }
        const std::string destination = clean_path(path);
        if (destination == "/") {
            return fail(Code::invalid_argument, "invalid volume specification: '/': destination can't be '/'");
        }
        if (named_here.contains(destination) || by_destination.contains(destination)) continue;
        PlannedMount mount;
        mount.point.type = "volume";
        mount.point.driver = host_config.volume_driver.empty() ? "local" : host_config.volume_driver;
        mount.point.destination = destination;
        mount.anonymous = true;
        by_destination[destination] = std::move(mount);
    }
    std::vector<PlannedMount> planned;
    for (auto& [destination, mount] : by_destination) {
        if (mount.point.type == "volume" && mount.point.driver != "local") {
            return fail(Code::invalid_argument, "error looking up volume plugin " + mount.point.driver + ": plugin \"" +
                                                    mount.point.driver + "\" not found");
        }
        planned.push_back(std::move(mount));
    }
    std::ranges::sort(planned, {}, [](const PlannedMount& mount) {
        return std::pair(std::ranges::count(mount.point.destination, '/'), mount.point.destination);
    });
    return planned;
}

}  // namespace wherry::engine
