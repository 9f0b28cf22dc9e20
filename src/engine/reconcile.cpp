// What a daemon that starts finds: records of the last one, shims that went on without it, leftovers of what it was
// about when it was killed. Afterwards both agree.
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "base/log.hpp"
#include "confine/cgroup.hpp"
#include "engine/container_service.hpp"
#include "supervisor/log.hpp"

namespace wherry::engine {
namespace {

// Kills what is in a cgroup and removes it. Blocks.
Result<> clear_cgroup(const std::string& path) {
    const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
    confine::Cgroup group = TRY(confine::Cgroup::open(*system, path));
    TRY(group.kill_all());
    return group.remove();
}

std::set<std::string> names_in(const std::string& directory) {
    std::set<std::string> names;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(directory, ignored))
        names.insert(entry.path().filename().string());
    return names;
}

// Children of the daemon's parent cgroup, over all hierarchies.
std::set<std::string> cgroup_children(const std::string& parent) {
    std::set<std::string> names;
    const auto system = confine::CgroupSystem::of_this_host();
    if (!system) return names;
    for (const confine::CgroupHierarchy& hierarchy : (*system)->hierarchies()) {
        std::error_code ignored;
        for (const auto& entry : std::filesystem::directory_iterator(hierarchy.mount_point + parent, ignored)) {
            if (entry.is_directory(ignored)) names.insert(entry.path().filename().string());
        }
    }
    return names;
}

bool is_container_id(const std::string& name) {
    return name.size() == 64 && name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

asio::awaitable<Result<>> ContainerService::reconcile() {
    struct Dead {
        ContainerPtr container;
        std::optional<supervisor::ExitStatus> status;
        bool started = true;
    };
    CO_CHECK(co_await reconcile_kept(), "removed containers");
    std::vector<Dead> dead;
    std::vector<net::LiveEndpoint> live;
    std::set<std::string> live_sandboxes;
    co_await sandboxes_.adopt(live, live_sandboxes);
    for (const ContainerPtr& container : core_.containers.all()) {
        const bool was_starting = container->phase == Phase::starting;
        if (!container->is_alive()) continue;
        auto shim = co_await supervisor::ShimClient::connect(core_.executor, paths(*container).sandbox);
        std::optional<supervisor::ContainerState> state;
        if (shim) {
            if (auto found = co_await (*shim)->state(container->id)) state = std::move(*found);
        }
        const bool runs =
            state && (state->status == supervisor::Status::running || state->status == supervisor::Status::paused);
        if (runs) {
            bool paused = state->status == supervisor::Status::paused;
            if (paused && container->phase != Phase::paused) {
                // Nobody was told that it is paused: a commit was under way.
                if (co_await (*shim)->resume(container->id)) paused = false;
            }
            container->phase = paused ? Phase::paused : Phase::running;
            container->pid = state->pid;
            container->started_at = state->started_at;
            container->finished_at = WallTime{};
            container->wanted = container->wanted || was_starting;
            live_sandboxes.insert(container->sandbox_id);
            if (container->endpoint) live.push_back({.endpoint = *container->endpoint, .ports = container->ports});
            for (const supervisor::ExecState& one : state->execs) adopt_exec(container, one, *shim);
            adopt_running(container, *shim);
            save(*container);
            log_info("container.adopted", {{"id", container->id}, {"pid", container->pid}});
            continue;
        }
        if (container->phase == Phase::restarting) {  // between two runs; apply_restart_policies goes on with it
            if (shim) co_await leave_shim(container, *shim);
            container->endpoint.reset();
            container->ports.clear();
            continue;
        }
        Dead one{.container = container, .status = std::nullopt};
        if (state && state->exit) {
            one.status = state->exit;
            container->started_at = state->started_at;
        } else if (const auto record = supervisor::read_exit_record(paths(*container).exit_record)) {
            one.status = record->status;
            container->started_at = record->started_at;
        } else {
            struct stat status = {};
            one.started = !was_starting || ::stat(paths(*container).started.c_str(), &status) == 0;
            if (was_starting && one.started) {
                container->started_at = std::chrono::time_point_cast<WallTime::duration>(
                    std::chrono::system_clock::from_time_t(status.st_mtim.tv_sec) +
                    std::chrono::nanoseconds(status.st_mtim.tv_nsec));
                container->wanted = true;
            }
        }
        if (shim) co_await leave_shim(container, *shim);
        dead.push_back(std::move(one));
    }
    co_await forget_the_ended();
    CO_CHECK(co_await core_.pool.run([this, live] { return core_.network->reconcile(live); }), "network");

    for (Dead& one : dead) {
        const ContainerPtr& container = one.container;
        container->endpoint.reset();  // the network has let go of them already
        container->ports.clear();
        const std::string cgroup = spec_input(*container).cgroup_parent + "/" + container->id;
        std::ignore = co_await core_.pool.run([cgroup] { return clear_cgroup(cgroup); });
        if (!one.started) {
            // It was about to start, and nobody was told that it did.
            const bool ran_before = container->finished_at != WallTime{};
            container->phase = ran_before ? Phase::exited : Phase::created;
            container->pid = 0;
            container->wanted = false;
            save(*container);
            continue;
        }
        if (!one.status) {
            container->error = "its supervisor died";
            one.status = supervisor::ExitStatus{.code = 255, .finished_at = wall_now()};
        }
        container->phase = Phase::running;  // what ended() ends
        ++container->starts;
        log_info("container.ended_meanwhile", {{"id", container->id}, {"exit_code", one.status->code}});
        co_await ended(container, *one.status);
    }

    // Those that were to remove themselves, and were not yet gone.
    for (const ContainerPtr& container : core_.containers.all()) {
        if (container->phase == Phase::exited && container->host_config().auto_remove && !container->removed) {
            CO_CHECK(co_await remove_record(container, true, Keep::nothing));
        }
    }

    co_await sandboxes_.finish_reconciling();

    // Rubbish: sandboxes, cgroups and directories that belong to no container any more.
    for (const std::string& name : names_in(core_.options.exec_root + "/sandboxes")) {
        if (live_sandboxes.contains(name) && (!core_.sandboxes.by_id(name) || core_.sandboxes.by_id(name)->up))
            continue;
        const std::string directory = core_.options.exec_root + "/sandboxes/" + name;
        log_info("sandbox.swept", {{"id", name}});
        if (auto shim = co_await supervisor::ShimClient::connect(core_.executor, directory)) {
            std::ignore = co_await (*shim)->shutdown();
            (*shim)->close();
        }
        std::ignore = co_await core_.pool.run([directory] { return remove_tree(directory); });
    }
    std::set<std::string> known;
    std::set<std::string> running;
    for (const ContainerPtr& container : core_.containers.all()) {
        known.insert(container->id);
        if (container->is_running()) running.insert(container->id);
    }
    co_return co_await core_.pool.run([this, known, running]() -> Result<> {
        for (const std::string& name : cgroup_children(core_.options.cgroup_parent)) {
            if (!is_container_id(name) || running.contains(name)) continue;
            // Another daemon's containers live beside ours in the same parent: only what ours ever knew, or what nobody
            // lives in, is cleared.
            if (known.contains(name) || path_exists(core_.options.data_root + "/containers/" + name))
                std::ignore = clear_cgroup(core_.options.cgroup_parent + "/" + name);
        }
        for (const std::string& name : names_in(core_.options.data_root + "/containers")) {
            if (known.contains(name)) continue;
            log_info("container.swept", {{"id", name}});
            std::ignore = core_.images->layers().remove_container(name);
        }
        return {};
    });
}

// A shim of one container goes with it; one that others share only lets go of it.
asio::awaitable<void> ContainerService::leave_shim(ContainerPtr container,
                                                   std::shared_ptr<supervisor::ShimClient> shim) {
    if (sandbox_of(*container)) {
        std::ignore = co_await shim->remove({.container_id = container->id, .force = true});
    } else {
        std::ignore = co_await shim->shutdown();
    }
    shim->close();
}

// The last daemon may have died between the record of a container's end (or removal) and the word to a shim that goes
// on for others: it would refuse the container's next run.
asio::awaitable<void> ContainerService::forget_the_ended() {
    for (const SandboxPtr& sandbox : core_.sandboxes.all()) {
        if (!sandbox->shim) continue;
        const auto held = co_await sandbox->shim->list();
        if (!held) continue;
        for (const supervisor::ContainerState& one : held->containers) {
            const ContainerPtr container = core_.containers.by_id(one.container_id);
            if (container && container->is_alive()) continue;
            log_info("container.forgotten_meanwhile", {{"id", one.container_id}, {"sandbox", sandbox->id}});
            std::ignore = co_await sandbox->shim->remove({.container_id = one.container_id, .force = true});
        }
    }
}

void ContainerService::adopt_exec(const ContainerPtr& container, const supervisor::ExecState& state,
                                  std::shared_ptr<supervisor::ShimClient> shim) {
    if (state.exec_id.starts_with(health_exec_prefix)) {  // a probe that nobody waits for any more
        core_.gate.spawn(end_probe(container, state.exec_id, std::move(shim)));
        return;
    }
    auto exec = std::make_shared<Exec>();
    exec->id = state.exec_id;
    exec->spec.tty = state.terminal;
    exec->started = true;
    exec->running = state.running;
    exec->pid = state.pid;
    if (state.exit) exec->exit_code = state.exit->code;
    container->execs[exec->id] = exec;
    core_.containers.execs[exec->id] = container->id;
    core_.gate.spawn(watch_exec(container, exec, std::move(shim)));
}

void ContainerService::apply_restart_policies() {
    for (const ContainerPtr& container : core_.containers.all()) {
        const std::string& policy = container->host_config().restart_policy.name;
        if (container->phase == Phase::restarting && container->starts > 0) continue;  // on its way already
        const bool was_restarting = container->phase == Phase::restarting;
        const bool ran_before = container->started_at != WallTime{};
        const bool again =
            was_restarting || (container->phase == Phase::exited && ran_before &&
                               (policy == "always" || (policy == "unless-stopped" && !container->manually_stopped)));
        if (!again) continue;
        container->phase = Phase::restarting;
        container->manually_stopped = false;
        core_.gate.spawn(restart_later(container, container->exits));
    }
}

void ContainerService::close() {
    closing_ = true;
    core_.kept_changed.notify_all();
    for (const ContainerPtr& container : core_.containers.all()) {
        container->changed.notify_all();
        for (auto& [id, exec] : container->execs) exec->changed.notify_all();
        if (container->shim) container->shim->close();
    }
}

}  // namespace wherry::engine
