// What Docker has and this daemon does not, refused in Docker's way, so that clients go on or say why they cannot.
#include <array>

#include "api/docker/call.hpp"

namespace wherry::api::docker {
namespace {

asio::awaitable<Result<>> no_swarm(Call& call) {
    return send_error(
        call.exchange, 503,
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this "
        "node to swarm and try again.");
}

asio::awaitable<Result<>> no_plugins(Call& call) {
    return call.exchange.send(200, "application/json", "[]\n");
}

asio::awaitable<Result<>> unknown_plugin(Call& call) {
    co_return fail(Code::not_found, "plugin \"" + call.name() + "\" not found");
}

// `docker system prune` asks for it: there is no build cache, and so nothing to remove.
asio::awaitable<Result<>> no_build_cache(Call& call) {
    return call.exchange.send(200, "application/json", "{\"CachesDeleted\":null,\"SpaceReclaimed\":0}\n");
}

asio::awaitable<Result<>> not_offered(Call& call) {
    return send_error(call.exchange, 501, call.exchange.request().path + " is not offered by this daemon");
}

}  // namespace

std::span<const Route> absent_routes() {
    static constexpr std::array routes = {
        Route{"GET", "/swarm", no_swarm},
        Route{"GET", "/swarm/unlockkey", no_swarm},
        Route{"POST", "/swarm/{name:.*}", not_offered},
        Route{"GET", "/services", no_swarm},
        Route{"GET", "/services/{name:.*}", no_swarm},
        Route{"POST", "/services/{name:.*}", no_swarm},
        Route{"DELETE", "/services/{name:.*}", no_swarm},
        Route{"GET", "/nodes", no_swarm},
        Route{"GET", "/nodes/{name:.*}", no_swarm},
        Route{"GET", "/tasks", no_swarm},
        Route{"GET", "/tasks/{name:.*}", no_swarm},
        Route{"GET", "/secrets", no_swarm},
        Route{"GET", "/secrets/{name:.*}", no_swarm},
        Route{"POST", "/secrets/{name:.*}", no_swarm},
        Route{"GET", "/configs", no_swarm},
        Route{"GET", "/configs/{name:.*}", no_swarm},
        Route{"POST", "/configs/{name:.*}", no_swarm},
        Route{"GET", "/plugins", no_plugins},
        Route{"GET", "/plugins/{name:.*}/json", unknown_plugin},
        Route{"POST", "/plugins/{name:.*}", not_offered},
        Route{"POST", "/build", not_offered},
        Route{"POST", "/build/prune", no_build_cache},
        Route{"POST", "/session", not_offered},
        Route{"GET", "/containers/{name}/checkpoints", not_offered},
        Route{"POST", "/containers/{name}/checkpoints", not_offered},
        Route{"DELETE", "/containers/{name}/checkpoints/{checkpoint}", not_offered},
    };
    return routes;
}

}  // namespace wherry::api::docker
