#include "api/containerd/task_service.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <limits>
#include <utility>

#include "api/containerd/bundle.hpp"
#include "api/containerd/metrics.hpp"
#include "api/containerd/rootfs.hpp"
#include "api/containerd/task_spec.hpp"
#include "base/log.hpp"
#include "oci/container.hpp"

namespace wherry::api::containerd {

namespace {

using supervisor::ExitStatus;

std::unexpected<Error> already_finished() {
    return fail(Code::not_found, "process already finished");
}

std::uint32_t code_of(const ExitStatus& status) {
    return static_cast<std::uint32_t>(status.code);
}

std::string encode_wait(const ExitStatus& status) {
    return encode(WaitResponse{code_of(status), timestamp_of(status.finished_at)});
}

// The options containerd hands on, when they are of the one kind we know.
Result<RuntimeOptions> runtime_options_of(const std::optional<Any>& any) {
    if (!any || any->type_url != runc_options_type) return RuntimeOptions{};
    return decode<RuntimeOptions>(any->value);
}

}  // namespace

TaskService::TaskService(supervisor::EventLoop& loop, std::span<char> scratch, RpcServer& server,
                         EventPublisher& events, TaskServiceOptions options, std::function<void()> shutdown)
    : loop_(loop),
      scratch_(scratch),
      server_(server),
      events_(events),
      options_(std::move(options)),
      shutdown_(std::move(shutdown)),
      surroundings_{loop_, scratch_, *this} {}

TaskService::~TaskService() = default;

RpcServer::Reply TaskService::handle(const TtrpcRequest& request, CallReference call) {
    if (request.service != task_service_name) return fail(Code::unimplemented, "unknown service " + request.service);
    if (request.method == "Wait") return wait(request.payload, call);
    if (request.method == "Delete") return remove(request.payload, call);
    if (const std::optional<StdioPaths> paths = outputs_of(request)) {
        OutputReaders readers(*paths);
        if (readers.all_there()) return TRY(dispatch(request.method, request.payload));
        if (deferred_calls_.size() >= max_tasks) return fail(Code::resource_exhausted, "too many calls are waiting");
        defer(request, call, std::move(readers));
        return std::nullopt;
    }
    if (request.method == "Checkpoint") return checkpoint(request.payload, call);
    if (request.method == "Start") {
        if (Task* task = to_restore(request.payload)) return begin_restore(*task, call);
    }
    return TRY(dispatch(request.method, request.payload));
}

// Those of the process that the call is about to make; what is wrong with the call is said when it is carried out.
std::optional<StdioPaths> TaskService::outputs_of(const TtrpcRequest& request) {
    if (request.method == "Create") {
        auto create = decode<CreateTaskRequest>(request.payload);
        if (!create) return std::nullopt;
        return StdioPaths{{}, std::move(create->stdout_path), std::move(create->stderr_path), create->terminal};
    }
    if (request.method != "Start") return std::nullopt;
    const auto start = decode<ProcessRequest>(request.payload);
    if (!start || start->exec_id.empty()) return std::nullopt;  // a container's are open since it was created
    const auto task = find(start->id);
    if (!task) return std::nullopt;
    const auto process = find_process(**task, start->exec_id);
    if (!process || (*process)->started || (*process)->exit) return std::nullopt;
    return (*process)->paths;
}

void TaskService::defer(const TtrpcRequest& request, CallReference call, OutputReaders readers) {
    const auto until = std::chrono::steady_clock::now() + reader_timeout;
    deferred_calls_.push_back(std::make_unique<DeferredCall>(request, call, std::move(readers), until));
    retry_later(*deferred_calls_.back());
}

void TaskService::retry_later(DeferredCall& deferred) {
    loop_.schedule(deferred.timer, reader_interval, [this, &deferred] {
        if (!deferred.readers.all_there() && std::chrono::steady_clock::now() < deferred.until) {
            retry_later(deferred);
            return;
        }
        server_.answer(deferred.call, dispatch(deferred.request.method, deferred.request.payload));
        std::erase_if(deferred_calls_, [&](const auto& one) { return one.get() == &deferred; });
    });
}

Result<std::string> TaskService::dispatch(const std::string& method, const std::string& payload) {
    using Method = Result<std::string> (TaskService::*)(const std::string&);
    static constexpr std::pair<std::string_view, Method> methods[]{
        {"State", &TaskService::state},      {"Create", &TaskService::create},    {"Start", &TaskService::start},
        {"Pids", &TaskService::pids},        {"Pause", &TaskService::pause},      {"Resume", &TaskService::resume},
        {"Kill", &TaskService::kill},        {"Exec", &TaskService::exec},        {"ResizePty", &TaskService::resize},
        {"CloseIO", &TaskService::close_io}, {"Update", &TaskService::update},    {"Stats", &TaskService::stats},
        {"Connect", &TaskService::connect},  {"Shutdown", &TaskService::shutdown}};
    for (const auto& [name, function] : methods) {
        if (name == method) return (this->*function)(payload);
    }
    return fail(Code::unimplemented, "unknown method " + method);
}

Result<TaskService::Task*> TaskService::find(const std::string& id) {
    auto found = tasks_.find(id);
    if (found == tasks_.end() || found->second->hidden) return fail(Code::not_found, "container not created");
    return found->second.get();
}

Result<TaskService::Process*> TaskService::find_process(Task& task, const std::string& exec_id) {
    if (exec_id.empty()) return &task.first;
    auto found = task.execs.find(exec_id);
    if (found == task.execs.end()) return fail(Code::not_found, "process does not exist " + exec_id);
    return &found->second.process;
}

ProcessStdio::Context TaskService::stdio_context(const std::string& container_id) {
    return {loop_, scratch_, container_id, options_.name_space};
}

// ---- a container's life

Result<std::unique_ptr<TaskService::Task>> TaskService::make_task(CreateTaskRequest& request,
                                                                  const std::string& netns_path) {
    RuntimeOptions runtime = TRY(runtime_options_of(request.options), "runtime options");
    auto task = std::make_unique<Task>();
    task->id = request.id;
    task->bundle = request.bundle;
    task->first.paths = {request.stdin_path, request.stdout_path, request.stderr_path, request.terminal};

    supervisor::CreateRequest create;
    create.container_id = request.id;
    create.bundle = request.bundle;
    create.exit_record_path = request.bundle + "/" + std::string(exit_record_name);
    create.no_pivot = runtime.no_pivot_root;
    create.keep_session_keyring = runtime.no_new_keyring;
    create.spec = TRY(read_config(request.bundle));
    bool restored = !request.checkpoint.empty();
    PlannedRoot root = plan_root(request.rootfs, restored || has_host_hooks(create.spec));
    if (restored) task->restore = TRY(plan_restore(request, create.spec, runtime.criu_work_path), "restore");
    TRY(adapt_config(create.spec, request.terminal, root));
    if (!netns_path.empty()) TRY(give_network(create.spec, netns_path));
    create.seccomp_path = TRY(compile_seccomp_of(create.spec, options_.runtime_directory + "/seccomp"));
    if (root.overlay) create.root = std::move(*root.overlay);
    task->first.stdio =
        TRY(ProcessStdio::open(stdio_context(request.id), task->first.paths, [this] { retry_deletes(); }));
    create.stdin_open = task->first.stdio->wants_stdin();

    std::string rootfs = request.bundle + "/rootfs";
    if (root.mount_on_host) {
        TRY(mount_all(request.rootfs, rootfs), "rootfs");
        task->rootfs_mounted = true;
    }
    auto made = [&]() -> Result<> {
        task->container = restored
                              ? TRY(supervisor::SupervisedContainer::create_empty(surroundings_, std::move(create)))
                              : TRY(supervisor::SupervisedContainer::create(surroundings_, std::move(create), {}));
        supervisor::SupervisedProcess* process = TRY(task->container->process({}));
        task->first.pid = process->pid;
        TRY(task->first.stdio->connect(process->shared_output(), process->input()));
        return save_state(*task);
    }();
    if (!made) {
        task->container.reset();
        if (task->rootfs_mounted) {
            if (auto unmounted = unmount_all(rootfs); !unmounted)
                log_warn("task.rootfs_left", {{"id", task->id}, {"error", unmounted.error()}});
        }
        return std::unexpected(std::move(made).error());
    }
    return task;
}

Result<> TaskService::save_state(const Task& task) const {
    BundleState state{task.container->runtime_state(), task.container->cgroup_path(), task.rootfs_mounted};
    return save_bundle_state(task.bundle, state);
}

Result<std::string> TaskService::create(const std::string& payload) {
    CreateTaskRequest request = TRY(decode<CreateTaskRequest>(payload));
    TRY(check_id(request.id), "id");
    TRY(check_absolute(request.bundle, "bundle"));
    if (tasks_.contains(request.id)) return fail(Code::already_exists, "container " + request.id + " exists");
    if (tasks_.size() >= max_tasks) return fail(Code::resource_exhausted, "too many containers in the sandbox");
    auto task = TRY(make_task(request), "wherry create failed: unable to start container process");
    TaskCreate event{request.id,
                     request.bundle,
                     std::move(request.rootfs),
                     {request.stdin_path, request.stdout_path, request.stderr_path, request.terminal},
                     request.checkpoint,
                     static_cast<std::uint32_t>(task->first.pid)};
    PidResponse response{event.pid};
    tasks_.emplace(request.id, std::move(task));
    events_.publish(event);
    return encode(response);
}

Result<std::string> TaskService::start(const std::string& payload) {
    ProcessRequest request = TRY(decode<ProcessRequest>(payload));
    Task* task = TRY(find(request.id));
    if (!request.exec_id.empty()) return start_exec(*task, request.exec_id);
    if (task->first.exit) return fail(Code::conflict, "the container has stopped");
    if (auto started = task->container->start(); !started) {
        // Its process has ended: that is told, as of any other.
        if (auto exit = task->container->state().exit; exit && !task->first.exit) finish_first(*task, *exit);
        return std::unexpected(std::move(started).error().context("wherry start failed"));
    }
    task->first.started = true;
    auto pid = static_cast<std::uint32_t>(task->first.pid);
    events_.publish(TaskStart{request.id, pid});
    return encode(PidResponse{pid});
}

Result<std::string> TaskService::exec(const std::string& payload) {
    ExecProcessRequest request = TRY(decode<ExecProcessRequest>(payload));
    Task* task = TRY(find(request.id));
    TRY(check_id(request.exec_id), "exec id");
    if (task->execs.contains(request.exec_id)) return fail(Code::already_exists, "id " + request.exec_id + " exists");
    if (task->execs.size() >= max_execs) return fail(Code::resource_exhausted, "too many execs in the container");
    if (task->first.exit) return fail(Code::conflict, "cannot exec in a stopped container");
    if (!request.spec) return fail(Code::invalid_argument, "exec: the process is missing");
    Exec exec;
    exec.spec = TRY(parse_json_object(request.spec->value), "exec: process");
    exec.spec["terminal"] = request.terminal;
    exec.process.paths = {std::move(request.stdin_path), std::move(request.stdout_path), std::move(request.stderr_path),
                          request.terminal};
    task->execs.emplace(request.exec_id, std::move(exec));
    events_.publish(TaskExecAdded{request.id, request.exec_id});
    return std::string();
}

Result<std::string> TaskService::start_exec(Task& task, const std::string& exec_id) {
    auto found = task.execs.find(exec_id);
    if (found == task.execs.end()) return fail(Code::not_found, "process does not exist " + exec_id);
    TRY(check_not_busy(task));
    Exec& exec = found->second;
    Process& process = exec.process;
    if (process.started || process.exit) return fail(Code::conflict, "exec " + exec_id + " has been started already");
    auto made = [&]() -> Result<> {
        process.stdio = TRY(ProcessStdio::open(stdio_context(task.id), process.paths, [this] { retry_deletes(); }));
        supervisor::ExecRequest request;
        request.container_id = task.id;
        request.exec_id = exec_id;
        request.process = exec.spec;
        request.stdin_open = process.stdio->wants_stdin();
        request.discard_output = true;  // what nobody asked for; what is wanted is connected before anything is read
        supervisor::ExecState state = TRY(task.container->exec(std::move(request)));
        process.pid = state.pid;
        process.started = true;
        supervisor::SupervisedProcess* running = TRY(task.container->process(exec_id));
        return process.stdio->connect(running->shared_output(), running->input());
    }();
    if (!made) {
        if (!process.started) {
            process.stdio.reset();
            ExitStatus status;
            status.code = oci::failure_exit_code(made.error());
            status.finished_at = wall_now();
            process.exit = status;
            for (CallReference waiter : std::exchange(process.waiters, {})) server_.answer(waiter, encode_wait(status));
        }
        return std::unexpected(
            std::move(made).error().context("wherry exec failed: unable to start container process"));
    }
    exec.spec = {};
    auto pid = static_cast<std::uint32_t>(process.pid);
    events_.publish(TaskExecStarted{task.id, exec_id, pid});
    return encode(PidResponse{pid});
}

bool TaskService::child_ended(pid_t pid, int wait_status) {
    return std::ranges::any_of(tasks_, [&](const auto& entry) {
        return criu_ended(*entry.second, pid, wait_status) || entry.second->container->child_ended(pid, wait_status);
    });
}

void TaskService::process_ended(Process& process, const std::string& container_id, const std::string& process_id,
                                const ExitStatus& status) {
    process.exit = status;
    events_.publish(TaskExit{container_id, process_id, static_cast<std::uint32_t>(process.pid), code_of(status),
                             timestamp_of(status.finished_at)});
    for (CallReference waiter : std::exchange(process.waiters, {})) server_.answer(waiter, encode_wait(status));
}

void TaskService::on_exit(const supervisor::ExitEvent& event) {
    auto found = tasks_.find(event.container_id);
    if (found == tasks_.end()) return;
    Task& task = *found->second;
    auto runs = [](const auto& entry) { return entry.second.process.started && !entry.second.process.exit; };
    if (event.exec_id.empty()) {
        if (std::ranges::any_of(task.execs, runs)) {
            task.held_exit = event.status;
        } else {
            finish_first(task, event.status);
        }
        return;
    }
    auto exec = task.execs.find(event.exec_id);
    if (exec == task.execs.end()) return;
    process_ended(exec->second.process, task.id, event.exec_id, event.status);
    if (task.held_exit && std::ranges::none_of(task.execs, runs))
        finish_first(task, *std::exchange(task.held_exit, std::nullopt));
}

void TaskService::finish_first(Task& task, const ExitStatus& status) {
    if (task.hidden) {
        task.first.exit = status;
        if (sandbox_ended_) sandbox_ended_(status);
        return;
    }
    if (status.oom_killed) tell_oom(task);
    process_ended(task.first, task.id, task.id, status);
    // Execs that were never started have nothing to wait for any more.
    for (auto& [id, exec] : task.execs) {
        for (CallReference waiter : std::exchange(exec.process.waiters, {}))
            server_.answer(waiter, fail(Code::conflict, "the container has stopped"));
    }
}

void TaskService::on_oom(const supervisor::OomEvent& event) {
    if (auto found = tasks_.find(event.container_id); found != tasks_.end()) {
        found->second->oom_told = false;  // each further kill is told
        tell_oom(*found->second);
    }
}

void TaskService::tell_oom(Task& task) {
    if (task.hidden) return;
    if (std::exchange(task.oom_told, true)) return;
    events_.publish(TaskOom{task.id});
}

RpcServer::Reply TaskService::wait(const std::string& payload, CallReference call) {
    ProcessRequest request = TRY(decode<ProcessRequest>(payload));
    Task* task = TRY(find(request.id));
    Process* process = TRY(find_process(*task, request.exec_id));
    if (process->exit) return encode_wait(*process->exit);
    if (task->first.exit) return fail(Code::conflict, "the container has stopped");
    process->waiters.push_back(call);
    return std::nullopt;
}

// ---- removal

RpcServer::Reply TaskService::remove(const std::string& payload, CallReference call) {
    ProcessRequest request = TRY(decode<ProcessRequest>(payload));
    RpcServer::Reply reply = try_remove(request, false);
    if (!reply || *reply) return reply;
    auto pending = std::make_unique<PendingDelete>();
    pending->call = call;
    pending->request = std::move(request);
    loop_.schedule(pending->timer, output_timeout, [this, raw = pending.get()] {
        raw->late = true;
        retry_deletes();
    });
    pending_deletes_.push_back(std::move(pending));
    return std::nullopt;
}

void TaskService::retry_deletes() {
    for (std::size_t i = 0; i < pending_deletes_.size();) {
        PendingDelete& pending = *pending_deletes_[i];
        RpcServer::Reply reply = try_remove(pending.request, pending.late);
        if (reply && !*reply) {
            ++i;
            continue;
        }
        if (reply) {
            server_.answer(pending.call, std::move(**reply));
        } else {
            server_.answer(pending.call, std::unexpected(std::move(reply).error()));
        }
        pending_deletes_.erase(pending_deletes_.begin() + static_cast<std::ptrdiff_t>(i));
    }
}

// nullopt: its output is still on the way.
RpcServer::Reply TaskService::try_remove(const ProcessRequest& request, bool late) {
    Task* task = TRY(find(request.id));
    Process* process = TRY(find_process(*task, request.exec_id));
    if (process->started && !process->exit)
        return fail(Code::conflict, request.exec_id.empty() ? "the container must be stopped before it is deleted"
                                                            : "the process must be stopped before it is deleted");
    if (request.exec_id.empty()) TRY(check_not_busy(*task));
    if (!late && process->started && process->stdio && process->stdio->output_pending()) return std::nullopt;
    if (request.exec_id.empty()) return remove_task(*task);
    DeleteResponse response;
    response.pid = static_cast<std::uint32_t>(process->pid);
    if (process->exit) {
        response.exit_status = code_of(*process->exit);
        response.exited_at = timestamp_of(process->exit->finished_at);
    }
    static_cast<void>(task->container->remove_exec(request.exec_id));  // never started, or forgotten: fine
    task->execs.erase(request.exec_id);
    return encode(response);
}

std::string TaskService::remove_task(Task& task) {
    std::string id = task.id;
    give_up_criu(task);
    task.container->prepare_removal();
    if (!task.first.exit) {
        // Created, never started, or to go as it is: it ends here.
        task.container.reset();
        ExitStatus status;
        status.signal = SIGKILL;
        status.code = 128 + SIGKILL;
        status.finished_at = wall_now();
        finish_first(task, status);
    }
    if (task.rootfs_mounted) {
        if (auto unmounted = unmount_all(task.bundle + "/rootfs"); !unmounted)
            log_warn("task.rootfs_left", {{"id", id}, {"error", unmounted.error()}});
    }
    DeleteResponse response{static_cast<std::uint32_t>(task.first.pid), code_of(*task.first.exit),
                            timestamp_of(task.first.exit->finished_at)};
    if (!task.hidden) events_.publish(TaskDelete{id, response.pid, response.exit_status, response.exited_at, {}});
    tasks_.erase(id);
    return encode(response);
}

// ---- the rest

Result<std::string> TaskService::state(const std::string& payload) {
    ProcessRequest request = TRY(decode<ProcessRequest>(payload));
    Task* task = TRY(find(request.id));
    Process* process = TRY(find_process(*task, request.exec_id));
    StateResponse response;
    response.id = request.exec_id.empty() ? task->id : request.exec_id;
    response.bundle = task->bundle;
    response.pid = static_cast<std::uint32_t>(process->pid);
    response.stdin_path = process->paths.stdin_path;
    response.stdout_path = process->paths.stdout_path;
    response.stderr_path = process->paths.stderr_path;
    response.terminal = process->paths.terminal;
    response.exec_id = request.exec_id;
    response.exited_at = timestamp_of(WallTime{});
    if (process->exit) {
        response.status = TaskStatus::stopped;
        response.exit_status = code_of(*process->exit);
        response.exited_at = timestamp_of(process->exit->finished_at);
    } else if (!process->started) {
        response.status = TaskStatus::created;
    } else {
        bool paused = task->container->status() == supervisor::Status::paused;
        response.status = paused ? TaskStatus::paused : TaskStatus::running;
    }
    return encode(response);
}

Result<std::string> TaskService::pids(const std::string& payload) {
    ProcessRequest request = TRY(decode<ProcessRequest>(payload));
    Task* task = TRY(find(request.id));
    PidsResponse response;
    for (pid_t pid : TRY(task->container->pids())) {
        ProcessInfo info;
        info.pid = static_cast<std::uint32_t>(pid);
        auto exec = std::ranges::find_if(task->execs, [pid](const auto& entry) {
            return entry.second.process.pid == pid && !entry.second.process.exit;
        });
        if (exec != task->execs.end())
            info.info = Any{std::string(process_details_type), encode(ProcessDetails{exec->first})};
        response.processes.push_back(std::move(info));
    }
    return encode(response);
}

Result<std::string> TaskService::pause(const std::string& payload) {
    ProcessRequest request = TRY(decode<ProcessRequest>(payload));
    Task* task = TRY(find(request.id));
    TRY(check_not_busy(*task));
    TRY(task->container->pause());
    events_.publish(TaskPaused{request.id});
    return std::string();
}

Result<std::string> TaskService::resume(const std::string& payload) {
    ProcessRequest request = TRY(decode<ProcessRequest>(payload));
    Task* task = TRY(find(request.id));
    TRY(check_not_busy(*task));
    TRY(task->container->resume());
    events_.publish(TaskResumed{request.id});
    return std::string();
}

Result<std::string> TaskService::kill(const std::string& payload) {
    KillRequest request = TRY(decode<KillRequest>(payload));
    Task* task = TRY(find(request.id));
    Process* process = TRY(find_process(*task, request.exec_id));
    if (process->exit) return already_finished();
    if (!request.exec_id.empty() && !process->started) return fail(Code::conflict, "the process has not been started");
    if (request.signal > 64) return fail(Code::invalid_argument, "signal: " + std::to_string(request.signal));
    if (request.exec_id.empty() && request.signal == SIGKILL && end_restore(*task)) return std::string();
    supervisor::KillRequest kill;
    kill.container_id = request.id;
    kill.exec_id = request.exec_id;
    kill.signal = request.signal;
    kill.all = request.all;
    auto killed = task->container->kill(kill);
    if (!killed && (killed.error().os_errno() == ESRCH || killed.error().code() == Code::not_found))
        return already_finished();
    TRY(std::move(killed));
    return std::string();
}

Result<std::string> TaskService::resize(const std::string& payload) {
    ResizePtyRequest request = TRY(decode<ResizePtyRequest>(payload));
    Task* task = TRY(find(request.id));
    Process* process = TRY(find_process(*task, request.exec_id));
    constexpr std::uint32_t largest = std::numeric_limits<std::uint16_t>::max();
    if (request.width > largest || request.height > largest)
        return fail(Code::invalid_argument, "a terminal of that size is impossible");
    if (!request.exec_id.empty() && !process->started) {
        // It starts with that size.
        json::object size;
        size["width"] = request.width;
        size["height"] = request.height;
        task->execs.at(request.exec_id).spec["consoleSize"] = std::move(size);
        return std::string();
    }
    supervisor::SupervisedProcess* running = TRY(task->container->process(request.exec_id));
    TRY(running->resize(static_cast<std::uint16_t>(request.width), static_cast<std::uint16_t>(request.height)));
    return std::string();
}

Result<std::string> TaskService::close_io(const std::string& payload) {
    CloseIoRequest request = TRY(decode<CloseIoRequest>(payload));
    Task* task = TRY(find(request.id));
    Process* process = TRY(find_process(*task, request.exec_id));
    if (request.close_stdin && process->stdio) process->stdio->close_stdin();
    return std::string();
}

Result<std::string> TaskService::stats(const std::string& payload) {
    ProcessRequest request = TRY(decode<ProcessRequest>(payload));
    Task* task = TRY(find(request.id));
    StatsResponse response;
    response.stats = metrics_of(TRY(task->container->cgroup_statistics()));
    return encode(response);
}

Result<std::string> TaskService::update(const std::string& payload) {
    UpdateTaskRequest request = TRY(decode<UpdateTaskRequest>(payload));
    Task* task = TRY(find(request.id));
    if (!request.resources) return fail(Code::invalid_argument, "update: resources are missing");
    supervisor::UpdateRequest update;
    update.container_id = request.id;
    update.resources = TRY(parse_json_object(request.resources->value), "update: resources");
    TRY(task->container->update(update));
    return std::string();
}

Result<std::string> TaskService::connect(const std::string& payload) {
    ProcessRequest request = TRY(decode<ProcessRequest>(payload));
    ConnectResponse response;
    response.shim_pid = static_cast<std::uint32_t>(::getpid());
    if (auto found = tasks_.find(request.id); found != tasks_.end())
        response.task_pid = static_cast<std::uint32_t>(found->second->first.pid);
    return encode(response);
}

Result<std::string> TaskService::shutdown(const std::string& payload) {
    TRY(decode<ShutdownRequest>(payload));
    // Asked after every container of a pod; only the last one's ends the shim.
    if (tasks_.empty() && pending_deletes_.empty()) loop_.defer(shutdown_);
    return std::string();
}

}  // namespace wherry::api::containerd
