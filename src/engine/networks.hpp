// Networks: the predefined bridge, host and none.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <map>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "engine/containers.hpp"

namespace wherry::engine {

struct NetworkContainer {
    std::string name;
    std::string endpoint_id;
    std::string mac_address;
    std::string ipv4_address;  // with its prefix length
    std::string ipv6_address;
};

struct NetworkView {
    std::string name;
    std::string id;
    WallTime created;
    std::string scope = "local";
    std::string driver;  // bridge, host, null
    bool enable_ipv6 = false;
    bool internal = false;
    bool attachable = false;
    struct Pool {
        std::string subnet;
        std::string gateway;
    };
    std::vector<Pool> pools;
    StringMap options;
    StringMap labels;
    std::map<std::string, NetworkContainer> containers;  // by id
};

struct NetworkCreate {
    std::string name;
    std::string driver;
    bool check_duplicate = false;
    bool internal = false;
    bool attachable = false;
    bool enable_ipv6 = false;
    std::vector<NetworkView::Pool> pools;
    StringMap options;
    StringMap labels;
};

class Networks {
  public:
    virtual ~Networks() = default;
    virtual asio::awaitable<Result<std::vector<NetworkView>>> list(Filters filters) = 0;
    virtual asio::awaitable<Result<NetworkView>> inspect(std::string reference) = 0;
    virtual asio::awaitable<Result<std::string>> create(NetworkCreate request) = 0;  // its id
    virtual asio::awaitable<Result<>> remove(std::string reference) = 0;
    virtual asio::awaitable<Result<>> connect(std::string network, std::string container,
                                              EndpointSettings settings) = 0;
    virtual asio::awaitable<Result<>> disconnect(std::string network, std::string container, bool force) = 0;
    virtual asio::awaitable<Result<Strings>> prune(Filters filters) = 0;
};

}  // namespace wherry::engine
