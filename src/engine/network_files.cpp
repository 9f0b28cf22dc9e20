#include "engine/network_files.hpp"

#include "base/fd.hpp"

namespace wherry::engine {

Result<> write_network_files(const EngineOptions& options, NetworkFiles files) {
    for (const std::string& entry : files.extra_hosts)
        files.hosts.extra.push_back(TRY(net::parse_extra_host(entry, files.gateway)));
    net::ResolverOverrides overrides{.servers = files.dns, .search = files.dns_search, .options = files.dns_options};
    if (overrides.servers.empty()) overrides.servers = options.dns;
    if (overrides.search.empty()) overrides.search = options.dns_search;
    if (overrides.options.empty()) overrides.options = options.dns_options;
    const net::ResolverConfig resolver =
        net::container_resolver(TRY(net::read_host_resolver()), overrides, files.resolver);
    TRY(write_file_atomic(files.hosts_path, net::make_hosts_file(files.hosts), 0644, Durability::none));
    TRY(write_file_atomic(files.hostname_path, net::make_hostname_file(files.hosts.hostname), 0644, Durability::none));
    return write_file_atomic(files.resolv_conf_path, net::make_resolver_file(resolver), 0644, Durability::none);
}

Result<std::vector<net::PortRequest>> wished_ports(
    const std::map<std::string, std::vector<PortBinding>>& port_bindings) {
    std::vector<net::PortRequest> requests;
    for (const auto& [port, bindings] : port_bindings) {
        for (const PortBinding& binding : bindings)
            requests.push_back(TRY(net::parse_binding(port, binding.host_ip, binding.host_port)));
        if (bindings.empty()) requests.push_back(TRY(net::parse_binding(port, "", "")));
    }
    return requests;
}

}  // namespace wherry::engine
