// Volumes.
#include <array>

#include "api/docker/call.hpp"
#include "api/docker/shapes.hpp"

namespace wherry::api::docker {
namespace {

asio::awaitable<Result<>> list_volumes(Call& call) {
    CO_TRY(auto filters, call.filters());
    CO_TRY(auto volumes, co_await call.engine.volumes().list(std::move(filters)));
    JsonWriter writer;
    writer.begin_object().key("Volumes").begin_array();
    for (const auto& volume : volumes) write_volume(writer, volume, UsageData::hidden);
    writer.end_array().null_member("Warnings").end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> inspect_volume(Call& call) {
    CO_TRY(auto volume, co_await call.engine.volumes().inspect(call.name()));
    JsonWriter writer;
    write_volume(writer, volume, UsageData::hidden);
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> create_volume(Call& call) {
    CO_TRY(auto body, co_await call.json_body(Call::Body::optional));
    JsonReader reader(body);
    engine::VolumeCreate request;
    CO_TRY(request.name, reader.string_or("Name", ""));
    CO_TRY(request.driver, reader.string_or("Driver", ""));
    CO_TRY(request.labels, reader.string_map("Labels"));
    CO_TRY(request.options, reader.string_map("DriverOpts"));
    if (reader.has("ClusterVolumeSpec")) co_return fail(Code::unavailable, "This node is not a swarm manager.");
    CO_TRY(auto volume, co_await call.engine.volumes().create(std::move(request)));
    JsonWriter writer;
    write_volume(writer, volume, UsageData::hidden);
    co_return co_await call.send_json(201, std::move(writer));
}

asio::awaitable<Result<>> remove_volume(Call& call) {
    CO_CHECK(co_await call.engine.volumes().remove(call.name(), call.flag("force")));
    co_return co_await call.send_status(204);
}

asio::awaitable<Result<>> prune_volumes(Call& call) {
    CO_TRY(auto filters, call.filters());
    // Before 1.42 a prune took named volumes too.
    if (call.minor < 42 && !filters.contains("all")) filters["all"].emplace_back("true");
    CO_TRY(auto result, co_await call.engine.volumes().prune(std::move(filters)));
    JsonWriter writer;
    writer.begin_object()
        .member("VolumesDeleted", result.deleted)
        .member("SpaceReclaimed", result.space_reclaimed_bytes)
        .end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

}  // namespace

std::span<const Route> volume_routes() {
    static constexpr std::array routes = {
        Route{"GET", "/volumes", list_volumes},
        Route{"POST", "/volumes/create", create_volume},
        Route{"POST", "/volumes/prune", prune_volumes},
        Route{"GET", "/volumes/{name:.*}", inspect_volume},
        Route{"DELETE", "/volumes/{name:.*}", remove_volume},
    };
    return routes;
}

}  // namespace wherry::api::docker
