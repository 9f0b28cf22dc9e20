// The messages of containerd's sandbox API for shims (containerd/api/runtime/sandbox/v1/sandbox.proto), and of CRI's
// PodSandboxConfig, which comes with CreateSandbox, what a sandbox needs (k8s.io/cri-api, runtime/v1/api.proto).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/containerd/messages.hpp"

namespace wherry::api::containerd {

inline constexpr std::string_view sandbox_service_name = "containerd.runtime.sandbox.v1.Sandbox";

struct CreateSandboxRequest {
    std::string sandbox_id, bundle_path;
    std::vector<Mount> rootfs;
    std::optional<Any> options;
    std::string netns_path;
    WHERRY_WIRE_FIELDS(f(1, s.sandbox_id), f(2, s.bundle_path), f(3, s.rootfs), f(4, s.options), f(5, s.netns_path))
};

// Start, Platform, Wait, Ping, Shutdown, Metrics; Status and Stop have one field more each.
struct SandboxIdRequest {
    std::string sandbox_id;
    WHERRY_WIRE_FIELDS(f(1, s.sandbox_id))
};

struct StartSandboxResponse {
    std::uint32_t pid = 0;
    Timestamp created_at;
    WHERRY_WIRE_FIELDS(f(1, s.pid), f(2, s.created_at))
};

struct Platform {
    std::string os, architecture, variant;
    WHERRY_WIRE_FIELDS(f(1, s.os), f(2, s.architecture), f(3, s.variant))
};
struct PlatformResponse {
    Platform platform;
    WHERRY_WIRE_FIELDS(f(1, s.platform))
};

struct StopSandboxRequest {
    std::string sandbox_id;
    std::uint32_t timeout_secs = 0;
    WHERRY_WIRE_FIELDS(f(1, s.sandbox_id), f(2, s.timeout_secs))
};

struct WaitSandboxResponse {
    std::uint32_t exit_status = 0;
    Timestamp exited_at;
    WHERRY_WIRE_FIELDS(f(1, s.exit_status), f(2, s.exited_at))
};

struct SandboxStatusRequest {
    std::string sandbox_id;
    bool verbose = false;
    WHERRY_WIRE_FIELDS(f(1, s.sandbox_id), f(2, s.verbose))
};
struct SandboxStatusResponse {
    std::string sandbox_id;
    std::uint32_t pid = 0;
    std::string state;
    std::map<std::string, std::string> info;
    Timestamp created_at, exited_at;
    WHERRY_WIRE_FIELDS(f(1, s.sandbox_id), f(2, s.pid), f(3, s.state), f(4, s.info), f(5, s.created_at),
                       f(6, s.exited_at))
};

struct Metric {
    Timestamp timestamp;
    std::string id;
    std::optional<Any> data;
    WHERRY_WIRE_FIELDS(f(1, s.timestamp), f(2, s.id), f(3, s.data))
};
struct SandboxMetricsResponse {
    Metric metrics;
    WHERRY_WIRE_FIELDS(f(1, s.metrics))
};

// ---- CRI

inline constexpr std::string_view pod_config_type = "runtime.v1.PodSandboxConfig";

enum class NamespaceMode : std::uint8_t { pod = 0, container = 1, node = 2, target = 3 };

struct PodIdMapping {
    std::uint32_t host_id = 0, container_id = 0, length = 0;
    WHERRY_WIRE_FIELDS(f(1, s.host_id), f(2, s.container_id), f(3, s.length))
};
struct PodUserNamespace {
    NamespaceMode mode = NamespaceMode::pod;
    std::vector<PodIdMapping> uids;
    WHERRY_WIRE_FIELDS(f(1, s.mode), f(2, s.uids))
};
struct PodNamespaceOptions {
    NamespaceMode network = NamespaceMode::pod, pid = NamespaceMode::pod, ipc = NamespaceMode::pod;
    std::optional<PodUserNamespace> user;
    WHERRY_WIRE_FIELDS(f(1, s.network), f(2, s.pid), f(3, s.ipc), f(5, s.user))
};
struct PodSecurityContext {
    PodNamespaceOptions namespaces;
    WHERRY_WIRE_FIELDS(f(1, s.namespaces))
};
struct LinuxPodConfig {
    PodSecurityContext security;
    std::map<std::string, std::string> sysctls;
    WHERRY_WIRE_FIELDS(f(2, s.security), f(3, s.sysctls))
};
struct PodConfig {
    std::string hostname;
    LinuxPodConfig linux_part;
    WHERRY_WIRE_FIELDS(f(2, s.hostname), f(8, s.linux_part))
};

}  // namespace wherry::api::containerd
