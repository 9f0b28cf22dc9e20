// Removed containers that can still be had back: wherry's own addition to the API.
#include <array>

#include "api/docker/call.hpp"
#include "api/docker/shapes.hpp"

namespace wherry::api::docker {

void write_removed(JsonWriter& writer, const std::vector<engine::RemovedContainer>& containers) {
    writer.begin_array();
    for (const engine::RemovedContainer& container : containers) {
        writer.begin_object()
            .member("Id", container.id)
            .member("Name", container.name)
            .member("Image", container.image)
            .member("Created", container.created)
            .member("Removed", container.removed_at)
            .member("Expires", container.expires_at);
        if (container.size_rw_bytes) writer.member("SizeRw", *container.size_rw_bytes);
        writer.end_object();
    }
    writer.end_array();
}

namespace {

asio::awaitable<Result<>> list_removed(Call& call) {
    CO_TRY(auto containers, co_await call.engine.containers().list_removed(call.flag("size")));
    JsonWriter writer;
    write_removed(writer, containers);
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> restore(Call& call) {
    CO_TRY(auto id, co_await call.engine.containers().restore(call.name(), call.text("name")));
    JsonWriter writer;
    writer.begin_object().member("Id", id).end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

}  // namespace

std::span<const Route> removed_routes() {
    static constexpr std::array routes = {
        Route{"GET", "/wherry/removed", list_removed},
        Route{"POST", "/wherry/removed/{name}/restore", restore},
    };
    return routes;
}

}  // namespace wherry::api::docker
