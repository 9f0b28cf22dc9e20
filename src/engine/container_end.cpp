// From the end of a container's process to what follows: its record, the announcement, cleaning up, restarting.
#include <algorithm>

#include "base/log.hpp"
#include "confine/cgroup.hpp"
#include "engine/container_service.hpp"
#include "engine/crash_point.hpp"

namespace wherry::engine {
namespace {

constexpr std::chrono::milliseconds first_restart_delay{100};
constexpr std::chrono::milliseconds longest_restart_delay{60'000};
constexpr std::chrono::seconds steady_run{10};  // one that ran longer starts over with the shortest delay

}  // namespace

void ContainerService::adopt_running(const ContainerPtr& container,
                                     const std::shared_ptr<supervisor::ShimClient>& shim) {
    container->shim = shim;
    ++container->starts;
    core_.gate.spawn(watch(container, shim, container->starts));
    core_.gate.spawn(follow_events(container, shim));
    if (auto plan = health_plan(container->config())) {
        if (!container->health) container->health = HealthView{.status = "starting", .failing_streak = 0, .log = {}};
        core_.gate.spawn(watch_health(container, std::move(*plan), container->starts));
    }
}

asio::awaitable<void> ContainerService::watch(ContainerPtr container, std::shared_ptr<supervisor::ShimClient> shim,
                                              std::uint64_t run) {
    Result<supervisor::ExitStatus> status = co_await shim->wait(container->id);
    if (closing_ || container->starts != run) co_return;
    if (!status) {
        // The shim is gone, and with it the container's processes. Its last word may be on disk.
        log_warn("shim.lost", {{"id", container->id}, {"error", status.error()}});
        const ContainerPaths where = paths(*container);
        const auto record =
            co_await core_.pool.run([path = where.exit_record] { return supervisor::read_exit_record(path); });
        supervisor::ExitStatus found{.code = 255, .finished_at = wall_now()};
        if (record) {
            found = record->status;
        } else {
            container->error = "its supervisor died";
        }
        const std::string cgroup = spec_input(*container).cgroup_parent + "/" + container->id;
        std::ignore = co_await core_.pool.run([cgroup]() -> Result<> {
            const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
            confine::Cgroup group = TRY(confine::Cgroup::open(*system, cgroup));
            TRY(group.kill_all());
            return group.remove();
        });
        co_await ended(container, found);
        co_return;
    }
    co_await ended(container, *status);
}

asio::awaitable<void> ContainerService::follow_events(ContainerPtr container,
                                                      std::shared_ptr<supervisor::ShimClient> shim) {
    if (!co_await shim->subscribe()) co_return;
    while (true) {
        const Result<supervisor::Event> event = co_await shim->next_event();
        if (!event || closing_) co_return;
        // The shim tells of all containers of the sandbox.
        if (const auto* oom = std::get_if<supervisor::OomEvent>(&*event); oom && oom->container_id == container->id) {
            container->oom_killed = true;
            core_.publish(*container, "oom");
        }
    }
}

bool ContainerService::should_restart(const Container& container) const {
    if (container.manually_stopped || closing_) return false;
    const RestartPolicy& policy = container.host_config().restart_policy;
    if (policy.name == "always" || policy.name == "unless-stopped") return true;
    return policy.name == "on-failure" && container.exit_code != 0 &&
           (policy.maximum_retry_count == 0 || container.restart_count < policy.maximum_retry_count);
}

asio::awaitable<void> ContainerService::ended(ContainerPtr container, supervisor::ExitStatus status) {
    container->exit_pending = true;
    container->pid = 0;
    container->exit_code = status.code;
    container->exit_signal = status.signal;
    container->oom_killed = container->oom_killed || status.oom_killed;
    container->finished_at = status.finished_at;
    if (container->health) container->health->status = "unhealthy";  // as Docker has it
    crash_point("exit.begin");
    if (!container->ports.empty() || container->endpoint) {
        // Before anybody hears of it: whoever waits may want the same port next.
        const bool published = !std::exchange(container->ports, {}).empty();
        std::ignore =
            co_await core_.pool.run([this, id = container->id, published,
                                     endpoint = std::exchange(container->endpoint, std::nullopt)]() -> Result<> {
                let_go(id, endpoint, published);
                return {};
            });
    }
    for (auto& [id, exec] : container->execs) {
        if (exec->running) {
            exec->running = false;
            if (!exec->exit_code) exec->exit_code = 137;
            exec->changed.notify_all();
        }
    }
    const bool again = should_restart(*container);
    container->phase = again ? Phase::restarting : Phase::exited;
    if (again) ++container->restart_count;
    if (!again && container->host_config().restart_policy.name != "always") container->wanted = false;
    ++container->exits;
    const auto ran = std::chrono::duration_cast<std::chrono::seconds>(container->finished_at - container->started_at);
    core_.publish(*container, "die",
                  {{"exitCode", std::to_string(container->exit_code)},
                   {"execDuration", std::to_string(std::max<std::int64_t>(ran.count(), 0))}});
    save(*container);
    crash_point("exit.saved");
    const std::uint64_t exits = container->exits;
    std::shared_ptr<supervisor::ShimClient> shim = std::exchange(container->shim, nullptr);
    container->changed.notify_all();

    const bool remove_itself = !again && container->host_config().auto_remove && !container->restarting_by_user;
    if (remove_itself) {
        // The announcement of the removal does not wait for the files.
        core_.gate.spawn(clean_sandbox(container, shim));
        const Mutex::Guard guard = co_await container->operations.lock();
        if (!container->removed) {
            if (auto gone = co_await remove_record(container, true, Keep::nothing); !gone) {
                log_warn("container.auto_remove_failed", {{"id", container->id}, {"error", gone.error()}});
            }
        }
        co_return;
    }
    co_await clean_sandbox(container, shim);
    if (again) core_.gate.spawn(restart_later(container, exits));
}

asio::awaitable<void> ContainerService::clean_sandbox(ContainerPtr container,
                                                      std::shared_ptr<supervisor::ShimClient> shim) {
    if (shim) {
        if (auto removed = co_await shim->remove({.container_id = container->id, .force = true});
            !removed && shim->alive()) {
            log_warn("shim.remove_failed", {{"id", container->id}, {"error", removed.error()}});
            if (!sandbox_of(*container)) std::ignore = co_await shim->shutdown();
        }
        shim->close();
    }
    if (const SandboxPtr sandbox = sandbox_of(*container)) {
        co_await sandboxes_.settle(sandbox);
        crash_point("exit.cleaned");
        container->exit_pending = false;
        container->changed.notify_all();
        co_return;
    }
    if (network_kind(*container) == NetworkKind::bridge) {
        core_.publish("network", "disconnect", network_id(core_, "bridge"),
                      {{"container", container->id}, {"name", "bridge"}, {"type", "bridge"}});
    }
    const std::string directory = paths(*container).sandbox;
    std::ignore = co_await core_.pool.run([directory] { return remove_tree(directory); });
    crash_point("exit.cleaned");
    container->exit_pending = false;
    container->changed.notify_all();
}

asio::awaitable<void> ContainerService::restart_later(ContainerPtr container, std::uint64_t exits) {
    const bool steady = container->finished_at - container->started_at >= steady_run;
    container->restart_delay = steady || container->restart_delay.count() == 0
                                   ? first_restart_delay
                                   : std::min(container->restart_delay * 2, longest_restart_delay);
    const auto due = Signal::Clock::now() + container->restart_delay;
    const auto still_wanted = [&] {
        return container->phase == Phase::restarting && container->exits == exits && !container->removed && !closing_;
    };
    while (still_wanted() && Signal::Clock::now() < due) co_await container->changed.wait(due);
    const Mutex::Guard guard = co_await container->operations.lock();
    if (still_wanted()) std::ignore = co_await launch(container);
}

}  // namespace wherry::engine
