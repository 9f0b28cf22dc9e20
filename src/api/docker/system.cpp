// _ping, version, info, events, system/df, auth, metrics.
#include <array>

#include "api/docker/call.hpp"
#include "api/docker/shapes.hpp"

namespace wherry::api::docker {
namespace {

asio::awaitable<Result<>> ping(Call& call) {
    call.exchange.set_header("Builder-Version", "1");
    call.exchange.set_header("Cache-Control", "no-cache, no-store, must-revalidate");
    call.exchange.set_header("Pragma", "no-cache");
    call.exchange.set_header("Swarm", "inactive");
    return call.exchange.send(200, "text/plain; charset=utf-8", "OK");
}

asio::awaitable<Result<>> version(Call& call) {
    JsonWriter writer;
    write_version(writer, call.engine.version());
    return call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> info(Call& call) {
    CO_TRY(auto view, co_await call.engine.info());
    JsonWriter writer;
    write_info(writer, view, call.engine.version());
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> disk_usage(Call& call) {
    auto wanted = call.query().all("type");
    auto wants = [&](std::string_view type) {
        return wanted.empty() || std::ranges::find(wanted, type) != wanted.end();
    };
    for (std::string_view type : wanted) {
        constexpr std::array<std::string_view, 4> known = {"container", "image", "volume", "build-cache"};
        if (std::ranges::find(known, type) == known.end())
            co_return fail(Code::invalid_argument, "unknown object type: " + std::string(type));
    }
    CO_TRY(auto usage, co_await call.engine.disk_usage());
    JsonWriter writer;
    writer.begin_object().member("LayersSize", usage.layers_bytes);
    if (wants("image")) {
        writer.key("Images").begin_array();
        for (const auto& image : usage.images) write_image_summary(writer, image, call.minor);
        writer.end_array();
    } else {
        writer.null_member("Images");
    }
    if (wants("container")) {
        writer.key("Containers").begin_array();
        for (const auto& container : usage.containers) write_container_summary(writer, container);
        writer.end_array();
    } else {
        writer.null_member("Containers");
    }
    if (wants("volume")) {
        writer.key("Volumes").begin_array();
        for (const auto& volume : usage.volumes) write_volume(writer, volume, UsageData::shown);
        writer.end_array();
    } else {
        writer.null_member("Volumes");
    }
    writer.key("BuildCache").begin_array().end_array();
    if (wants("container")) {
        writer.key("Removed");
        write_removed(writer, usage.removed);
    }
    writer.end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> send_events(http::Exchange& exchange, engine::EventSubscription& events, int minor) {
    while (true) {
        CO_TRY(auto event, co_await events.next());
        if (!event) co_return Result<>{};
        JsonWriter writer;
        write_event(writer, *event, minor);
        CO_CHECK(co_await exchange.write(writer.take_line()));
    }
}

asio::awaitable<Result<>> events(Call& call) {
    engine::EventQuery query;
    CO_TRY(query.since, call.timestamp("since"));
    CO_TRY(query.until, call.timestamp("until"));
    if (query.since && query.until && *query.until < *query.since)
        co_return fail(Code::invalid_argument, "`since` time (" + call.text("since") +
                                                   ") cannot be after `until` time (" + call.text("until") + ")");
    CO_TRY(query.filters, call.filters());
    CO_TRY(auto subscription, call.engine.events().subscribe(std::move(query)));
    CO_CHECK(co_await call.exchange.stream(200, "application/json"));
    co_return co_await call.exchange.while_connected(send_events(call.exchange, *subscription, call.minor));
}

asio::awaitable<Result<>> metrics(Call& call) {
    CO_TRY(auto view, co_await call.engine.info());
    std::string text;
    auto put = [&](std::string_view name, std::string_view kind, std::string_view help, std::uint64_t value) {
        text.append("# HELP ").append(name).append(" ").append(help).append("\n# TYPE ").append(name).append(" ");
        text.append(kind).append("\n").append(name).append(" ").append(std::to_string(value)).append("\n");
    };
    text += "# HELP wherry_engine_containers Containers by state.\n# TYPE wherry_engine_containers gauge\n";
    text += "wherry_engine_containers{state=\"running\"} " + std::to_string(view.containers_running) + "\n";
    text += "wherry_engine_containers{state=\"paused\"} " + std::to_string(view.containers_paused) + "\n";
    text += "wherry_engine_containers{state=\"stopped\"} " + std::to_string(view.containers_stopped) + "\n";
    put("wherry_engine_images", "gauge", "Images.", static_cast<std::uint64_t>(view.images));
    put("wherry_engine_file_descriptors", "gauge", "Open descriptors of the daemon.",
        static_cast<std::uint64_t>(view.file_descriptors));
    if (call.options.server_metrics) {
        http::ServerMetrics server = call.options.server_metrics();
        put("wherry_http_connections", "gauge", "Open connections.", server.connections_open);
        put("wherry_http_connections_total", "counter", "Connections accepted.", server.connections_total);
        put("wherry_http_requests_total", "counter", "Requests served.", server.requests_total);
        put("wherry_http_malformed_requests_total", "counter", "Requests that were no HTTP.", server.malformed_total);
    }
    co_return co_await call.exchange.send(200, "text/plain; version=0.0.4; charset=utf-8", std::move(text));
}

}  // namespace

std::span<const Route> system_routes() {
    static constexpr std::array routes = {
        Route{"HEAD", "/_ping", ping},     Route{"GET", "/_ping", ping},    Route{"GET", "/version", version},
        Route{"GET", "/info", info},       Route{"GET", "/events", events}, Route{"GET", "/system/df", disk_usage},
        Route{"GET", "/metrics", metrics},
    };
    return routes;
}

}  // namespace wherry::api::docker
