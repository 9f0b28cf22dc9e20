// Endpoints and published ports in the store's records: of containers, and of sandboxes that containers share.
// Internal to the engine.
#pragma once

#include <optional>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"
#include "net/network.hpp"

namespace wherry::engine {

// The members "endpoint" (left out when there is none) and "ports" of a record's status.
void write_network_status(json::object& status, const std::optional<net::Endpoint>& endpoint,
                          const std::vector<net::PublishedPort>& ports);
Result<> read_network_status(const JsonReader& status, std::optional<net::Endpoint>& endpoint,
                             std::vector<net::PublishedPort>& ports);

}  // namespace wherry::engine
