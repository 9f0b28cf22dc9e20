#include "engine/endpoint_record.hpp"

#include <string>
#include <string_view>

namespace wherry::engine {
namespace {

json::object to_object(const net::Endpoint& endpoint) {
    return {{"sandbox", endpoint.sandbox_id},
            {"bridge", endpoint.bridge},
            {"host_link", endpoint.host_link},
            {"interface", endpoint.interface},
            {"mac", endpoint.mac.to_string()},
            {"address", endpoint.address.to_string()},
            {"prefix", endpoint.prefix_length},
            {"gateway", endpoint.gateway.to_string()},
            {"address6", endpoint.address6.to_string()},
            {"prefix6", endpoint.prefix_length6},
            {"gateway6", endpoint.gateway6.to_string()},
            {"mtu", endpoint.mtu}};
}

Result<net::IpAddress> address_from(const JsonReader& reader, std::string_view key) {
    const std::string text = TRY(reader.string_or(key, ""));
    if (text.empty()) return net::IpAddress{};
    return net::IpAddress::parse(text);
}

Result<net::Endpoint> endpoint_from(const JsonReader& reader) {
    net::Endpoint endpoint;
    endpoint.sandbox_id = TRY(reader.string_or("sandbox", ""));
    endpoint.bridge = TRY(reader.string_or("bridge", ""));
    endpoint.host_link = TRY(reader.string_or("host_link", ""));
    endpoint.interface = TRY(reader.string_or("interface", ""));
    endpoint.mac = TRY(net::MacAddress::parse(TRY(reader.string_or("mac", ""))));
    endpoint.address = TRY(address_from(reader, "address"));
    endpoint.prefix_length = static_cast<unsigned>(TRY(reader.integer_or("prefix", 0)));
    endpoint.gateway = TRY(address_from(reader, "gateway"));
    endpoint.address6 = TRY(address_from(reader, "address6"));
    endpoint.prefix_length6 = static_cast<unsigned>(TRY(reader.integer_or("prefix6", 0)));
    endpoint.gateway6 = TRY(address_from(reader, "gateway6"));
    endpoint.mtu = static_cast<unsigned>(TRY(reader.integer_or("mtu", 0)));
    return endpoint;
}

json::object to_object(const net::PublishedPort& port) {
    return {{"container", port.container.to_string()},
            {"host_address", port.host_address.to_string()},
            {"host_port", port.host_port}};
}

Result<net::PublishedPort> port_from(const JsonReader& reader) {
    net::PublishedPort port;
    port.container = TRY(net::ContainerPort::parse(TRY(reader.required_string("container"))));
    port.host_address = TRY(address_from(reader, "host_address"));
    port.host_port = static_cast<std::uint16_t>(TRY(reader.integer_or("host_port", 0)));
    return port;
}

}  // namespace

void write_network_status(json::object& status, const std::optional<net::Endpoint>& endpoint,
                          const std::vector<net::PublishedPort>& ports) {
    json::array list;
    for (const net::PublishedPort& port : ports) list.push_back(to_object(port));
    status["ports"] = std::move(list);
    if (endpoint) status["endpoint"] = to_object(*endpoint);
}

Result<> read_network_status(const JsonReader& status, std::optional<net::Endpoint>& endpoint,
                             std::vector<net::PublishedPort>& ports) {
    if (const auto found = TRY(status.child("endpoint"))) endpoint = TRY(endpoint_from(*found));
    for (const JsonReader& port : TRY(status.children("ports"))) ports.push_back(TRY(port_from(port)));
    return {};
}

}  // namespace wherry::engine
