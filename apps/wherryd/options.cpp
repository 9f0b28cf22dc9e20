#include "options.hpp"

#include <algorithm>
#include <charconv>
#include <functional>
#include <map>
#include <set>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "confine/cgroup.hpp"
#include "confine/rlimits.hpp"
#include "engine/times.hpp"
#include "engine/validate.hpp"
#include "net/files.hpp"

namespace wherry::daemon {
namespace {

constexpr const char* default_config_file = "/etc/wherry/daemon.json";

enum class Kind : std::uint8_t { text, list, flag, map };

struct Setting {
    const char* flag;      // long name
    char short_flag;       // or 0
    const char* file_key;  // in the configuration file; nullptr: not there
    Kind kind;
    const char* placeholder;  // of the value in the help
    const char* help;
};

constexpr Setting settings[] = {
    {"bip", 0, "bip", Kind::text, "string", "Address and subnet of the bridge, e.g. 10.88.0.1/16"},
    {"bridge", 'b', "bridge", Kind::text, "string", "Name of the bridge (default wherry0); none: no bridge"},
    {"cgroup-parent", 0, "cgroup-parent", Kind::text, "string", "Parent cgroup of containers (default /wherry)"},
    {"config-file", 0, nullptr, Kind::text, "string", "Configuration file (default /etc/wherry/daemon.json)"},
    {"data-root", 0, "data-root", Kind::text, "string", "Where everything durable lives (default /var/lib/wherry)"},
    {"debug", 'D', "debug", Kind::flag, "", "Debug messages"},
    {"default-ulimit", 0, "default-ulimits", Kind::list, "ulimit",
     "Default limit of containers, e.g. nofile=1024:2048"},
    {"dns", 0, "dns", Kind::list, "list", "DNS servers of containers"},
    {"dns-opt", 0, "dns-opts", Kind::list, "list", "DNS options of containers"},
    {"dns-search", 0, "dns-search", Kind::list, "list", "DNS search domains of containers"},
    {"exec-root", 0, "exec-root", Kind::text, "string", "Where what lives until the reboot goes (default /run/wherry)"},
    {"insecure-registry", 0, "insecure-registries", Kind::list, "list",
     "Registry without TLS, or with a certificate nobody vouches for: host, host:port or a subnet"},
    {"group", 'G', "group", Kind::text, "string", "Group that owns the unix socket"},
    {"help", 'h', nullptr, Kind::flag, "", "Print this"},
    {"host", 'H', "hosts", Kind::list, "list",
     "Where to listen: unix://, tcp:// or fd:// (default unix:///run/wherry/wherry.sock)"},
    {"label", 0, "labels", Kind::list, "list", "key=value labels of the daemon"},
    {"live-restore", 0, "live-restore", Kind::flag, "", "Containers go on while the daemon is away: always so"},
    {"log-driver", 0, "log-driver", Kind::text, "string", "Default log driver: json-file, local, none"},
    {"log-format", 0, "log-format", Kind::text, "string", "Format of the daemon's own log: text"},
    {"log-level", 'l', "log-level", Kind::text, "string", "debug, info, warn, error or fatal (default info)"},
    {"log-opt", 0, "log-opts", Kind::map, "map", "Default options of the log driver, e.g. max-size=10m"},
    {"max-concurrent-downloads", 0, "max-concurrent-downloads", Kind::text, "int",
     "Layers a pull fetches at once (default 3)"},
    {"max-concurrent-uploads", 0, "max-concurrent-uploads", Kind::text, "int",
     "Layers a push sends at once (default 5)"},
    {"max-download-attempts", 0, "max-download-attempts", Kind::text, "int", "Tries of a download (default 5)"},
    {"max-layer-size", 0, "max-layer-size", Kind::text, "bytes",
     "Largest layer, decompressed, e.g. 20g (default 256g)"},
    {"mtu", 0, "mtu", Kind::text, "int", "MTU of the bridge (default: the uplink's, at most 1500)"},
    {"names-address", 0, "names-address", Kind::text, "string",
     "Address published for containers with the label wherry.dns (default: each one's own)"},
    {"names-key-file", 0, "names-key-file", Kind::text, "string",
     "File with the key of updates: [ALGORITHM:]NAME:SECRET"},
    {"names-server", 0, "names-server", Kind::text, "string",
     "Name server that gets the names of containers with the label wherry.dns, by dynamic update"},
    {"names-zone", 0, "names-zone", Kind::text, "string", "Zone of these names"},
    {"pidfile", 'p', "pidfile", Kind::text, "string", "Where to write the process id (default /run/wherry.pid)"},
    {"registry-certs", 0, "registry-certs", Kind::list, "list",
     "Folders of HOST/*.crt, *.cert, *.key (default /etc/wherry/certs.d, /etc/docker/certs.d)"},
    {"registry-mirror", 0, "registry-mirrors", Kind::list, "list",
     "Mirror asked before a registry: URL (of Docker Hub) or HOST=URL"},
    {"shutdown-timeout", 0, "shutdown-timeout", Kind::text, "int",
     "Seconds that requests under way get at the end (default 15)"},
    {"tls", 0, "tls", Kind::flag, "", "TLS on tcp:// hosts"},
    {"tlscacert", 0, "tlscacert", Kind::text, "string", "Who signs client certificates (PEM)"},
    {"tlscert", 0, "tlscert", Kind::text, "string", "The server's certificate (PEM)"},
    {"tlskey", 0, "tlskey", Kind::text, "string", "The server's key (PEM)"},
    {"tlsverify", 0, "tlsverify", Kind::flag, "", "TLS, and clients must have a certificate"},
    {"undelete-period", 0, "undelete-period", Kind::text, "duration",
     "How long removed containers can be had back, e.g. 1h; 0: not at all (default 10m)"},
    {"validate", 0, nullptr, Kind::flag, "", "Check the configuration and exit"},
    {"version", 'v', nullptr, Kind::flag, "", "Print the version and exit"},
};

using Values = std::map<std::string, std::vector<std::string>>;  // by flag name

const Setting* by_flag(std::string_view name) {
    const auto* found =
        std::ranges::find(settings, name, [](const Setting& one) { return std::string_view(one.flag); });
    return found == std::end(settings) ? nullptr : found;
}

const Setting* by_short(char name) {
    const auto* found = std::ranges::find(settings, name, &Setting::short_flag);
    return found == std::end(settings) ? nullptr : found;
}

std::unexpected<Error> invalid(std::string message) {
    return fail(Code::invalid_argument, std::move(message));
}

Result<Values> parse_arguments(const std::vector<std::string>& arguments) {
    Values values;
    for (std::size_t i = 0; i < arguments.size(); ++i) {
        const std::string& argument = arguments[i];
        const Setting* setting = nullptr;
        std::optional<std::string> value;
        if (argument.starts_with("--") && argument.size() > 2) {
            const std::size_t equals = argument.find('=');
            const std::string name = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
            setting = by_flag(name);
            if (setting == nullptr) return invalid("unknown flag: --" + name);
            if (equals != std::string::npos) value = argument.substr(equals + 1);
        } else if (argument.starts_with('-') && argument.size() > 1) {
            setting = by_short(argument[1]);
            if (setting == nullptr)
                return invalid("unknown shorthand flag: '" + std::string(1, argument[1]) + "' in " + argument);
            if (argument.size() > 2) {
                if (setting->kind == Kind::flag)
                    return invalid("unknown shorthand flag: '" + std::string(1, argument[2]) + "' in " + argument);
                value = argument.substr(argument[2] == '=' ? 3 : 2);
            }
        } else {
            return invalid("accepts no arguments, received \"" + argument + "\"");
        }
        if (setting->kind == Kind::flag) {
            if (value && *value != "true" && *value != "false") {
                return invalid("invalid argument \"" + *value + "\" for \"--" + setting->flag +
                               "\" flag: expected true or false");
            }
            values[setting->flag] = {value.value_or("true")};
            continue;
        }
        if (!value) {
            if (i + 1 >= arguments.size()) return invalid("flag needs an argument: --" + std::string(setting->flag));
            value = arguments[++i];
        }
        if (setting->kind == Kind::text)
            values[setting->flag] = {*value};
        else
            values[setting->flag].push_back(*value);
    }
    return values;
}

Result<std::string> scalar(const json::value& value, const std::string& key) {
    if (value.is_string()) return std::string(value.get_string());
    if (value.is_bool()) return std::string(value.get_bool() ? "true" : "false");
    if (value.is_int64()) return std::to_string(value.get_int64());
    return invalid("configuration file: " + key + ": expected a string, a number, true or false");
}

Result<std::vector<std::string>> file_values(const Setting& setting, const json::value& value) {
    const std::string key = setting.file_key;
    std::vector<std::string> values;
    if (key == "default-ulimits") {  // {"nofile": {"Name": "nofile", "Hard": 64000, "Soft": 64000}}
        if (!value.is_object()) return invalid("configuration file: default-ulimits: expected an object");
        for (const auto& member : value.get_object()) {
            if (!member.value().is_object()) return invalid("configuration file: default-ulimits: expected objects");
            const JsonReader reader(member.value().get_object(), "default-ulimits." + std::string(member.key()));
            const std::int64_t soft = TRY(reader.integer_or("Soft", -1));
            const std::int64_t hard = TRY(reader.integer_or("Hard", soft));
            values.push_back(std::string(member.key()) + "=" + std::to_string(soft) + ":" + std::to_string(hard));
        }
        return values;
    }
    switch (setting.kind) {
        case Kind::text:
        case Kind::flag:
            values.push_back(TRY(scalar(value, key)));
            break;
        case Kind::list:
            if (!value.is_array()) return invalid("configuration file: " + key + ": expected an array");
            for (const json::value& one : value.get_array()) values.push_back(TRY(scalar(one, key)));
            break;
        case Kind::map:
            if (!value.is_object()) return invalid("configuration file: " + key + ": expected an object");
            for (const auto& member : value.get_object()) {
                values.push_back(std::string(member.key()) + "=" + TRY(scalar(member.value(), key)));
            }
            break;
    }
    return values;
}

std::string joined(const std::vector<std::string>& values) {
    std::string text;
    for (const std::string& value : values) text += (text.empty() ? "" : ",") + value;
    return text;
}

Result<> merge_file(const std::string& path, Values& values) {
    const std::string text = TRY(read_file(path, 1U << 20U), "unable to configure the daemon with file " + path);
    const json::object object = TRY(parse_json_object(text), "unable to configure the daemon with file " + path);
    std::string conflicts;
    std::string unknown;
    Values from_file;
    for (const auto& member : object) {
        const std::string key(member.key());
        const auto* setting = std::ranges::find_if(
            settings, [&](const Setting& one) { return one.file_key != nullptr && key == one.file_key; });
        if (setting == std::end(settings)) {
            unknown += (unknown.empty() ? "" : ", ") + key;
            continue;
        }
        std::vector<std::string> theirs = TRY(file_values(*setting, member.value()));
        if (const auto given = values.find(setting->flag); given != values.end()) {
            conflicts += (conflicts.empty() ? "" : ", ") + key + ": (from flag: " + joined(given->second) +
                         ", from file: " + joined(theirs) + ")";
            continue;
        }
        from_file[setting->flag] = std::move(theirs);
    }
    const std::string prefix = "unable to configure the daemon with file " + path + ": the following directives ";
    if (!unknown.empty()) return invalid(prefix + "don't match any configuration option: " + unknown);
    if (!conflicts.empty())
        return invalid(prefix + "are specified both as a flag and in the configuration file: " + conflicts);
    values.merge(from_file);
    return {};
}

class Reader {
  public:
    explicit Reader(const Values& values) : values_(values) {}

    bool has(const char* flag) const { return values_.contains(flag); }
    std::string text(const char* flag, const std::string& fallback) const {
        const auto found = values_.find(flag);
        return found == values_.end() || found->second.empty() ? fallback : found->second.back();
    }
    bool is_set(const char* flag) const { return text(flag, "false") == "true"; }
    std::vector<std::string> list(const char* flag) const {
        const auto found = values_.find(flag);
        return found == values_.end() ? std::vector<std::string>{} : found->second;
    }
    Result<int> number(const char* flag, int fallback) const {
        if (!has(flag)) return fallback;
        const std::string given = text(flag, "");
        int value = 0;
        const auto [end, error] = std::from_chars(given.data(), given.data() + given.size(), value);
        if (error != std::errc{} || end != given.data() + given.size() || value < 0) {
            return invalid("invalid argument \"" + given + "\" for \"--" + flag + "\" flag: expected a number");
        }
        return value;
    }

  private:
    const Values& values_;
};

Result<std::string> absolute(const char* flag, std::string path) {
    if (path.starts_with('/')) {
        while (path.size() > 1 && path.ends_with('/')) path.pop_back();
        return path;
    }
    return invalid("--" + std::string(flag) + ": expected an absolute path, not \"" + path + "\"");
}

// "1048576", "20g": powers of 1024.
Result<std::uint64_t> parse_bytes(const char* flag, const std::string& text) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
    if (unit.ends_with('b') || unit.ends_with('B')) unit.remove_suffix(1);
    constexpr std::string_view units = "kmgt";
    unsigned shift = 0;
    if (!unit.empty()) {
        const std::size_t found = units.find(static_cast<char>(unit.front() | 0x20));
        shift = found == std::string_view::npos || unit.size() > 1 ? 64 : static_cast<unsigned>(found + 1) * 10;
    }
    if (error != std::errc{} || value == 0 || shift == 64 || value > (std::uint64_t{1} << 62U) >> shift)
        return invalid("invalid argument \"" + text + "\" for \"--" + flag + "\" flag: expected a size such as 20g");
    return value << shift;
}

Result<> fill_registry(const Reader& reader, engine::EngineOptions& engine) {
    for (std::string& text : reader.list("insecure-registry")) TRY(engine.registry.add_insecure(std::move(text)));
    for (const std::string& text : reader.list("registry-mirror")) TRY(engine.registry.add_mirror(text));
    if (reader.has("registry-certs")) {
        engine.registry.certificate_folders.clear();
        for (std::string& path : reader.list("registry-certs"))
            engine.registry.certificate_folders.push_back(TRY(absolute("registry-certs", std::move(path))));
    }
    for (auto [flag, value] : {std::pair{"max-concurrent-downloads", &engine.max_concurrent_downloads},
                               std::pair{"max-concurrent-uploads", &engine.max_concurrent_uploads},
                               std::pair{"max-download-attempts", &engine.max_download_attempts}}) {
        const int number = TRY(reader.number(flag, static_cast<int>(*value)));
        if (number < 1 || number > 1000) return invalid("--" + std::string(flag) + ": expected 1 to 1000");
        *value = static_cast<unsigned>(number);
    }
    if (reader.has("max-layer-size"))
        engine.max_layer_bytes = TRY(parse_bytes("max-layer-size", reader.text("max-layer-size", "")));
    return {};
}

Result<> fill(const Reader& reader, Options& options) {
    engine::EngineOptions& engine = options.engine;
    options.hosts = reader.list("host");
    engine.data_root = TRY(absolute("data-root", reader.text("data-root", engine.data_root)));
    engine.exec_root = TRY(absolute("exec-root", reader.text("exec-root", engine.exec_root)));
    options.pidfile = TRY(absolute("pidfile", reader.text("pidfile", "/run/wherry.pid")));
    engine.debug = reader.is_set("debug");
    options.log_level = TRY(parse_log_level(reader.text("log-level", "info")));
    if (engine.debug) options.log_level = LogLevel::debug;
    if (const std::string format = reader.text("log-format", "text"); format != "text") {
        return invalid("unknown log format: " + format + " (there is text)");
    }
    options.group = reader.text("group", "");
    engine.bridge_name = reader.text("bridge", engine.bridge_name);
    engine.bridge_address = reader.text("bip", "");
    if (engine.bridge_name == "none" && reader.has("bip")) {
        return invalid("You specified --bridge none and --bip; mutually exclusive options. Please specify only one");
    }
    engine.mtu = TRY(reader.number("mtu", 0));
    const Nanoseconds kept = TRY(engine::parse_duration(reader.text("undelete-period", "10m")), "--undelete-period");
    engine.undelete_period = std::chrono::duration_cast<std::chrono::seconds>(kept);
    engine.names.server = reader.text("names-server", "");
    engine.names.zone = reader.text("names-zone", "");
    engine.names.address = reader.text("names-address", "");
    if (reader.has("names-key-file"))
        engine.names.key_file = TRY(absolute("names-key-file", reader.text("names-key-file", "")));
    if (engine.names.server.empty() != engine.names.zone.empty())
        return invalid("--names-server and --names-zone go together");
    engine.cgroup_parent = reader.text("cgroup-parent", engine.cgroup_parent);
    if (!engine.cgroup_parent.starts_with('/')) engine.cgroup_parent.insert(0, "/");
    TRY(confine::validate_cgroup_path(engine.cgroup_parent), "--cgroup-parent");
    engine.dns = reader.list("dns");
    engine.dns_options = reader.list("dns-opt");
    engine.dns_search = reader.list("dns-search");
    TRY(net::validate({.servers = engine.dns, .search = engine.dns_search, .options = engine.dns_options}));
    engine.labels = reader.list("label");
    for (const std::string& label : engine.labels) {
        if (label.find('=') == std::string::npos || label.starts_with('='))
            return invalid("bad attribute format: " + label);
    }
    for (const std::string& text : reader.list("default-ulimit")) {
        const confine::ResourceLimit limit = TRY(confine::parse_ulimit(text), "--default-ulimit");
        engine.default_ulimits.push_back(
            {.name = std::string(confine::ulimit_name(limit.resource)),
             .hard = limit.hard == confine::unlimited ? -1 : static_cast<std::int64_t>(limit.hard),
             .soft = limit.soft == confine::unlimited ? -1 : static_cast<std::int64_t>(limit.soft)});
    }
    engine.log_config.type = reader.text("log-driver", "json-file");
    for (const std::string& text : reader.list("log-opt")) {
        const std::size_t equals = text.find('=');
        if (equals == std::string::npos)
            return invalid("invalid argument \"" + text + "\" for \"--log-opt\" flag: expected key=value");
        engine.log_config.config[text.substr(0, equals)] = text.substr(equals + 1);
    }
    TRY(engine::log_options(engine.log_config, {}, "/"));
    TRY(fill_registry(reader, engine));
    options.tls_verify = reader.is_set("tlsverify");
    options.tls = reader.is_set("tls") || options.tls_verify || reader.has("tlscert") || reader.has("tlskey");
    options.tls_ca = reader.text("tlscacert", "");
    options.tls_certificate = reader.text("tlscert", "");
    options.tls_key = reader.text("tlskey", "");
    if (options.tls && (options.tls_certificate.empty() || options.tls_key.empty())) {
        return invalid("TLS needs --tlscert and --tlskey");
    }
    if (options.tls_verify && options.tls_ca.empty()) return invalid("--tlsverify needs --tlscacert");
    options.shutdown_timeout = std::chrono::seconds(TRY(reader.number("shutdown-timeout", 15)));
    return {};
}

}  // namespace

Result<Options> read_options(const std::vector<std::string>& arguments) {
    Values values = TRY(parse_arguments(arguments));
    Options options;
    const Reader flags(values);
    if (flags.is_set("help")) {
        options.action = Options::Action::help;
        return options;
    }
    if (flags.is_set("version")) {
        options.action = Options::Action::version;
        return options;
    }
    const std::string file = flags.text("config-file", default_config_file);
    if (flags.has("config-file") || path_exists(file)) TRY(merge_file(file, values));
    if (flags.is_set("validate")) options.action = Options::Action::validate;
    TRY(fill(Reader(values), options));
    return options;
}

std::string help_text() {
    std::string text =
        "Usage: wherryd [OPTIONS]\n\nThe wherry daemon: images, containers, volumes and networks of this "
        "host.\n\nOptions:\n";
    for (const Setting& setting : settings) {
        std::string left = setting.short_flag != 0 ? "  -" + std::string(1, setting.short_flag) + ", " : "      ";
        left += "--" + std::string(setting.flag);
        if (*setting.placeholder != 0) left += " " + std::string(setting.placeholder);
        left.resize(std::max<std::size_t>(left.size() + 2, 32), ' ');
        text += left + setting.help + "\n";
    }
    return text;
}

}  // namespace wherry::daemon
