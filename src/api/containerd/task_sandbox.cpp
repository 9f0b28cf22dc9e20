// What the sandbox service asks of the Task API's containers.
#include <algorithm>
#include <csignal>
#include <utility>

#include "api/containerd/metrics.hpp"
#include "api/containerd/task_service.hpp"
#include "base/log.hpp"

namespace wherry::api::containerd {

Result<pid_t> TaskService::create_sandbox(CreateTaskRequest request, const std::string& netns_path) {
    if (tasks_.contains(request.id)) return fail(Code::already_exists, "container " + request.id + " exists");
    auto task = TRY(make_task(request, netns_path), "wherry create failed: unable to start the sandbox's process");
    task->hidden = true;
    pid_t pid = task->first.pid;
    tasks_.emplace(request.id, std::move(task));
    return pid;
}

Result<> TaskService::start_sandbox(const std::string& id) {
    auto found = tasks_.find(id);
    if (found == tasks_.end()) return fail(Code::not_found, "the sandbox has no process");
    Task& task = *found->second;
    if (auto started = task.container->start(); !started) {
        if (auto exit = task.container->state().exit; exit && !task.first.exit) finish_first(task, *exit);
        return std::unexpected(std::move(started).error().context("wherry start failed"));
    }
    task.first.started = true;
    return {};
}

void TaskService::signal_sandbox(const std::string& id, int signal) {
    auto found = tasks_.find(id);
    if (found == tasks_.end() || found->second->first.exit) return;
    supervisor::KillRequest kill;
    kill.container_id = id;
    kill.signal = static_cast<std::uint32_t>(signal);
    if (auto killed = found->second->container->kill(kill); !killed)
        log_warn("sandbox.kill_failed", {{"id", id}, {"error", killed.error()}});
}

void TaskService::remove_sandbox(const std::string& id) {
    if (auto found = tasks_.find(id); found != tasks_.end()) static_cast<void>(remove_task(*found->second));
}

Result<Any> TaskService::sandbox_metrics(const std::string& id) {
    auto found = tasks_.find(id);
    if (found == tasks_.end()) return fail(Code::not_found, "the sandbox has no process");
    return metrics_of(TRY(found->second->container->cgroup_statistics()));
}

std::size_t TaskService::containers() const {
    return static_cast<std::size_t>(
        std::ranges::count_if(tasks_, [](const auto& entry) { return !entry.second->hidden; }));
}

void TaskService::kill_containers() {
    for (const auto& [id, task] : tasks_) {
        if (task->hidden || task->first.exit) continue;
        supervisor::KillRequest kill;
        kill.container_id = id;
        kill.signal = SIGKILL;
        kill.all = true;
        if (auto killed = task->container->kill(kill); !killed)
            log_warn("task.kill_failed", {{"id", id}, {"error", killed.error()}});
    }
}

void TaskService::remove_everything() {
    std::vector<std::string> hidden;
    std::vector<std::string> others;
    for (const auto& [id, task] : tasks_) (task->hidden ? hidden : others).push_back(id);
    for (const auto* ids : {&others, &hidden}) {
        for (const std::string& id : *ids) static_cast<void>(remove_task(*tasks_.at(id)));
    }
}

}  // namespace wherry::api::containerd
