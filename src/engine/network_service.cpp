#include "engine/network_service.hpp"

#include <algorithm>
#include <array>

#include "engine/process_table.hpp"

namespace wherry::engine {
namespace {

constexpr std::array<std::string_view, 3> predefined{"bridge", "host", "none"};

bool any_is(const Filters& filters, const char* key, auto&& test) {
    const auto found = filters.find(key);
    return found == filters.end() || found->second.empty() || std::ranges::any_of(found->second, test);
}

}  // namespace

NetworkView NetworkService::view(std::string_view name) const {
    NetworkView network;
    network.name = name;
    network.id = network_id(core_, name);
    network.created = started_;
    network.driver = name == "none" ? "null" : std::string(name);
    if (name == "bridge") {
        const net::BridgeInfo& bridge = core_.bridge;
        network.pools.push_back({.subnet = bridge.subnet.network().to_string(), .gateway = bridge.gateway.to_string()});
        network.enable_ipv6 = bridge.subnet6.has_value();
        network.options = {{"com.docker.network.bridge.default_bridge", "true"},
                           {"com.docker.network.bridge.enable_icc", "true"},
                           {"com.docker.network.bridge.enable_ip_masquerade", "true"},
                           {"com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"},
                           {"com.docker.network.bridge.name", bridge.name},
                           {"com.docker.network.driver.mtu", std::to_string(bridge.mtu)}};
    }
    for (const ContainerPtr& container : core_.containers.all()) {
        if (!container->is_running() || container->host_config().network_mode != name) continue;
        NetworkContainer one;
        one.name = container->name;
        one.endpoint_id = network_id(core_, std::string(name) + "/" + container->id);
        if (container->endpoint) {
            one.mac_address = container->endpoint->mac.to_string();
            one.ipv4_address =
                container->endpoint->address.to_string() + "/" + std::to_string(container->endpoint->prefix_length);
            if (container->endpoint->address6.is_set()) {
                one.ipv6_address = container->endpoint->address6.to_string() + "/" +
                                   std::to_string(container->endpoint->prefix_length6);
            }
        }
        network.containers.emplace(container->id, std::move(one));
    }
    return network;
}

Result<std::string> NetworkService::find(const std::string& reference) const {
    for (const std::string_view name : predefined) {
        if (reference == name || network_id(core_, name) == reference) return std::string(name);
    }
    std::vector<std::string_view> matching;
    for (const std::string_view name : predefined) {
        if (!reference.empty() && network_id(core_, name).starts_with(reference)) matching.push_back(name);
    }
    if (matching.size() == 1) return std::string(matching.front());
    if (matching.size() > 1)
        return fail(Code::invalid_argument, "network " + reference + " is ambiguous (" +
                                                std::to_string(matching.size()) + " matches found on ID prefix)");
    return fail(Code::not_found, "network " + reference + " not found");
}

asio::awaitable<Result<std::vector<NetworkView>>> NetworkService::list(Filters filters) {
    CO_CHECK(check_filters(filters, {"dangling", "driver", "id", "label", "name", "scope", "type"}));
    std::vector<NetworkView> networks;
    for (const std::string_view name : predefined) {
        NetworkView network = view(name);
        const bool good =
            any_is(filters, "name",
                   [&](const std::string& one) { return network.name.find(one) != std::string::npos; }) &&
            any_is(filters, "id", [&](const std::string& one) { return network.id.starts_with(one); }) &&
            any_is(filters, "driver", [&](const std::string& one) { return network.driver == one; }) &&
            any_is(filters, "scope", [](const std::string& one) { return one == "local"; }) &&
            any_is(filters, "type", [](const std::string& one) { return one == "builtin"; }) &&
            any_is(filters, "label", [&](const std::string& one) { return labels_match(network.labels, {one}); }) &&
            any_is(filters, "dangling", [](const std::string& one) { return one != "true" && one != "1"; });
        if (good) networks.push_back(std::move(network));
    }
    co_return networks;
}

asio::awaitable<Result<NetworkView>> NetworkService::inspect(std::string reference) {
    CO_TRY(const std::string name, find(reference));
    co_return view(name);
}

asio::awaitable<Result<std::string>> NetworkService::create(NetworkCreate request) {
    if (request.name.empty()) co_return fail(Code::invalid_argument, "network name cannot be empty");
    if (std::ranges::find(predefined, std::string_view(request.name)) != predefined.end()) {
        co_return fail(Code::permission_denied,
                       "operation is not permitted on predefined " + request.name + " network");
    }
    co_return fail(
        Code::unimplemented,
        "user-defined networks are not available in this version: use bridge, host, none or container:<name>");
}

asio::awaitable<Result<>> NetworkService::remove(std::string reference) {
    CO_TRY(const std::string name, find(reference));
    co_return fail(Code::permission_denied, name + " is a pre-defined network and cannot be removed");
}

asio::awaitable<Result<>> NetworkService::connect(std::string network, std::string container, EndpointSettings) {
    CO_TRY(const std::string name, find(network));
    CO_TRY(const ContainerPtr found, core_.containers.find(container));
    if (found->host_config().network_mode == name)
        co_return fail(Code::permission_denied,
                       "endpoint with name " + found->name + " already exists in network " + name);
    co_return fail(Code::unimplemented, "a container cannot change its network in this version");
}

asio::awaitable<Result<>> NetworkService::disconnect(std::string network, std::string container, bool) {
    CO_TRY(const std::string name, find(network));
    CO_TRY(const ContainerPtr found, core_.containers.find(container));
    if (found->host_config().network_mode != name)
        co_return fail(Code::permission_denied, "container " + found->id + " is not connected to network " + name);
    co_return fail(Code::unimplemented, "a container cannot change its network in this version");
}

asio::awaitable<Result<Strings>> NetworkService::prune(Filters filters) {
    CO_CHECK(check_filters(filters, {"label", "label!", "until"}));
    co_return Strings{};  // the predefined ones stay
}

}  // namespace wherry::engine
