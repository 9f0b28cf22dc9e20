// Where a registry is reached: its own host, the mirrors an administrator named for it, over http or https.
// Pure functions over the configuration; only certificate folders are looked into.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "http/client.hpp"

namespace wherry::image {

// Of the daemon: what dockerd has in daemon.json and in certs.d.
struct RegistryConfig {
    // "host", "host:port", "10.0.0.0/8": spoken to by https without verification, or http where there is no https.
    std::vector<std::string> insecure_registries;
    // Folders of <host>/*.crt (authorities), <host>/*.cert and *.key (our certificate); the first that has one serves.
    std::vector<std::string> certificate_folders{"/etc/wherry/certs.d", "/etc/docker/certs.d"};
    std::map<std::string, std::vector<std::string>> mirrors;  // host of a registry -> base URLs, tried in order

    // "https://mirror" (for Docker Hub) or "host=https://mirror"; invalid_argument otherwise.
    Result<> add_mirror(std::string_view text);
    Result<> add_insecure(std::string text);
};

// One place to ask.
struct RegistryLocation {
    std::string host;           // as in references: "localhost:5000", "registry-1.docker.io"
    std::string prefix;         // of paths, "" or "/some/path"
    std::optional<bool> plain;  // http is chosen, https is chosen; not: by rules and by trying
    bool mirror = false;
};

// The registry's own place ("docker.io" is registry-1.docker.io).
RegistryLocation own_location(std::string_view host);
// The mirrors in order, then the registry itself.
std::vector<RegistryLocation> pull_locations(const RegistryConfig& config, std::string_view host);

// Whether plain http is spoken to a host without being told: localhost, 127.0.0.0/8, ::1, with or without a port.
bool is_loopback_registry(std::string_view host);
// The above, and what the configuration names.
bool is_insecure_registry(const RegistryConfig& config, std::string_view host);

// An address of https with the certificates that are meant for the host. invalid_argument: no such host name or port.
Result<http::Endpoint> secure_endpoint(const RegistryConfig& config, const std::string& host);
Result<http::Endpoint> plain_endpoint(const std::string& host);

}  // namespace wherry::image
