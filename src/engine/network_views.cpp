#include "engine/network_views.hpp"

namespace wherry::engine {

EndpointView endpoint_view(const net::Endpoint& endpoint) {
    EndpointView view;
    view.gateway = endpoint.gateway.to_string();
    view.ip_address = endpoint.address.to_string();
    view.ip_prefix_length = static_cast<int>(endpoint.prefix_length);
    view.mac_address = endpoint.mac.to_string();
    view.ipv6_gateway = endpoint.gateway6.to_string();
    view.global_ipv6_address = endpoint.address6.to_string();
    view.global_ipv6_prefix_length = static_cast<int>(endpoint.prefix_length6);
    return view;
}

std::vector<PublishedPort> port_views(const std::vector<net::PublishedPort>& ports) {
    std::vector<PublishedPort> views;
    views.reserve(ports.size());
    for (const net::PublishedPort& port : ports) {
        views.push_back({.container_port = port.container.port,
                         .protocol = std::string(net::to_string(port.container.protocol)),
                         .host_ip = port.host_address.is_set() ? port.host_address.to_string() : "0.0.0.0",
                         .host_port = port.host_port});
    }
    return views;
}

}  // namespace wherry::engine
