// Sandboxes: groups of containers that share a network, System V and POSIX shared memory, host name and, if wished, the
// processes' numbers, all under one shim. A container joins one with the network mode "sandbox:<name>"; a container
// that joins none is a sandbox of its own, which has no name and no record apart from the container's.
// A sandbox is up while one of its containers runs, is paused or is about to be restarted. Its address and published
// ports stay the same meanwhile.
// References: a full id, a name, an unambiguous prefix of an id. Threading: as for containers.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "engine/container_spec.hpp"
#include "engine/containers.hpp"
#include "engine/events.hpp"

namespace wherry::engine {

// Prefix of the network mode.
inline constexpr std::string_view sandbox_mode_prefix = "sandbox:";
inline bool is_sandbox_mode(std::string_view mode) {
    return mode.starts_with(sandbox_mode_prefix);
}

struct SandboxCreate {
    std::string name;  // empty: one is made up
    SandboxSpec spec;
};

struct SandboxMember {
    std::string id;
    std::string name;
    std::string state;  // as containers list it
};

struct SandboxView {
    std::string id;
    std::string name;
    WallTime created;
    SandboxSpec spec;
    std::string state;      // created (never up), up, down
    WallTime started_at{};  // of the last time it went up; the epoch: never
    std::optional<EndpointView> endpoint;
    std::vector<PublishedPort> ports;
    std::vector<SandboxMember> containers;  // by creation
};

struct SandboxRemove {
    bool force = false;    // its containers too, running or not
    bool volumes = false;  // with their anonymous volumes
};

class Sandboxes {
  public:
    virtual ~Sandboxes() = default;
    virtual asio::awaitable<Result<std::string>> create_sandbox(SandboxCreate request) = 0;  // its id
    // Filters: id, label, name, state.
    virtual asio::awaitable<Result<std::vector<SandboxView>>> list_sandboxes(Filters filters) = 0;
    virtual asio::awaitable<Result<SandboxView>> inspect_sandbox(std::string reference) = 0;
    // conflict while containers belong to it, unless forced.
    virtual asio::awaitable<Result<>> remove_sandbox(std::string reference, SandboxRemove options) = 0;
};

}  // namespace wherry::engine
