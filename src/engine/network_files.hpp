// What a container, or a sandbox that several share, needs of the network apart from the namespace: hosts, hostname,
// resolv.conf; and the wished ports. Internal to the engine. Blocks; on the pool.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "engine/container_spec.hpp"
#include "engine/engine.hpp"
#include "net/files.hpp"
#include "net/network.hpp"

namespace wherry::engine {

struct NetworkFiles {
    std::string hostname_path, hosts_path, resolv_conf_path;
    net::HostsFile hosts;  // `extra` comes from extra_hosts
    net::IpAddress gateway;
    net::ResolverNetwork resolver = net::ResolverNetwork::own;
    const Strings& extra_hosts;
    const Strings& dns;  // empty: the daemon's
    const Strings& dns_search;
    const Strings& dns_options;
};
Result<> write_network_files(const EngineOptions& options, NetworkFiles files);

Result<std::vector<net::PortRequest>> wished_ports(
    const std::map<std::string, std::vector<PortBinding>>& port_bindings);

}  // namespace wherry::engine
