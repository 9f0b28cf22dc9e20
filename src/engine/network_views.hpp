// Endpoints and ports as users see them. Internal to the engine.
#pragma once

#include <string>
#include <vector>

#include "engine/containers.hpp"
#include "net/network.hpp"

namespace wherry::engine {

EndpointView endpoint_view(const net::Endpoint& endpoint);  // without the ids
std::vector<PublishedPort> port_views(const std::vector<net::PublishedPort>& ports);

}  // namespace wherry::engine
