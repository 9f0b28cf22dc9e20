// The life of sandboxes that containers share. Internal; lives on the loop.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine/core.hpp"
#include "engine/sandbox.hpp"
#include "engine/sandboxes.hpp"

namespace wherry::engine {

class SandboxService final : public Sandboxes {
  public:
    explicit SandboxService(Core& core) : core_(core) {}
    void use(Containers& containers) { containers_ = &containers; }  // to remove a sandbox with what is in it

    asio::awaitable<Result<std::string>> create_sandbox(SandboxCreate request) override;
    asio::awaitable<Result<std::vector<SandboxView>>> list_sandboxes(Filters filters) override;
    asio::awaitable<Result<SandboxView>> inspect_sandbox(std::string reference) override;
    asio::awaitable<Result<>> remove_sandbox(std::string reference, SandboxRemove options) override;

    // A connection to the sandbox's shim, for one container; brings the sandbox up when it is not. The container's
    // phase says already that it starts.
    asio::awaitable<Result<std::shared_ptr<supervisor::ShimClient>>> enter(SandboxPtr sandbox);
    // After a container of it has ended, or did not start: takes it down when nothing in it lives any more.
    asio::awaitable<void> settle(SandboxPtr sandbox);
    void settle_later(const std::string& sandbox_id);  // nothing for a container that is a sandbox of its own

    // Reconciliation: connects to what should be up; what is not is noted as down.
    asio::awaitable<void> adopt(std::vector<net::LiveEndpoint>& live, std::set<std::string>& live_sandboxes);
    asio::awaitable<void> finish_reconciling();  // takes down what nothing lives in; clears files of unknown ones
    void close();

  private:
    struct Prepared;
    asio::awaitable<Result<>> bring_up(SandboxPtr sandbox);
    Result<> prepare(const Sandbox& sandbox, Prepared& prepared);  // on the pool
    asio::awaitable<void> take_down(SandboxPtr sandbox);
    Result<> let_go(const std::string& id, const std::optional<net::Endpoint>& endpoint, bool published);  // pool
    bool lives(const Sandbox& sandbox) const;
    std::vector<ContainerPtr> members(const Sandbox& sandbox) const;
    SandboxView view(const Sandbox& sandbox) const;
    void publish(const Sandbox& sandbox, std::string_view action);
    SandboxPaths paths(const Sandbox& sandbox) const {
        return sandbox_paths(core_.options.data_root, core_.options.exec_root, sandbox.id);
    }

    Core& core_;
    Containers* containers_ = nullptr;
    bool closing_ = false;
};

std::string sandbox_hostname(const Sandbox& sandbox);
Result<> check_sandbox_spec(SandboxSpec& spec, bool has_bridge);

}  // namespace wherry::engine
