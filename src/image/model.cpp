#include "image/model.hpp"

#include <algorithm>
#include <array>

#include "base/digest.hpp"

namespace wherry::image {

namespace {

constexpr std::size_t max_index_entries = 4096;
constexpr std::size_t max_history = 4096;

Result<> check_size(std::string_view text, std::string_view what) {
    if (text.size() <= max_document_bytes) return {};
    return fail(Code::resource_exhausted, std::string(what) + " is larger than 8 MiB");
}

Result<Platform> parse_platform(const JsonReader& reader) {
    Platform platform;
    platform.os = TRY(reader.string_or("os", ""));
    platform.architecture = TRY(reader.string_or("architecture", ""));
    platform.variant = TRY(reader.string_or("variant", ""));
    platform.os_version = TRY(reader.string_or("os.version", ""));
    return platform;
}

void write_platform(json::object& out, const Platform& platform) {
    out["architecture"] = platform.architecture;
    out["os"] = platform.os;
    if (!platform.os_version.empty()) out["os.version"] = platform.os_version;
    if (!platform.variant.empty()) out["variant"] = platform.variant;
}

json::array to_array(const std::vector<std::string>& values) {
    json::array out;
    for (const auto& value : values) out.emplace_back(value);
    return out;
}

json::object to_object(const std::map<std::string, std::string>& values) {
    json::object out;
    for (const auto& [key, value] : values) out[key] = value;
    return out;
}

json::object keys_to_object(const std::set<std::string>& values) {
    json::object out;
    for (const auto& value : values) out[value] = json::object();
    return out;
}

// {"80/tcp": {}}: a set, written as an object. What a key maps to has no meaning.
Result<std::set<std::string>> key_set(const JsonReader& reader, std::string_view key) {
    std::set<std::string> keys;
    auto child = TRY(reader.child(key));
    if (!child) return keys;
    for (const auto& member : child->object()) keys.emplace(member.key());
    return keys;
}

Result<std::optional<std::vector<std::string>>> optional_strings(const JsonReader& reader, std::string_view key) {
    std::optional<std::vector<std::string>> values;
    if (!reader.has(key)) return values;
    // Docker 1.x wrote a plain string where there was one word.
    const json::value* value = reader.find(key);
    if (value->is_string()) {
        values = std::vector<std::string>{std::string(value->get_string())};
        return values;
    }
    values = TRY(reader.strings(key));
    return values;
}

Result<Healthcheck> parse_healthcheck(const JsonReader& reader) {
    Healthcheck check;
    check.test = TRY(reader.strings("Test"));
    check.interval_ns = TRY(reader.integer_or("Interval", 0));
    check.timeout_ns = TRY(reader.integer_or("Timeout", 0));
    check.start_period_ns = TRY(reader.integer_or("StartPeriod", 0));
    check.start_interval_ns = TRY(reader.integer_or("StartInterval", 0));
    check.retries = TRY(reader.integer_or("Retries", 0));
    return check;
}

json::object encode(const Healthcheck& check) {
    json::object out;
    if (!check.test.empty()) out["Test"] = to_array(check.test);
    if (check.interval_ns != 0) out["Interval"] = check.interval_ns;
    if (check.timeout_ns != 0) out["Timeout"] = check.timeout_ns;
    if (check.start_period_ns != 0) out["StartPeriod"] = check.start_period_ns;
    if (check.start_interval_ns != 0) out["StartInterval"] = check.start_interval_ns;
    if (check.retries != 0) out["Retries"] = check.retries;
    return out;
}

Result<> expect_schema_2(const JsonReader& reader) {
    if (TRY(reader.integer_or("schemaVersion", 0)) != 2) {
        return fail(Code::invalid_argument, "schemaVersion must be 2");
    }
    return {};
}

}  // namespace

Platform host_platform() {
#if defined(__x86_64__)
    return {.os = "linux", .architecture = "amd64", .variant = {}, .os_version = {}};
#elif defined(__aarch64__)
    return {.os = "linux", .architecture = "arm64", .variant = "v8", .os_version = {}};
#else
#error "name this architecture as Go does (GOARCH)"
#endif
}

Result<Platform> parse_platform_name(std::string_view text) {
    const auto invalid = [&](std::string_view why) {
        return fail(Code::invalid_argument,
                    "\"" + std::string(text.substr(0, 100)) + "\": " + std::string(why) + ": invalid argument");
    };
    Platform platform = host_platform();
    std::array<std::string, 3> parts;
    std::size_t count = 0;
    for (std::string_view rest = text;;) {
        if (count == parts.size()) return invalid("cannot parse platform specifier");
        const std::size_t slash = rest.find('/');
        std::string& part = parts.at(count++);
        for (char c : rest.substr(0, slash)) part += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
        const bool named = !part.empty() && std::ranges::all_of(part, [](char c) {
            return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
        });
        if (!named) return invalid("platform specifier component must match \"^[A-Za-z0-9_.-]+$\"");
        if (slash == std::string_view::npos) break;
        rest.remove_prefix(slash + 1);
    }
    constexpr std::array systems{"linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris"};
    constexpr std::array architectures{"amd64", "x86_64", "x86-64", "arm64",    "aarch64", "arm",     "armhf",
                                       "armel", "386",    "i386",   "i686",     "ppc64le", "s390x",   "riscv64",
                                       "mips",  "mipsle", "mips64", "mips64le", "ppc64",   "loong64", "wasm"};
    if (count == 1 && std::ranges::find(systems, parts[0]) != systems.end()) {
        platform.os = parts[0];
        return platform;
    }
    if (count == 1) {
        if (std::ranges::find(architectures, parts[0]) == architectures.end())
            return invalid("unknown operating system or architecture");
        parts = {platform.os, parts[0], ""};
    }
    platform = {.os = parts[0], .architecture = parts[1], .variant = parts[2]};
    std::string& architecture = platform.architecture;
    if (architecture == "x86_64" || architecture == "x86-64") {
        architecture = "amd64";
    } else if (architecture == "aarch64") {
        architecture = "arm64";
    } else if (architecture == "i386" || architecture == "i686") {
        architecture = "386";
    } else if (architecture == "armhf" || architecture == "armel") {
        if (platform.variant.empty()) platform.variant = architecture == "armhf" ? "v7" : "v6";
        architecture = "arm";
    }
    if (architecture == "arm64" && platform.variant == "8") platform.variant = "v8";
    return platform;
}

bool platform_matches(const Platform& wanted, const Platform& offered) {
    return wanted.os == offered.os && wanted.architecture == offered.architecture &&
           (wanted.variant.empty() || offered.variant.empty() || wanted.variant == offered.variant);
}

Result<Descriptor> parse_descriptor(const JsonReader& reader) {
    Descriptor descriptor;
    descriptor.media_type = TRY(reader.string_or("mediaType", ""));
    descriptor.digest = TRY(reader.required_string("digest"));
    if (!is_sha256_digest(descriptor.digest)) return reader.wrong("digest", "a sha256 digest");
    auto size = TRY(reader.unsigned_integer("size"));
    if (!size) return reader.wrong("size", "a size in bytes");
    descriptor.size_bytes = *size;
    if (auto platform = TRY(reader.child("platform"))) descriptor.platform = TRY(parse_platform(*platform));
    descriptor.annotations = TRY(reader.string_map("annotations"));
    descriptor.artifact_type = TRY(reader.string_or("artifactType", ""));
    return descriptor;
}

Result<Manifest> parse_manifest(std::string_view text) {
    TRY(check_size(text, "manifest"));
    json::object object = TRY(parse_json_object(text), "manifest");
    JsonReader reader(object);
    TRY(expect_schema_2(reader), "manifest");
    Manifest manifest;
    manifest.media_type = TRY(reader.string_or("mediaType", media::oci_manifest), "manifest");
    // One document must not be both: readers that disagree about it are a way to smuggle an image.
    if (reader.has("manifests")) return fail(Code::invalid_argument, "manifest: it is an index as well");
    auto config = TRY(reader.child("config"), "manifest");
    if (!config) return fail(Code::invalid_argument, "manifest: config is missing");
    manifest.config = TRY(parse_descriptor(*config), "manifest");
    auto layers = TRY(reader.children("layers"), "manifest");
    if (layers.size() > max_layers) return fail(Code::invalid_argument, "manifest: more than 512 layers");
    for (const auto& layer : layers) manifest.layers.push_back(TRY(parse_descriptor(layer), "manifest"));
    manifest.annotations = TRY(reader.string_map("annotations"), "manifest");
    return manifest;
}

Result<Index> parse_index(std::string_view text) {
    TRY(check_size(text, "index"));
    json::object object = TRY(parse_json_object(text), "index");
    JsonReader reader(object);
    TRY(expect_schema_2(reader), "index");
    Index index;
    index.media_type = TRY(reader.string_or("mediaType", media::oci_index), "index");
    if (reader.has("layers") || reader.has("config"))
        return fail(Code::invalid_argument, "index: it is a manifest as well");
    auto manifests = TRY(reader.children("manifests"), "index");
    if (manifests.size() > max_index_entries) return fail(Code::invalid_argument, "index: more than 4096 entries");
    for (const auto& manifest : manifests) index.manifests.push_back(TRY(parse_descriptor(manifest), "index"));
    index.annotations = TRY(reader.string_map("annotations"), "index");
    return index;
}

Result<RunConfig> parse_run_config(const JsonReader& reader) {
    RunConfig config;
    config.user = TRY(reader.string_or("User", ""));
    config.env = TRY(reader.strings("Env"));
    config.entrypoint = TRY(optional_strings(reader, "Entrypoint"));
    config.cmd = TRY(optional_strings(reader, "Cmd"));
    config.working_dir = TRY(reader.string_or("WorkingDir", ""));
    config.exposed_ports = TRY(key_set(reader, "ExposedPorts"));
    config.volumes = TRY(key_set(reader, "Volumes"));
    config.labels = TRY(reader.string_map("Labels"));
    config.stop_signal = TRY(reader.string_or("StopSignal", ""));
    config.stop_timeout_seconds = TRY(reader.integer("StopTimeout"));
    if (auto check = TRY(reader.child("Healthcheck"))) config.healthcheck = TRY(parse_healthcheck(*check));
    config.shell = TRY(reader.strings("Shell"));
    config.on_build = TRY(reader.strings("OnBuild"));
    config.args_escaped = TRY(reader.boolean_or("ArgsEscaped", false));
    return config;
}

Result<ImageConfig> parse_image_config(std::string_view text) {
    TRY(check_size(text, "image configuration"));
    json::object object = TRY(parse_json_object(text), "image configuration");
    JsonReader reader(object);
    ImageConfig image;
    image.created = TRY(reader.string_or("created", ""), "image configuration");
    image.author = TRY(reader.string_or("author", ""), "image configuration");
    image.platform = TRY(parse_platform(reader), "image configuration");
    image.docker_version = TRY(reader.string_or("docker_version", ""), "image configuration");
    if (auto config = TRY(reader.child("config"), "image configuration")) {
        image.config = TRY(parse_run_config(*config), "image configuration");
    }
    auto rootfs = TRY(reader.child("rootfs"), "image configuration");
    if (!rootfs) return fail(Code::invalid_argument, "image configuration: rootfs is missing");
    if (TRY(rootfs->string_or("type", "layers"), "image configuration") != "layers") {
        return fail(Code::invalid_argument, "image configuration: rootfs.type must be \"layers\"");
    }
    image.diff_ids = TRY(rootfs->strings("diff_ids"), "image configuration");
    if (image.diff_ids.size() > max_layers)
        return fail(Code::invalid_argument, "image configuration: more than 512 layers");
    if (!std::ranges::all_of(image.diff_ids, is_sha256_digest)) {
        return fail(Code::invalid_argument,
                    "image configuration: rootfs.diff_ids holds something else than sha256 digests");
    }
    auto history = TRY(reader.children("history"), "image configuration");
    if (history.size() > max_history)
        return fail(Code::invalid_argument, "image configuration: more than 4096 history entries");
    for (const auto& entry : history) {
        HistoryEntry step;
        step.created = TRY(entry.string_or("created", ""), "image configuration");
        step.created_by = TRY(entry.string_or("created_by", ""), "image configuration");
        step.author = TRY(entry.string_or("author", ""), "image configuration");
        step.comment = TRY(entry.string_or("comment", ""), "image configuration");
        step.empty_layer = TRY(entry.boolean_or("empty_layer", false), "image configuration");
        image.history.push_back(std::move(step));
    }
    return image;
}

json::object encode(const Descriptor& descriptor) {
    json::object out;
    out["mediaType"] = descriptor.media_type;
    out["digest"] = descriptor.digest;
    out["size"] = descriptor.size_bytes;
    if (!descriptor.annotations.empty()) out["annotations"] = to_object(descriptor.annotations);
    if (descriptor.platform) {
        json::object platform;
        write_platform(platform, *descriptor.platform);
        out["platform"] = std::move(platform);
    }
    if (!descriptor.artifact_type.empty()) out["artifactType"] = descriptor.artifact_type;
    return out;
}

json::object encode(const Manifest& manifest) {
    json::object out;
    out["schemaVersion"] = 2;
    out["mediaType"] = manifest.media_type;
    out["config"] = encode(manifest.config);
    json::array layers;
    for (const auto& layer : manifest.layers) layers.push_back(encode(layer));
    out["layers"] = std::move(layers);
    if (!manifest.annotations.empty()) out["annotations"] = to_object(manifest.annotations);
    return out;
}

json::object encode(const Index& index) {
    json::object out;
    out["schemaVersion"] = 2;
    out["mediaType"] = index.media_type;
    json::array manifests;
    for (const auto& manifest : index.manifests) manifests.push_back(encode(manifest));
    out["manifests"] = std::move(manifests);
    if (!index.annotations.empty()) out["annotations"] = to_object(index.annotations);
    return out;
}

json::object encode(const RunConfig& config) {
    json::object out;
    if (!config.user.empty()) out["User"] = config.user;
    if (!config.exposed_ports.empty()) out["ExposedPorts"] = keys_to_object(config.exposed_ports);
    if (!config.env.empty()) out["Env"] = to_array(config.env);
    if (config.entrypoint) out["Entrypoint"] = to_array(*config.entrypoint);
    if (config.cmd) out["Cmd"] = to_array(*config.cmd);
    if (config.healthcheck) out["Healthcheck"] = encode(*config.healthcheck);
    if (config.args_escaped) out["ArgsEscaped"] = true;
    if (!config.volumes.empty()) out["Volumes"] = keys_to_object(config.volumes);
    if (!config.working_dir.empty()) out["WorkingDir"] = config.working_dir;
    if (!config.on_build.empty()) out["OnBuild"] = to_array(config.on_build);
    if (!config.labels.empty()) out["Labels"] = to_object(config.labels);
    if (!config.stop_signal.empty()) out["StopSignal"] = config.stop_signal;
    if (config.stop_timeout_seconds) out["StopTimeout"] = *config.stop_timeout_seconds;
    if (!config.shell.empty()) out["Shell"] = to_array(config.shell);
    return out;
}

json::object encode(const ImageConfig& image) {
    json::object out;
    if (!image.created.empty()) out["created"] = image.created;
    if (!image.author.empty()) out["author"] = image.author;
    write_platform(out, image.platform);
    if (!image.docker_version.empty()) out["docker_version"] = image.docker_version;
    out["config"] = encode(image.config);
    json::object rootfs;
    rootfs["type"] = "layers";
    rootfs["diff_ids"] = to_array(image.diff_ids);
    out["rootfs"] = std::move(rootfs);
    json::array history;
    for (const auto& step : image.history) {
        json::object entry;
        if (!step.created.empty()) entry["created"] = step.created;
        if (!step.created_by.empty()) entry["created_by"] = step.created_by;
        if (!step.author.empty()) entry["author"] = step.author;
        if (!step.comment.empty()) entry["comment"] = step.comment;
        if (step.empty_layer) entry["empty_layer"] = true;
        history.push_back(std::move(entry));
    }
    out["history"] = std::move(history);
    return out;
}

}  // namespace wherry::image
