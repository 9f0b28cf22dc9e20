// A sandbox as the engine keeps it, and how it is written to the store (kind "sandbox", key the id). Internal to the
// engine; lives on the loop.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "engine/async.hpp"
#include "engine/container_spec.hpp"
#include "net/network.hpp"
#include "store/store.hpp"
#include "supervisor/client/client.hpp"

namespace wherry::engine {

struct Sandbox {
    std::string id;
    std::string name;
    WallTime created;
    SandboxSpec spec;

    bool up = false;
    WallTime started_at{};
    std::optional<net::Endpoint> endpoint;
    std::vector<net::PublishedPort> ports;

    // Not written.
    bool removed = false;
    std::shared_ptr<supervisor::ShimClient> shim;  // while it is up; keeps the shim alive between two containers
    Mutex operations;                              // one going up or down at a time
};

using SandboxPtr = std::shared_ptr<Sandbox>;

inline constexpr std::string_view sandbox_kind = "sandbox";

store::Record to_record(const Sandbox& sandbox);
Result<SandboxPtr> sandbox_from_record(const store::Record& record);

struct SandboxPaths {
    std::string directory;  // data_root/sandboxes/<id>
    std::string hostname, hosts, resolv_conf;
    std::string runtime;        // exec_root/sandboxes/<id>: the shim's
    std::string shared_memory;  // what the containers have as /dev/shm
};
SandboxPaths sandbox_paths(const std::string& data_root, const std::string& exec_root, const std::string& id);

// All sandboxes, by id and by name.
class SandboxTable {
  public:
    // already_exists when the name is taken.
    Result<> reserve_name(const std::string& name, const std::string& id);
    void release_name(const std::string& name) { names_.erase(name); }
    bool has_name(const std::string& name) const { return names_.contains(name); }
    void add(SandboxPtr sandbox);  // its name has been reserved
    void remove(const SandboxPtr& sandbox);
    Result<SandboxPtr> find(std::string_view reference) const;  // not_found "No such sandbox: x"
    SandboxPtr by_id(const std::string& id) const;
    std::vector<SandboxPtr> all() const;  // by creation, oldest first

  private:
    std::map<std::string, SandboxPtr> by_id_;
    std::map<std::string, std::string> names_;
};

}  // namespace wherry::engine
