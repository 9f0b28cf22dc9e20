// Sandboxes that containers share: wherry's own addition to the API.
#include <array>

#include "api/docker/call.hpp"
#include "api/docker/shapes.hpp"

namespace wherry::api::docker {
namespace {

void write_sandbox(JsonWriter& writer, const engine::SandboxView& sandbox) {
    writer.begin_object()
        .member("Id", sandbox.id)
        .member("Name", sandbox.name)
        .member("Created", sandbox.created)
        .member("State", sandbox.state)
        .member("StartedAt", sandbox.started_at);
    writer.key("Config").value(json::value(engine::encode_sandbox_spec(sandbox.spec)));
    writer.key("Network");
    if (sandbox.endpoint)
        write_endpoint(writer, *sandbox.endpoint);
    else
        writer.null();
    writer.key("Ports").begin_array();
    for (const engine::PublishedPort& port : sandbox.ports)
        writer.begin_object()
            .member("IP", port.host_ip)
            .member("PrivatePort", port.container_port)
            .member("PublicPort", port.host_port)
            .member("Type", port.protocol)
            .end_object();
    writer.end_array().key("Containers").begin_array();
    for (const engine::SandboxMember& container : sandbox.containers)
        writer.begin_object()
            .member("Id", container.id)
            .member("Name", container.name)
            .member("State", container.state)
            .end_object();
    writer.end_array().end_object();
}

asio::awaitable<Result<>> list_sandboxes(Call& call) {
    CO_TRY(auto filters, call.filters());
    CO_TRY(auto sandboxes, co_await call.engine.sandboxes().list_sandboxes(std::move(filters)));
    JsonWriter writer;
    writer.begin_array();
    for (const auto& sandbox : sandboxes) write_sandbox(writer, sandbox);
    writer.end_array();
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> create_sandbox(Call& call) {
    CO_TRY(auto body, co_await call.json_body(Call::Body::optional));
    engine::SandboxCreate request;
    request.name = call.text("name");
    if (request.name.empty()) {
        CO_TRY(request.name, JsonReader(body).string_or("Name", ""));
    }
    CO_TRY(request.spec, engine::decode_sandbox_spec(body));
    CO_TRY(auto id, co_await call.engine.sandboxes().create_sandbox(std::move(request)));
    JsonWriter writer;
    writer.begin_object().member("Id", id).end_object();
    co_return co_await call.send_json(201, std::move(writer));
}

asio::awaitable<Result<>> inspect_sandbox(Call& call) {
    CO_TRY(auto sandbox, co_await call.engine.sandboxes().inspect_sandbox(call.name()));
    JsonWriter writer;
    write_sandbox(writer, sandbox);
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> remove_sandbox(Call& call) {
    engine::SandboxRemove options{.force = call.flag("force"), .volumes = call.flag("v")};
    CO_CHECK(co_await call.engine.sandboxes().remove_sandbox(call.name(), options));
    co_return co_await call.send_status(204);
}

}  // namespace

std::span<const Route> sandbox_routes() {
    static constexpr std::array routes = {
        Route{"GET", "/wherry/sandboxes", list_sandboxes},
        Route{"POST", "/wherry/sandboxes/create", create_sandbox},
        Route{"GET", "/wherry/sandboxes/{name}", inspect_sandbox},
        Route{"DELETE", "/wherry/sandboxes/{name}", remove_sandbox},
    };
    return routes;
}

}  // namespace wherry::api::docker
