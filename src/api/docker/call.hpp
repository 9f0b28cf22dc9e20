// One API call on its way: the exchange, the engine, what the path and version said; and what every endpoint needs of
// queries, bodies and answers. Room-internal.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "api/docker/api.hpp"
#include "api/docker/json_writer.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "engine/engine.hpp"
#include "http/router.hpp"
#include "http/server.hpp"

namespace wherry::api::docker {

// Docker's API version "1.minor".
inline constexpr int newest_minor = 47;
inline constexpr int oldest_minor = 24;

// Answers of containers/json, kept while nothing has changed: with hundreds of containers making one takes
// milliseconds, and tools that watch ask for the same again and again. Statuses tell seconds, so none is kept longer.
class ListCache {
  public:
    // nullptr: none that is still true.
    std::shared_ptr<const std::string> find(const std::string& query, std::uint64_t revision,
                                            std::int64_t second) const;
    void keep(const std::string& query, std::uint64_t revision, std::int64_t second,
              std::shared_ptr<const std::string> body);

  private:
    std::uint64_t revision_ = 0;
    std::int64_t second_ = 0;
    std::map<std::string, std::shared_ptr<const std::string>> bodies_;  // all of that revision and second
};

struct Call {
    http::Exchange& exchange;
    engine::Engine& engine;
    const ApiOptions& options;
    ListCache& lists;
    http::PathParameters parameters;
    int minor = newest_minor;  // of the version in the path; the newest without one

    std::string name() const { return std::string(parameters.get("name")); }
    const http::Query& query() const { return exchange.request().query; }
    // Docker's truth: absent, "", "0", "no", "false", "none" are false, anything else is true.
    bool flag(std::string_view key, bool absent = false) const;
    std::string text(std::string_view key) const { return std::string(query().get(key)); }
    Result<std::optional<std::int64_t>> integer(std::string_view key) const;
    // {"a":{"x":true}} and {"a":["x"]}; invalid_argument otherwise.
    Result<engine::Filters> filters() const;
    // "seconds[.nanoseconds]"; nullopt when absent, empty or zero.
    Result<std::optional<WallTime>> timestamp(std::string_view key) const;

    // The body as a JSON object. invalid_argument for another content type, bad JSON, no object, something behind it.
    // Without a body: an empty object where that is allowed.
    enum class Body : std::uint8_t { required, optional };
    asio::awaitable<Result<json::object>> json_body(Body body);

    asio::awaitable<Result<>> send_json(unsigned status, JsonWriter writer);
    asio::awaitable<Result<>> send_status(unsigned status);  // no body
};

using Endpoint = asio::awaitable<Result<>> (*)(Call&);

struct Route {
    std::string_view method;
    std::string_view pattern;
    Endpoint endpoint;
};

// HTTP status of an engine's error.
unsigned status_of(Code code);
// Answers {"message": ...}.
asio::awaitable<Result<>> send_error(http::Exchange& exchange, unsigned status, std::string_view message);

// The last line of a stream of progress that failed.
std::string error_line(const Error& error);

Result<engine::Filters> parse_filters(std::string_view text);
Result<std::optional<WallTime>> parse_timestamp(std::string_view text);

// The endpoints by what they are about; each table lives beside its functions.
std::span<const Route> system_routes();
std::span<const Route> container_routes();
std::span<const Route> container_stream_routes();
std::span<const Route> exec_routes();
std::span<const Route> archive_routes();
std::span<const Route> image_routes();
std::span<const Route> registry_routes();
std::span<const Route> volume_routes();
std::span<const Route> network_routes();
std::span<const Route> sandbox_routes();
std::span<const Route> removed_routes();
std::span<const Route> absent_routes();  // what is answered with a refusal

}  // namespace wherry::api::docker
