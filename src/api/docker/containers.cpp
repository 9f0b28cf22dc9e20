// Containers: what is a question and an answer. Streams are in container_streams.cpp.
#include <array>

#include "api/docker/call.hpp"
#include "api/docker/shapes.hpp"

namespace wherry::api::docker {
namespace {

asio::awaitable<Result<>> list_containers(Call& call) {
    engine::ListOptions options;
    options.all = call.flag("all");
    options.size = call.flag("size");
    CO_TRY(auto limit, call.integer("limit"));
    options.limit = std::max<std::int64_t>(limit.value_or(0), 0);
    CO_TRY(options.filters, call.filters());
    auto& containers = call.engine.containers();
    const std::uint64_t revision = containers.revision();
    const std::int64_t second = unix_seconds(wall_now());
    const std::string& query = call.exchange.request().raw_query;
    const bool sized = options.size;  // files grow without anybody telling
    if (auto body = sized ? nullptr : call.lists.find(query, revision, second))
        co_return co_await call.exchange.send_shared(200, "application/json", std::move(body));
    CO_TRY(auto summaries, co_await containers.list(std::move(options)));
    JsonWriter writer;
    writer.reserve(64 + summaries.size() * 1024);
    writer.begin_array();
    for (const auto& container : summaries) write_container_summary(writer, container);
    writer.end_array();
    auto body = std::make_shared<const std::string>(writer.take_line());
    if (!sized && revision == containers.revision()) call.lists.keep(query, revision, second, body);
    co_return co_await call.exchange.send_shared(200, "application/json", std::move(body));
}

asio::awaitable<Result<>> inspect_container(Call& call) {
    CO_TRY(auto view, co_await call.engine.containers().inspect(call.name(), call.flag("size")));
    JsonWriter writer;
    write_container(writer, view, call.minor);
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> create_container(Call& call) {
    CO_TRY(auto body, co_await call.json_body(Call::Body::required));
    CO_TRY(auto spec, engine::decode_create_request(body));
    engine::CreateRequest request{
        .name = call.text("name"), .spec = std::move(spec), .platform = call.text("platform")};
    CO_TRY(auto created, co_await call.engine.containers().create(std::move(request)));
    JsonWriter writer;
    writer.begin_object().member("Id", created.id).member("Warnings", created.warnings).end_object();
    co_return co_await call.send_json(201, std::move(writer));
}

asio::awaitable<Result<>> start_container(Call& call) {
    // "{}" and "null" are what old clients send.
    CO_TRY(auto body, co_await call.exchange.read_all(64));
    if (body.size() > 7)
        co_return fail(
            Code::invalid_argument,
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24");
    CO_TRY(auto outcome, co_await call.engine.containers().start(call.name()));
    co_return co_await call.send_status(outcome == engine::Outcome::changed ? 204 : 304);
}

Result<engine::StopOptions> stop_options(const Call& call) {
    engine::StopOptions options;
    options.signal = call.text("signal");
    options.timeout_seconds = TRY(call.integer("t"));
    return options;
}

asio::awaitable<Result<>> stop(Call& call) {
    CO_TRY(auto options, stop_options(call));
    CO_TRY(auto outcome, co_await call.engine.containers().stop(call.name(), std::move(options)));
    co_return co_await call.send_status(outcome == engine::Outcome::changed ? 204 : 304);
}

asio::awaitable<Result<>> restart(Call& call) {
    CO_TRY(auto options, stop_options(call));
    CO_CHECK(co_await call.engine.containers().restart(call.name(), std::move(options)));
    co_return co_await call.send_status(204);
}

asio::awaitable<Result<>> kill(Call& call) {
    CO_CHECK(co_await call.engine.containers().kill(call.name(), call.text("signal")));
    co_return co_await call.send_status(204);
}

asio::awaitable<Result<>> pause(Call& call) {
    CO_CHECK(co_await call.engine.containers().pause(call.name()));
    co_return co_await call.send_status(204);
}

asio::awaitable<Result<>> unpause(Call& call) {
    CO_CHECK(co_await call.engine.containers().unpause(call.name()));
    co_return co_await call.send_status(204);
}

asio::awaitable<Result<>> rename(Call& call) {
    CO_CHECK(co_await call.engine.containers().rename(call.name(), call.text("name")));
    co_return co_await call.send_status(204);
}

asio::awaitable<Result<>> update(Call& call) {
    CO_TRY(auto body, co_await call.json_body(Call::Body::required));
    CO_TRY(auto request, engine::decode_update_request(body));
    CO_TRY(auto warnings, co_await call.engine.containers().update(call.name(), std::move(request)));
    JsonWriter writer;
    writer.begin_object().member("Warnings", warnings).end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> remove_container(Call& call) {
    if (call.flag("link"))
        co_return fail(Code::invalid_argument, "legacy container links are not offered: remove the container itself");
    engine::RemoveOptions options{
        .force = call.flag("force"), .volumes = call.flag("v"), .discard = call.flag("discard")};
    CO_CHECK(co_await call.engine.containers().remove(call.name(), options));
    co_return co_await call.send_status(204);
}

asio::awaitable<Result<>> top(Call& call) {
    std::string arguments = call.query().has("ps_args") ? call.text("ps_args") : "-ef";
    CO_TRY(auto result, co_await call.engine.containers().top(call.name(), std::move(arguments)));
    JsonWriter writer;
    writer.begin_object().key("Processes").begin_array();
    for (const auto& process : result.processes) writer.value(process);
    writer.end_array().member("Titles", result.titles).end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

// h and w of a terminal; both exec and container resize take them.
struct TerminalSize {
    unsigned height = 0;
    unsigned width = 0;
};

Result<TerminalSize> terminal_size(const Call& call) {
    auto height = TRY(call.integer("h"));
    auto width = TRY(call.integer("w"));
    if (!height || !width || *height < 0 || *width < 0 || *height > 65535 || *width > 65535)
        return fail(Code::invalid_argument, "invalid terminal size: h and w must be numbers from 0 to 65535");
    return TerminalSize{static_cast<unsigned>(*height), static_cast<unsigned>(*width)};
}

asio::awaitable<Result<>> resize(Call& call) {
    CO_TRY(auto size, terminal_size(call));
    CO_CHECK(co_await call.engine.containers().resize(call.name(), size.height, size.width));
    co_return co_await call.send_status(200);
}

asio::awaitable<Result<>> exec_resize(Call& call) {
    CO_TRY(auto size, terminal_size(call));
    CO_CHECK(co_await call.engine.containers().exec_resize(call.name(), size.height, size.width));
    co_return co_await call.send_status(200);
}

asio::awaitable<Result<>> prune_containers(Call& call) {
    CO_TRY(auto filters, call.filters());
    CO_TRY(auto result, co_await call.engine.containers().prune(std::move(filters)));
    JsonWriter writer;
    writer.begin_object()
        .member_or_null("ContainersDeleted", result.deleted)
        .member("SpaceReclaimed", result.space_reclaimed_bytes)
        .end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> why(Call& call) {
    CO_TRY(auto sentence, co_await call.engine.containers().why(call.name()));
    JsonWriter writer;
    writer.begin_object().member("Why", sentence).end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

asio::awaitable<Result<>> timings(Call& call) {
    CO_TRY(auto phases, co_await call.engine.containers().timings(call.name()));
    JsonWriter writer;
    writer.begin_object().key("Timings").begin_array();
    for (const engine::Timing& phase : phases)
        writer.begin_object()
            .member("Phase", phase.phase)
            .member("StartNs", phase.start_ns)
            .member("DurationNs", phase.duration_ns)
            .end_object();
    writer.end_array().end_object();
    co_return co_await call.send_json(200, std::move(writer));
}

}  // namespace

std::span<const Route> container_routes() {
    static constexpr std::array routes = {
        Route{"GET", "/containers/json", list_containers},
        Route{"POST", "/containers/create", create_container},
        Route{"POST", "/containers/prune", prune_containers},
        Route{"GET", "/containers/{name}/json", inspect_container},
        Route{"POST", "/containers/{name}/start", start_container},
        Route{"POST", "/containers/{name}/stop", stop},
        Route{"POST", "/containers/{name}/restart", restart},
        Route{"POST", "/containers/{name}/kill", kill},
        Route{"POST", "/containers/{name}/pause", pause},
        Route{"POST", "/containers/{name}/unpause", unpause},
        Route{"POST", "/containers/{name}/rename", rename},
        Route{"POST", "/containers/{name}/update", update},
        Route{"POST", "/containers/{name}/resize", resize},
        Route{"GET", "/containers/{name}/top", top},
        Route{"DELETE", "/containers/{name}", remove_container},
        Route{"POST", "/exec/{name}/resize", exec_resize},
        Route{"GET", "/wherry/containers/{name}/why", why},
        Route{"GET", "/wherry/containers/{name}/timings", timings},
    };
    return routes;
}

}  // namespace wherry::api::docker
