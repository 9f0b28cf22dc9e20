// Steering as a part of wherry-dns: the dispatcher made from the configuration, its control service, and the way of its
// answers to the zones that are served.
#pragma once

#include <memory>
#include <mutex>

#include "dns/config.hpp"
#include "dns/keeper.hpp"
#include "dns/steering/control.hpp"
#include "dns/steering/dispatcher.hpp"

namespace wherry::dns::steering {

// The commands among the checks of a configuration file.
Result<std::vector<Command>> read_check_commands(const std::string& path);

class SteeringService {
  public:
    // Binds the control addresses. Before the keeper loads its zones.
    static Result<std::unique_ptr<SteeringService>> create(const Config& config, Keeper& keeper,
                                                           std::shared_ptr<const CommandChecks> commands);
    void start();  // once privileges are dropped

  private:
    SteeringService(Keeper& keeper, std::shared_ptr<const CommandChecks> commands)
        : keeper_(keeper), commands_(std::move(commands)) {}
    Result<> reload(const Config& config);
    Result<std::shared_ptr<Dispatcher>> make(const Config& config);
    std::shared_ptr<Dispatcher> current() const;

    Keeper& keeper_;
    std::shared_ptr<const CommandChecks> commands_;
    mutable std::mutex lock_;
    std::shared_ptr<Dispatcher> dispatcher_;
    std::unique_ptr<ControlServer> control_;
};

}  // namespace wherry::dns::steering
