#include "dns/steering/service.hpp"

#include "base/log.hpp"

namespace wherry::dns::steering {

Result<std::vector<Command>> read_check_commands(const std::string& path) {
    Config config = TRY(load_config(path));
    SteeringConfig steering = TRY(parse_steering(config.steering, config.file, config.folder));
    std::vector<Command> commands;
    for (const SiteConfig& site : steering.sites)
        for (const CheckConfig& check : site.checks)
            if (check.kind == CheckConfig::Kind::command) commands.push_back(check.command);
    return commands;
}

Result<std::unique_ptr<SteeringService>> SteeringService::create(const Config& config, Keeper& keeper,
                                                                 std::shared_ptr<const CommandChecks> commands) {
    std::unique_ptr<SteeringService> made(new SteeringService(keeper, std::move(commands)));
    SteeringService* self = made.get();
    made->dispatcher_ = TRY(made->make(config));
    if (!made->dispatcher_->config().control.empty())
        made->control_ = TRY(ControlServer::create(made->dispatcher_->config().control));
    keeper.set_policies([self](const Zone& zone) { return self->current()->policy(zone); });
    keeper.set_on_reload([self](const Config& again) { return self->reload(again); });
    return made;
}

Result<std::shared_ptr<Dispatcher>> SteeringService::make(const Config& config) {
    SteeringConfig steering = TRY(parse_steering(config.steering, config.file, config.folder));
    return std::shared_ptr<Dispatcher>(
        TRY(Dispatcher::create(std::move(steering), commands_, [this] { keeper_.republish(); })));
}

std::shared_ptr<Dispatcher> SteeringService::current() const {
    std::lock_guard hold(lock_);
    return dispatcher_;
}

void SteeringService::start() {
    current()->start();
    if (!control_) return;
    control_->start([this] { return current(); });
    for (const SocketAddress& address : control_->addresses())
        log_info("steering.listen", {{"address", address.to_text()}});
}

// The zones are published after this, with the new dispatcher's answers. Control addresses stay those of the start.
Result<> SteeringService::reload(const Config& config) {
    std::shared_ptr<Dispatcher> next = TRY(make(config));
    if (commands_) TRY(commands_->reload(), "commands");
    next->adopt(*current());
    next->start();
    std::shared_ptr<Dispatcher> before;
    {
        std::lock_guard hold(lock_);
        before = std::exchange(dispatcher_, std::move(next));
    }
    return {};
}

}  // namespace wherry::dns::steering
