#include "api/docker/api.hpp"

#include <charconv>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "api/docker/call.hpp"
#include "base/log.hpp"
#include "http/router.hpp"

namespace wherry::api::docker {

struct DockerApi::State {
    State(engine::Engine& served, ApiOptions chosen) : engine(served), options(std::move(chosen)) {
        for (std::span<const Route> routes :
             {system_routes(), container_routes(), container_stream_routes(), exec_routes(), archive_routes(),
              image_routes(), registry_routes(), volume_routes(), network_routes(), sandbox_routes(), removed_routes(),
              absent_routes()})
            for (const Route& route : routes) router.add(route.method, route.pattern, route.endpoint);
    }

    engine::Engine& engine;
    ApiOptions options;
    ListCache lists;
    http::Router<Endpoint> router;
    std::uint64_t requests = 0;
};

namespace {

struct Versioned {
    std::string_view path;  // without the version
    bool has_version = false;
    int major = 1;
    int minor = newest_minor;
};

// "/v1.41/containers/json" -> {"/containers/json", 1, 41}. nullopt: "/vsomething" that is no version is a path like
// any.
std::optional<Versioned> split_version(std::string_view path) {
    Versioned split{.path = path};
    if (!path.starts_with("/v") || path.size() < 3 || path[2] < '0' || path[2] > '9') return split;
    std::size_t slash = path.find('/', 1);
    std::string_view version = path.substr(2, slash == std::string_view::npos ? slash : slash - 2);
    const char* end = version.data() + version.size();
    auto first = std::from_chars(version.data(), end, split.major);
    if (first.ec != std::errc{}) return std::nullopt;
    split.minor = 0;
    if (first.ptr != end) {
        if (*first.ptr != '.') return split = Versioned{.path = path}, split;
        auto second = std::from_chars(first.ptr + 1, end, split.minor);
        if (second.ec != std::errc{}) return std::nullopt;
        if (second.ptr != end && *second.ptr != '.') return Versioned{.path = path};
    }
    split.has_version = true;
    split.path = slash == std::string_view::npos ? std::string_view("/") : path.substr(slash);
    return split;
}

std::string version_text(int minor) {
    return "1." + std::to_string(minor);
}

}  // namespace

DockerApi::DockerApi(engine::Engine& engine, ApiOptions options)
    : state_(std::make_unique<State>(engine, std::move(options))) {}
DockerApi::~DockerApi() = default;

http::Handler DockerApi::handler() {
    return [this](http::Exchange& exchange) { return handle(exchange); };
}

asio::awaitable<void> DockerApi::handle(http::Exchange& exchange) {
    const http::Request& request = exchange.request();
    exchange.set_header("Api-Version", version_text(newest_minor));
    exchange.set_header("Docker-Experimental", "false");
    exchange.set_header("Ostype", "linux");
    std::optional<Versioned> split = split_version(request.path);
    bool too_new = !split || split->major > 1 || (split->major == 1 && split->minor > newest_minor);
    bool too_old = split && (split->major < 1 || (split->major == 1 && split->minor < oldest_minor));
    if (too_new || too_old) {
        std::string_view given = std::string_view(request.path).substr(2);
        std::string message = "client version " + std::string(given.substr(0, given.find('/')));
        if (too_new)
            message += " is too new. Maximum supported API version is " + version_text(newest_minor);
        else
            message += " is too old. Minimum supported API version is " + version_text(oldest_minor) +
                       ", please upgrade your client to a newer version";
        co_await send_error(exchange, 400, message);
        co_return;
    }
    auto match = state_->router.find(request.method, split->path);
    if (match.target == nullptr) {
        co_await send_error(exchange, 404, "page not found");
        co_return;
    }
    Call call{.exchange = exchange,
              .engine = state_->engine,
              .options = state_->options,
              .lists = state_->lists,
              .parameters = std::move(match.parameters),
              .minor = split->minor};
    Result<> done = co_await (*match.target)(call);
    if (done) co_return;
    const Error& error = done.error();
    unsigned status = status_of(error.code());
    LogLevel level = status >= 500 && error.code() != Code::cancelled && error.code() != Code::unimplemented
                         ? LogLevel::error
                         : LogLevel::debug;
    if (log_enabled(level))
        log_event(level, "api.failed",
                  {{"method", request.method}, {"path", request.path}, {"status", status}, {"error", error}});
    if (!exchange.responded()) co_await send_error(exchange, status, error.describe());
}

}  // namespace wherry::api::docker
