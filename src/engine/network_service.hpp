// The predefined networks. Internal; lives on the loop.
#pragma once

#include "engine/core.hpp"
#include "engine/networks.hpp"

namespace wherry::engine {

class NetworkService final : public Networks {
  public:
    explicit NetworkService(Core& core) : core_(core) {}

    asio::awaitable<Result<std::vector<NetworkView>>> list(Filters filters) override;
    asio::awaitable<Result<NetworkView>> inspect(std::string reference) override;
    asio::awaitable<Result<std::string>> create(NetworkCreate request) override;
    asio::awaitable<Result<>> remove(std::string reference) override;
    asio::awaitable<Result<>> connect(std::string network, std::string container, EndpointSettings settings) override;
    asio::awaitable<Result<>> disconnect(std::string network, std::string container, bool force) override;
    asio::awaitable<Result<Strings>> prune(Filters filters) override;

  private:
    NetworkView view(std::string_view name) const;
    Result<std::string> find(const std::string& reference) const;  // its name

    Core& core_;
    WallTime started_ = wall_now();
};

}  // namespace wherry::engine
