// Docker's Engine API over an engine, as a handler of the HTTP server.
//
//     docker::DockerApi api(engine, {});
//     auto server = TRY(http::Server::create(io.get_executor(), api.handler(), {}));
//
// Spec: https://docs.docker.com/reference/api/engine/version/v1.47/; docs/compatibility.md says what of it is here.
// Threading: on the engine's executor, which must be the server's too. The api outlives the server.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>

#include "engine/engine.hpp"
#include "http/server.hpp"

namespace wherry::api::docker {

namespace asio = boost::asio;

struct ApiOptions {
    std::function<http::ServerMetrics()> server_metrics;  // for GET /metrics; may be empty
};

class DockerApi {
  public:
    explicit DockerApi(engine::Engine& engine, ApiOptions options = {});
    ~DockerApi();
    DockerApi(const DockerApi&) = delete;
    DockerApi& operator=(const DockerApi&) = delete;

    asio::awaitable<void> handle(http::Exchange& exchange);
    http::Handler handler();  // holds a reference to this

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace wherry::api::docker
