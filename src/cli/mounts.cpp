#include "cli/mounts.hpp"

#include <unistd.h>

#include <boost/json/array.hpp>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <vector>

#include "cli/bodies.hpp"
#include "cli/options.hpp"
#include "cli/units.hpp"

namespace wherry::cli {

namespace json = boost::json;

namespace {

// One record of comma-separated values with quoted fields (RFC 4180), as --mount is read.
Result<std::vector<std::string>> split_fields(std::string_view text) {
    std::vector<std::string> fields(1);
    bool quoted = false;
    bool field_start = true;
    for (std::size_t i = 0; i < text.size(); ++i) {
        char c = text[i];
        if (quoted) {
            if (c != '"')
                fields.back() += c;
            else if (i + 1 < text.size() && text[i + 1] == '"')
                fields.back() += text[++i];
            else
                quoted = false;
            continue;
        }
        if (c == ',') {
            fields.emplace_back();
            field_start = true;
            continue;
        }
        if (c == '"' && field_start)
            quoted = true;
        else if (c == '"')
            return invalid("parse error on line 1, column " + std::to_string(i + 1) + ": bare \" in non-quoted-field");
        else
            fields.back() += c;
        field_start = false;
    }
    if (quoted)
        return invalid("parse error on line 1, column " + std::to_string(text.size() + 1) +
                       ": extraneous or missing \" in quoted-field");
    return fields;
}

Result<> add_field(json::object& mount, const std::string& type, const std::string& field) {
    auto equals = field.find('=');
    std::string key = field.substr(0, equals);
    for (char& c : key)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    auto boolean = [&](bool when_bare) -> Result<bool> {
        if (equals == std::string::npos) {
            if (!when_bare) return invalid("invalid field '" + field + "' must be a key=value pair");
            return true;
        }
        auto value = parse_bool(field.substr(equals + 1));
        if (!value) return invalid("invalid value for " + key + ": " + field.substr(equals + 1));
        return *value;
    };
    if (key == "readonly" || key == "ro") {
        mount["ReadOnly"] = TRY(boolean(true));
        return {};
    }
    if (key == "volume-nocopy") {
        child(mount, "VolumeOptions")["NoCopy"] = TRY(boolean(true));
        return {};
    }
    if (key == "bind-nonrecursive") {
        child(mount, "BindOptions")["NonRecursive"] = TRY(boolean(true));
        return {};
    }
    if (equals == std::string::npos) return invalid("invalid field '" + field + "' must be a key=value pair");
    std::string value = field.substr(equals + 1);
    if (key == "type") return {};
    if (key == "source" || key == "src") {
        if (value.starts_with('.') || (type == "bind" && !value.starts_with('/') && !value.empty()))
            value = absolute_path(value);
        mount["Source"] = value;
    } else if (key == "target" || key == "dst" || key == "destination") {
        mount["Target"] = value;
    } else if (key == "consistency") {
        mount["Consistency"] = value;
    } else if (key == "bind-propagation") {
        child(mount, "BindOptions")["Propagation"] = value;
    } else if (key == "bind-recursive") {
        json::object& options = child(mount, "BindOptions");
        if (value == "disabled")
            options["NonRecursive"] = true;
        else if (value == "writable")
            options["ReadOnlyNonRecursive"] = true;
        else if (value == "readonly")
            options["ReadOnlyForceRecursive"] = true;
        else if (value != "enabled")
            return invalid("invalid value for bind-recursive: " + value +
                           " (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")");
    } else if (key == "bind-create-src" || key == "bind-create-mountpoint") {
        auto flag = parse_bool(value);
        if (!flag) return invalid("invalid value for " + key + ": " + value);
        child(mount, "BindOptions")["CreateMountpoint"] = *flag;
    } else if (key == "volume-subpath") {
        child(mount, "VolumeOptions")["Subpath"] = value;
    } else if (key == "volume-label") {
        auto split = value.find('=');
        child(child(mount, "VolumeOptions"), "Labels")[value.substr(0, split)] =
            split == std::string::npos ? "" : value.substr(split + 1);
    } else if (key == "volume-driver") {
        child(child(mount, "VolumeOptions"), "DriverConfig")["Name"] = value;
    } else if (key == "volume-opt") {
        auto split = value.find('=');
        child(child(child(mount, "VolumeOptions"), "DriverConfig"), "Options")[value.substr(0, split)] =
            split == std::string::npos ? "" : value.substr(split + 1);
    } else if (key == "tmpfs-size") {
        auto size = parse_bytes(value);
        if (!size) return invalid("invalid value for " + key + ": " + value);
        child(mount, "TmpfsOptions")["SizeBytes"] = *size;
    } else if (key == "tmpfs-mode") {
        unsigned mode = 0;
        auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), mode, 8);
        if (error != std::errc() || end != value.data() + value.size())
            return invalid("invalid value for " + key + ": " + value);
        child(mount, "TmpfsOptions")["Mode"] = mode;
    } else {
        return invalid("unexpected key '" + key + "' in '" + field + "'");
    }
    return {};
}

}  // namespace

std::string absolute_path(std::string_view path) {
    std::string whole;
    if (path == "~" || path.starts_with("~/")) {
        const char* home = std::getenv("HOME");
        whole = std::string(home == nullptr ? "/" : home) + std::string(path.substr(1));
    } else if (path.starts_with('/')) {
        whole = std::string(path);
    } else {
        char folder[PATH_MAX];
        whole = std::string(::getcwd(folder, sizeof folder) == nullptr ? "" : folder) + "/" + std::string(path);
    }
    std::vector<std::string_view> parts;
    for (std::string_view rest = whole; !rest.empty();) {
        auto slash = rest.find('/');
        std::string_view part = rest.substr(0, slash);
        rest.remove_prefix(slash == std::string_view::npos ? rest.size() : slash + 1);
        if (part.empty() || part == ".") continue;
        if (part != "..")
            parts.push_back(part);
        else if (!parts.empty())
            parts.pop_back();
    }
    std::string out;
    for (std::string_view part : parts) out += "/" + std::string(part);
    return out.empty() ? "/" : out;
}

Result<VolumeArgument> parse_volume(std::string_view text) {
    if (text.empty()) return invalid("invalid empty volume spec");
    std::vector<std::string> parts;
    for (std::string_view rest = text;;) {
        auto colon = rest.find(':');
        parts.emplace_back(rest.substr(0, colon));
        if (colon == std::string_view::npos) break;
        rest.remove_prefix(colon + 1);
    }
    if (parts.size() > 3) return invalid("invalid volume specification: '" + std::string(text) + "'");
    if (parts.size() == 1) {
        if (parts[0] == "/") return invalid("invalid volume specification: '/': destination can't be '/'");
        return VolumeArgument{"", parts[0], ""};
    }
    VolumeArgument volume{parts[0], parts[1], ""};
    if (volume.source.empty() || volume.destination.empty())
        return invalid("invalid spec: " + std::string(text) + ": empty section between colons");
    if (!volume.destination.starts_with('/'))
        return invalid("invalid volume specification: '" + std::string(text) +
                       "': invalid mount config: mount path must be absolute: " + volume.destination);
    char first = volume.source.front();
    if (first == '.' || first == '~') volume.source = absolute_path(volume.source);
    volume.bind = volume.source + ":" + volume.destination;
    if (parts.size() == 3) volume.bind += ":" + parts[2];
    return volume;
}

Result<json::object> parse_mount(std::string_view text) {
    auto fields = TRY(split_fields(text));
    if (fields.size() == 1 && fields[0].empty()) return invalid("value is empty");
    json::object mount;
    std::string type = "volume";
    for (const std::string& field : fields)
        if (field.starts_with("type=") || field.starts_with("Type=")) type = field.substr(5);
    for (char& c : type)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    mount["Type"] = type;
    for (const std::string& field : fields) TRY(add_field(mount, type, field));
    if (!mount.contains("Target")) return invalid("target is required");
    if (mount.contains("VolumeOptions") && type != "volume")
        return invalid("cannot mix 'volume-*' options with mount type '" + type + "'");
    if (mount.contains("BindOptions") && type != "bind")
        return invalid("cannot mix 'bind-*' options with mount type '" + type + "'");
    if (mount.contains("TmpfsOptions") && type != "tmpfs")
        return invalid("cannot mix 'tmpfs-*' options with mount type '" + type + "'");
    return mount;
}

Result<> check_mount(std::string_view value) {
    TRY(parse_mount(value));
    return {};
}

}  // namespace wherry::cli
