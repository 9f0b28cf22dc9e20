// Stopping, killing, pausing, removing; waiting for an end.
#include <algorithm>
#include <csignal>

#include "base/log.hpp"
#include "engine/container_service.hpp"
#include "engine/crash_point.hpp"
#include "engine/names.hpp"
#include "engine/root_helper.hpp"
#include "engine/validate.hpp"
#include "supervisor/log.hpp"

namespace wherry::engine {
namespace {

constexpr std::int64_t default_stop_timeout_seconds = 10;
constexpr std::chrono::seconds kill_patience{10};

class Waiter final : public WaitHandle {
  public:
    Waiter(ContainerPtr container, WaitCondition condition)
        : container_(std::move(container)), condition_(condition), exits_(container_->exits) {}

    asio::awaitable<Result<WaitResult>> result() override {
        const ContainerPtr container = container_;
        while (!cancelled_ && !met()) co_await container->changed.wait();
        if (cancelled_ && !met()) co_return fail(Code::cancelled, "no longer waiting");
        // A start that failed has been told to whoever started it.
        co_return WaitResult{.status_code = container->exit_code,
                             .error = condition_ == WaitCondition::removed ? std::string() : container->error};
    }
    void cancel() override {
        cancelled_ = true;
        container_->changed.notify_all();
    }

  private:
    bool met() const {
        switch (condition_) {
            case WaitCondition::not_running:
                return !container_->is_alive() || container_->gone;
            case WaitCondition::next_exit:
                return container_->exits != exits_ || container_->gone;
            case WaitCondition::removed:
                return container_->gone;
        }
        return true;
    }

    ContainerPtr container_;
    WaitCondition condition_;
    std::uint64_t exits_;
    bool cancelled_ = false;
};

}  // namespace

Result<WaitCondition> parse_wait_condition(std::string_view text) {
    if (text.empty() || text == "not-running") return WaitCondition::not_running;
    if (text == "next-exit") return WaitCondition::next_exit;
    if (text == "removed") return WaitCondition::removed;
    return fail(Code::invalid_argument, "invalid condition: \"" + std::string(text) + "\"");
}

asio::awaitable<Result<std::unique_ptr<WaitHandle>>> ContainerService::wait(std::string reference,
                                                                            WaitCondition condition) {
    CO_TRY(ContainerPtr container, core_.containers.find(reference));
    co_return std::make_unique<Waiter>(std::move(container), condition);
}

asio::awaitable<Result<>> ContainerService::send_signal(ContainerPtr container, int signal) {
    const std::shared_ptr<supervisor::ShimClient> shim = container->shim;
    if (!shim) co_return Result<>{};  // it has ended just now
    Result<> sent = co_await shim->kill({.container_id = container->id, .signal = signal});
    if (!sent && sent.error().code() != Code::not_found && sent.error().code() != Code::conflict && shim->alive())
        co_return sent;
    // What is frozen cannot act on a signal.
    if (signal == SIGKILL && container->phase == Phase::paused) {
        if (co_await shim->resume(container->id) && container->phase == Phase::paused)
            container->phase = Phase::running;
    }
    co_return Result<>{};
}

asio::awaitable<Result<Outcome>> ContainerService::stop_locked(ContainerPtr container, StopOptions options) {
    if (container->phase == Phase::restarting) {
        container->manually_stopped = true;
        container->wanted = false;
        container->phase = Phase::exited;
        container->changed.notify_all();
        sandboxes_.settle_later(container->sandbox_id);
        CO_CHECK(co_await save_durably(*container));
        co_return Outcome::changed;
    }
    if (!container->is_running()) co_return Outcome::unchanged;
    int signal = SIGTERM;
    const std::string& wanted = options.signal.empty() ? container->config().stop_signal : options.signal;
    if (!wanted.empty()) {
        CO_TRY(signal, parse_signal(wanted));
    }
    const std::int64_t timeout = options.timeout_seconds.value_or(
        container->config().stop_timeout_seconds.value_or(static_cast<int>(default_stop_timeout_seconds)));
    container->manually_stopped = true;
    container->wanted = false;
    CO_CHECK(co_await save_durably(*container));
    crash_point("stop.written");
    const std::uint64_t run = container->starts;
    const auto gone = [&] { return !container->is_running() || container->starts != run; };
    if (container->phase == Phase::paused && container->shim) {
        if (co_await container->shim->resume(container->id) && container->phase == Phase::paused) {
            container->phase = Phase::running;
            core_.publish(*container, "unpause");
        }
    }
    if (!gone()) {
        core_.publish(*container, "kill", {{"signal", std::to_string(signal)}});
        CO_CHECK(co_await send_signal(container, signal));
    }
    crash_point("stop.signalled");
    auto deadline =
        timeout < 0 ? Signal::Clock::time_point::max() : Signal::Clock::now() + std::chrono::seconds(timeout);
    while (!gone() && Signal::Clock::now() < deadline) co_await container->changed.wait(deadline);
    if (!gone()) {
        core_.publish(*container, "kill", {{"signal", "9"}});
        CO_CHECK(co_await send_signal(container, SIGKILL));
        deadline = Signal::Clock::now() + kill_patience;
        while (!gone() && Signal::Clock::now() < deadline) co_await container->changed.wait(deadline);
        if (!gone())
            co_return fail(Code::internal, "cannot stop container: " + container->name +
                                               ": tried to kill container, but did not receive an exit event");
    }
    core_.publish(*container, "stop");
    co_return Outcome::changed;
}

asio::awaitable<Result<Outcome>> ContainerService::stop(std::string reference, StopOptions options) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    if (!options.signal.empty()) CO_CHECK(parse_signal(options.signal));
    const Mutex::Guard guard = co_await container->operations.lock();
    co_return co_await stop_locked(container, std::move(options));
}

asio::awaitable<Result<>> ContainerService::kill(std::string reference, std::string signal) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    int number = SIGKILL;
    if (!signal.empty()) {
        CO_TRY(number, parse_signal(signal));
    }
    if (container->phase ==
        Phase::restarting) {  // between two runs: there is nothing to signal, but it must not come back
        container->manually_stopped = true;
        container->wanted = false;
        container->phase = Phase::exited;
        container->changed.notify_all();
        sandboxes_.settle_later(container->sandbox_id);
        co_return co_await save_durably(*container);
    }
    if (!container->is_running()) {
        co_return fail(Code::conflict,
                       "cannot kill container: " + reference + ": container " + container->id + " is not running");
    }
    const auto stop_signal =
        parse_signal(container->config().stop_signal.empty() ? "TERM" : container->config().stop_signal);
    if (number == SIGKILL || number == SIGTERM || number == SIGINT || number == SIGQUIT ||
        (stop_signal && number == *stop_signal)) {
        container->manually_stopped = true;
        container->wanted = false;
        CO_CHECK(co_await save_durably(*container));
    }
    CO_CHECK(co_await send_signal(container, number));
    core_.publish(*container, "kill", {{"signal", std::to_string(number)}});
    if (number == SIGKILL) {
        // Docker answers when it is dead.
        const std::uint64_t run = container->starts;
        const auto deadline = Signal::Clock::now() + kill_patience;
        while (container->is_running() && container->starts == run && Signal::Clock::now() < deadline) {
            co_await container->changed.wait(deadline);
        }
    }
    co_return Result<>{};
}

asio::awaitable<Result<>> ContainerService::restart(std::string reference, StopOptions options) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    if (!options.signal.empty()) CO_CHECK(parse_signal(options.signal));
    const Mutex::Guard guard = co_await container->operations.lock();
    if (container->removed) co_return fail(Code::not_found, "No such container: " + reference);
    // A container that removes itself at its end must not do so between the two halves of a restart.
    container->restarting_by_user = true;
    Result<> result;
    if (auto stopped = co_await stop_locked(container, std::move(options)); !stopped)
        result = std::unexpected(std::move(stopped).error());
    if (result) {
        while (container->exit_pending) co_await container->changed.wait();
        container->restart_count = 0;
        container->restart_delay = {};
        result = co_await launch(container);
    }
    container->restarting_by_user = false;
    if (result) {
        save(*container);
        core_.publish(*container, "restart");
    }
    co_return result;
}

asio::awaitable<Result<>> ContainerService::pause(std::string reference) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    const Mutex::Guard guard = co_await container->operations.lock();
    if (container->phase == Phase::paused)
        co_return fail(Code::conflict, "Container " + reference + " is already paused");
    if (container->phase == Phase::restarting)
        co_return fail(Code::conflict,
                       "Container " + reference + " is restarting, wait until the container is running");
    if (container->phase != Phase::running || !container->shim)
        co_return fail(Code::conflict, "Container " + reference + " is not running");
    CO_CHECK(co_await container->shim->pause(container->id), "cannot pause container " + reference);
    crash_point("pause.paused");
    if (container->phase == Phase::running) container->phase = Phase::paused;
    // A daemon that finds it paused without this goes on with it.
    CO_CHECK(co_await save_durably(*container));
    core_.publish(*container, "pause");
    container->changed.notify_all();
    co_return Result<>{};
}

asio::awaitable<Result<>> ContainerService::unpause(std::string reference) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    const Mutex::Guard guard = co_await container->operations.lock();
    if (container->phase != Phase::paused || !container->shim)
        co_return fail(Code::conflict, "Container " + reference + " is not paused");
    CO_CHECK(co_await container->shim->resume(container->id), "cannot unpause container " + reference);
    if (container->phase == Phase::paused) container->phase = Phase::running;
    save(*container);
    core_.publish(*container, "unpause");
    container->changed.notify_all();
    co_return Result<>{};
}

asio::awaitable<Result<>> ContainerService::rename(std::string reference, std::string name) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    if (name.starts_with('/')) name.erase(0, 1);
    if (name.empty()) co_return fail(Code::invalid_argument, "Neither old nor new names may be empty");
    if (name == container->name)
        co_return fail(Code::invalid_argument, "Renaming a container with the same name as its current name");
    CO_CHECK(check_container_name(name));
    const Mutex::Guard guard = co_await container->operations.lock();
    if (container->removed) co_return fail(Code::not_found, "No such container: " + reference);
    CO_CHECK(core_.containers.reserve_name(name, container->id));
    const std::string old = std::exchange(container->name, name);
    if (auto written = co_await save_durably(*container); !written) {
        core_.containers.release_name(name);
        container->name = old;
        co_return written;
    }
    core_.containers.release_name(old);
    core_.publish(*container, "rename", {{"oldName", "/" + old}});
    co_return Result<>{};
}

asio::awaitable<Result<Strings>> ContainerService::update(std::string reference, UpdateRequest request) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    const Mutex::Guard guard = co_await container->operations.lock();
    if (container->removed) co_return fail(Code::not_found, "No such container: " + reference);
    HostConfig& host = container->spec.host_config;
    Resources changed = host.resources;
    const Resources& asked = request.resources;
    const auto conflict = [&](const std::string& what) {
        return fail(Code::conflict, "Cannot update container " + container->id + ": " + what);
    };
    if (changed.nano_cpus != 0 && (asked.cpu_period != 0 || asked.cpu_quota != 0)) {
        co_return conflict(std::string("Conflicting options: CPU ") + (asked.cpu_period != 0 ? "Period" : "Quota") +
                           " cannot be updated as NanoCPUs has already been set");
    }
    if (asked.nano_cpus != 0 && (changed.cpu_period != 0 || changed.cpu_quota != 0)) {
        co_return conflict(std::string("Conflicting options: Nano CPUs cannot be updated as CPU ") +
                           (changed.cpu_period != 0 ? "Period" : "Quota") + " has already been set");
    }
    if (asked.cpu_shares != 0) changed.cpu_shares = asked.cpu_shares;
    if (asked.nano_cpus != 0) changed.nano_cpus = asked.nano_cpus;
    if (asked.cpu_period != 0) changed.cpu_period = asked.cpu_period;
    if (asked.cpu_quota != 0) changed.cpu_quota = asked.cpu_quota;
    if (!asked.cpuset_cpus.empty()) changed.cpuset_cpus = asked.cpuset_cpus;
    if (!asked.cpuset_mems.empty()) changed.cpuset_mems = asked.cpuset_mems;
    if (asked.memory != 0) {
        if (asked.memory > changed.memory && changed.memory_swap > 0 && asked.memory_swap == 0 &&
            asked.memory > changed.memory_swap) {
            co_return conflict(
                "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same "
                "time");
        }
        changed.memory = asked.memory;
    }
    if (asked.memory_swap != 0) changed.memory_swap = asked.memory_swap;
    if (asked.memory_reservation != 0) changed.memory_reservation = asked.memory_reservation;
    if (asked.blkio_weight != 0) changed.blkio_weight = asked.blkio_weight;
    if (asked.pids_limit) changed.pids_limit = asked.pids_limit;
    CO_TRY(Strings warnings, check_resources(changed));
    RestartPolicy policy = host.restart_policy;
    if (request.restart_policy && !request.restart_policy->name.empty()) {
        policy = *request.restart_policy;
        if (host.auto_remove && policy.name != "no")
            co_return conflict("Restart policy cannot be updated because AutoRemove is enabled for the container");
        CO_CHECK(check_restart_policy(policy, host.auto_remove));
    }
    if (container->is_running() && container->shim) {
        const confine::CgroupResources resources = build_resources(changed);
        CO_CHECK(co_await container->shim->update(
                     {.container_id = container->id, .resources = confine::to_oci_json(resources)}),
                 "Cannot update container " + container->id);
    }
    host.resources = std::move(changed);
    host.restart_policy = std::move(policy);
    CO_CHECK(co_await save_durably(*container));
    core_.publish(*container, "update");
    co_return warnings;
}

// The record goes first: from then on the container is gone for everybody, and what is left of it on disk is rubbish
// that this daemon, or the next one at its start, clears away.
asio::awaitable<Result<>> ContainerService::remove_record(ContainerPtr container, bool volumes, Keep keep) {
    store::Transaction transaction{store::Remove{.kind = std::string(container_kind), .key = container->id}};
    std::vector<std::string> gone;
    if (volumes) {
        for (const std::string& name : container->anonymous_volumes) {
            const std::vector<ContainerPtr> users = volumes_.users(name);
            const bool others = std::ranges::any_of(users, [&](const ContainerPtr& user) { return user != container; });
            if (others || !core_.volumes.contains(name)) continue;
            transaction.push_back(store::Remove{.kind = std::string(volume_kind), .key = name});
            gone.push_back(name);
        }
    }
    const bool kept = keep == Keep::for_a_while && core_.options.undelete_period.count() > 0;
    if (kept) transaction.push_back(store::Put{kept_record(*container, wall_now())});
    container->removed = true;  // nothing is saved any more behind the removal
    crash_point("remove.begin");
    if (auto done = co_await core_.journal->commit(std::move(transaction)); !done) {
        container->removed = false;
        co_return std::unexpected(std::move(done).error());
    }
    crash_point("remove.written");
    for (const std::string& name : gone) core_.volumes.erase(name);
    core_.containers.remove(container);
    container->gone = true;
    sandboxes_.settle_later(container->sandbox_id);
    core_.publish(*container, "destroy");
    for (const std::string& name : gone) core_.publish("volume", "destroy", name, {{"driver", "local"}});
    container->changed.notify_all();
    if (kept) {
        note_kept(*container);
        core_.gate.spawn(keep_files(container));
    }
    core_.gate.spawn(remove_files(container, std::move(gone), kept));
    co_return Result<>{};
}

asio::awaitable<void> ContainerService::remove_files(ContainerPtr container, std::vector<std::string> volumes,
                                                     bool kept) {
    while (container->exit_pending && !closing_) co_await container->changed.wait();
    crash_point("remove.files");
    std::ignore = co_await core_.pool.run([this, id = container->id, volumes, kept]() -> Result<> {
        Result<> removed;
        if (!kept) removed = core_.images->layers().remove_container(id);
        if (!removed) log_warn("container.files_left", {{"id", id}, {"error", removed.error()}});
        for (const std::string& name : volumes) std::ignore = remove_tree(core_.volume_directory(name));
        return {};
    });
}

asio::awaitable<Result<>> ContainerService::remove(std::string reference, RemoveOptions options) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    if (container->phase == Phase::removing) {
        co_return fail(Code::conflict, "removal of container " + reference + " is already in progress");
    }
    if (options.force && container->copying > 0) co_await end_copies(container);
    if (options.force && container->is_alive()) {
        container->manually_stopped = true;
        container->wanted = false;
        CO_CHECK(co_await send_signal(container, SIGKILL));
    }
    const Mutex::Guard guard = co_await container->operations.lock();
    if (container->removed) {
        if (options.force) co_return Result<>{};  // it removed itself meanwhile
        co_return fail(Code::not_found, "No such container: " + reference);
    }
    if (container->is_alive()) {
        if (!options.force) {
            if (container->phase == Phase::paused) {
                co_return fail(Code::conflict,
                               "You cannot remove a paused container " + container->id +
                                   ". Unpause and then stop the container before attempting removal or force remove");
            }
            if (container->phase == Phase::restarting) {
                co_return fail(Code::conflict, "You cannot remove a restarting container " + container->id +
                                                   ". Stop the container before attempting removal or force remove");
            }
            co_return fail(Code::conflict, "You cannot remove a running container " + container->id +
                                               ". Stop the container before attempting removal or force remove");
        }
        container->manually_stopped = true;
        container->wanted = false;
        if (container->phase == Phase::restarting) container->phase = Phase::exited;
        core_.publish(*container, "kill", {{"signal", "9"}});
        CO_CHECK(co_await send_signal(container, SIGKILL));
        const auto deadline = Signal::Clock::now() + kill_patience;
        while (container->is_alive() && Signal::Clock::now() < deadline) co_await container->changed.wait(deadline);
        if (container->is_alive()) co_return fail(Code::internal, "could not kill container " + container->id);
        if (container->removed) co_return Result<>{};
    }
    co_return co_await remove_record(container, options.volumes, options.discard ? Keep::nothing : Keep::for_a_while);
}

}  // namespace wherry::engine
