// Volumes: named directories that outlive containers, data_root/volumes/<name>/_data.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "engine/containers.hpp"

namespace wherry::engine {

struct VolumeView {
    std::string name;
    std::string driver = "local";
    std::string mountpoint;
    WallTime created;
    StringMap labels;
    StringMap options;
    std::optional<std::int64_t> size_bytes;  // when asked for (df)
    std::int64_t reference_count = 0;
};

struct VolumeCreate {
    std::string name;  // empty: an anonymous one, 64 hexadecimal digits
    std::string driver;
    StringMap labels;
    StringMap options;
};

class Volumes {
  public:
    virtual ~Volumes() = default;
    virtual asio::awaitable<Result<VolumeView>> create(VolumeCreate request) = 0;
    virtual asio::awaitable<Result<std::vector<VolumeView>>> list(Filters filters) = 0;
    virtual asio::awaitable<Result<VolumeView>> inspect(std::string name) = 0;
    virtual asio::awaitable<Result<>> remove(std::string name, bool force) = 0;
    virtual asio::awaitable<Result<PruneResult>> prune(Filters filters) = 0;
};

}  // namespace wherry::engine
