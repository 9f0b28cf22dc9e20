// Networks.
#include <array>

#include "api/docker/call.hpp"
#include "api/docker/shapes.hpp"

namespace wherry::api::docker {
namespace {

asio::awaitable<Result<>> list_networks(Call& call) {
    CO_TRY(auto filters, call.filters());
    CO_TRY(auto networks, co_await call.engine.networks().list(std::move(filters)));
    JsonWriter writer;
    writer.begin_array();
    for (auto& network : networks) {
        network.containers.clear();  // the list does not show them (since 1.28)
        write_network(writer, network);
    }
    writer.end_array();
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> inspect_network(Call& call) {
    CO_TRY(auto network, co_await call.engine.networks().inspect(call.name()));
    JsonWriter writer;
    write_network(writer, network);
    co_return co_await call.send_json(200, std::move(writer));
}

Result<engine::NetworkCreate> decode_network(const json::object& body) {
    JsonReader reader(body);
    engine::NetworkCreate request;
    request.name = TRY(reader.string_or("Name", ""));
    request.driver = TRY(reader.string_or("Driver", "bridge"));
    request.check_duplicate = TRY(reader.boolean_or("CheckDuplicate", false));
    request.internal = TRY(reader.boolean_or("Internal", false));
    request.attachable = TRY(reader.boolean_or("Attachable", false));
    request.enable_ipv6 = TRY(reader.boolean_or("EnableIPv6", false));
    request.options = TRY(reader.string_map("Options"));
    request.labels = TRY(reader.string_map("Labels"));
    if (auto ipam = TRY(reader.child("IPAM"))) {
        for (const JsonReader& pool : TRY(ipam->children("Config")))
            request.pools.push_back({TRY(pool.string_or("Subnet", "")), TRY(pool.string_or("Gateway", ""))});
    }
    if (request.name.empty()) return fail(Code::invalid_argument, "network name cannot be empty");
    return request;
}

asio::awaitable<Result<>> create_network(Call& call) {
    CO_TRY(auto body, co_await call.json_body(Call::Body::required));
    CO_TRY(auto request, decode_network(body));
    CO_TRY(auto id, co_await call.engine.networks().create(std::move(request)));
    JsonWriter writer;
    writer.begin_object().member("Id", id).member("Warning", "").end_object();
    co_return co_await call.send_json(201, std::move(writer));
}

asio::awaitable<Result<>> remove_network(Call& call) {
    CO_CHECK(co_await call.engine.networks().remove(call.name()));
    co_return co_await call.send_status(204);
}

asio::awaitable<Result<>> connect(Call& call) {
    CO_TRY(auto body, co_await call.json_body(Call::Body::required));
    JsonReader reader(body);
    CO_TRY(auto container, reader.required_string("Container"));
    engine::EndpointSettings settings;
    if (reader.has("EndpointConfig")) {
        // The same codec as of a container's wishes: one endpoint under a made-up name.
        json::object endpoints{{"x", *reader.find("EndpointConfig")}};
        CO_TRY(auto networking,
               engine::decode_networking_config(json::object{{"EndpointsConfig", std::move(endpoints)}}, "connect"));
        if (auto found = networking.endpoints.find("x"); found != networking.endpoints.end()) settings = found->second;
    }
    CO_CHECK(co_await call.engine.networks().connect(call.name(), std::move(container), std::move(settings)));
    co_return co_await call.send_status(200);
}

asio::awaitable<Result<>> disconnect(Call& call) {
    CO_TRY(auto body, co_await call.json_body(Call::Body::required));
    JsonReader reader(body);
    CO_TRY(auto container, reader.required_string("Container"));
    CO_TRY(bool force, reader.boolean_or("Force", false));
    CO_CHECK(co_await call.engine.networks().disconnect(call.name(), std::move(container), force));
    co_return co_await call.send_status(200);
}

asio::awaitable<Result<>> prune_networks(Call& call) {
    CO_TRY(auto filters, call.filters());
    CO_TRY(auto deleted, co_await call.engine.networks().prune(std::move(filters)));
    JsonWriter writer;
    writer.begin_object().member_or_null("NetworksDeleted", deleted).end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

}  // namespace

std::span<const Route> network_routes() {
    static constexpr std::array routes = {
        Route{"GET", "/networks", list_networks},           Route{"GET", "/networks/", list_networks},
        Route{"POST", "/networks/create", create_network},  Route{"POST", "/networks/prune", prune_networks},
        Route{"GET", "/networks/{name}", inspect_network},  Route{"DELETE", "/networks/{name}", remove_network},
        Route{"POST", "/networks/{name}/connect", connect}, Route{"POST", "/networks/{name}/disconnect", disconnect},
    };
    return routes;
}

}  // namespace wherry::api::docker
