// The documents an image is made of: configuration (image-spec config.md and Docker's additions), manifest, index and
// descriptors. Parsing is strict about types and limited in size; unknown members of a configuration are kept, because
// an image's id is the digest of the configuration's bytes.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"

namespace wherry::image {

inline constexpr std::size_t max_document_bytes = 8U << 20U;  // a configuration, manifest or index
inline constexpr std::size_t max_layers = 512;

namespace media {
inline constexpr std::string_view oci_manifest = "application/vnd.oci.image.manifest.v1+json";
inline constexpr std::string_view oci_index = "application/vnd.oci.image.index.v1+json";
inline constexpr std::string_view oci_config = "application/vnd.oci.image.config.v1+json";
inline constexpr std::string_view oci_layer = "application/vnd.oci.image.layer.v1.tar";
inline constexpr std::string_view oci_layer_gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
inline constexpr std::string_view oci_layer_zstd = "application/vnd.oci.image.layer.v1.tar+zstd";
inline constexpr std::string_view docker_manifest = "application/vnd.docker.distribution.manifest.v2+json";
inline constexpr std::string_view docker_manifest_list = "application/vnd.docker.distribution.manifest.list.v2+json";
inline constexpr std::string_view docker_config = "application/vnd.docker.container.image.v1+json";
inline constexpr std::string_view docker_layer = "application/vnd.docker.image.rootfs.diff.tar";
inline constexpr std::string_view docker_layer_gzip = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}  // namespace media

struct Platform {
    std::string os;
    std::string architecture;
    std::string variant;
    std::string os_version;
    bool operator==(const Platform&) const = default;
};
Platform host_platform();  // linux, amd64
// "linux/arm64/v8", "arm64", "linux"; names other than Go's ("aarch64", "x86_64") are understood. invalid_argument.
Result<Platform> parse_platform_name(std::string_view text);
// Whether an image for `offered` runs where `wanted` is asked for; an empty variant matches any.
bool platform_matches(const Platform& wanted, const Platform& offered);

struct Descriptor {
    std::string media_type;
    std::string digest;  // validated: sha256
    std::uint64_t size_bytes = 0;
    std::optional<Platform> platform;
    std::map<std::string, std::string> annotations;
    std::string artifact_type;
};

struct Manifest {
    std::string media_type;
    Descriptor config;
    std::vector<Descriptor> layers;
    std::map<std::string, std::string> annotations;
};

struct Index {
    std::string media_type;
    std::vector<Descriptor> manifests;
    std::map<std::string, std::string> annotations;
};

// Durations in nanoseconds, as Docker writes them.
struct Healthcheck {
    std::vector<std::string> test;  // {"NONE"}, {"CMD", ...}, {"CMD-SHELL", "..."}; empty: inherit
    std::int64_t interval_ns = 0;
    std::int64_t timeout_ns = 0;
    std::int64_t start_period_ns = 0;
    std::int64_t start_interval_ns = 0;
    std::int64_t retries = 0;
    bool operator==(const Healthcheck&) const = default;
};

// What a container made from the image runs with unless told otherwise ("config" of the document).
struct RunConfig {
    std::string user;
    std::vector<std::string> env;                        // NAME=value
    std::optional<std::vector<std::string>> entrypoint;  // nullopt: none; Docker tells null from []
    std::optional<std::vector<std::string>> cmd;
    std::string working_dir;
    std::set<std::string> exposed_ports;  // "80/tcp"
    std::set<std::string> volumes;        // paths
    std::map<std::string, std::string> labels;
    std::string stop_signal;
    std::optional<std::int64_t> stop_timeout_seconds;
    std::optional<Healthcheck> healthcheck;
    std::vector<std::string> shell;
    std::vector<std::string> on_build;
    bool args_escaped = false;
    bool operator==(const RunConfig&) const = default;
};

struct HistoryEntry {
    std::string created;  // RFC 3339 or empty
    std::string created_by;
    std::string author;
    std::string comment;
    bool empty_layer = false;
};

struct ImageConfig {
    std::string created;  // RFC 3339 or empty
    std::string author;
    Platform platform;
    RunConfig config;
    std::vector<std::string> diff_ids;  // lowest layer first; validated
    std::vector<HistoryEntry> history;
    std::string docker_version;
};

// Which writer's media types a manifest uses.
Result<Descriptor> parse_descriptor(const JsonReader& reader);
Result<Manifest> parse_manifest(std::string_view text);
Result<Index> parse_index(std::string_view text);
Result<ImageConfig> parse_image_config(std::string_view text);
Result<RunConfig> parse_run_config(const JsonReader& reader);

json::object encode(const Descriptor& descriptor);
json::object encode(const Manifest& manifest);
json::object encode(const Index& index);
json::object encode(const ImageConfig& config);
json::object encode(const RunConfig& config);  // Docker's spelling: "Env", "Cmd", ...

// One Dockerfile instruction of `import --change` and `commit --change`: CMD ENTRYPOINT ENV EXPOSE LABEL ONBUILD USER
// VOLUME WORKDIR STOPSIGNAL SHELL HEALTHCHECK, shell and exec forms. invalid_argument says what is wrong with it.
Result<> apply_change(RunConfig& config, std::string_view instruction);

}  // namespace wherry::image
