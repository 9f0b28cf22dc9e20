// containerd's Task API v2 (containerd.task.v2.Task) for the containers of one shim. Answers at once, but for Wait, for
// Delete while a reader has not taken all output yet, and while CRIU runs for Checkpoint and the Start of a checkpoint.
//
// What a caller sees follows runc's shim where containerd, dockerd and kubelet rely on it: a process that has ended is
// NOT_FOUND to Kill, events come in the order create, start, exit, delete, and the exit of the first process comes
// after those of its execs.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "api/containerd/event_publisher.hpp"
#include "api/containerd/messages.hpp"
#include "api/containerd/output_readers.hpp"
#include "api/containerd/rpc_server.hpp"
#include "api/containerd/stdio.hpp"
#include "base/json.hpp"
#include "checkpoint/images.hpp"
#include "supervisor/container.hpp"

namespace wherry::api::containerd {

struct TaskServiceOptions {
    std::string name_space;
    std::string runtime_directory;  // compiled seccomp programs are kept below it
};

class TaskService final : public supervisor::ContainerObserver {
  public:
    static constexpr std::size_t max_tasks = 256;
    static constexpr std::size_t max_execs = 4096;
    // Delete waits this long for a reader that does not take the output.
    static constexpr std::chrono::milliseconds output_timeout{10'000};
    // Create and an exec's Start wait this long for a reader of the output that is not there yet, looking this often.
    static constexpr std::chrono::milliseconds reader_timeout{10'000};
    static constexpr std::chrono::milliseconds reader_interval{2};

    // `shutdown` is called when containerd wants the shim to end and nothing is left in it.
    TaskService(supervisor::EventLoop& loop, std::span<char> scratch, RpcServer& server, EventPublisher& events,
                TaskServiceOptions options, std::function<void()> shutdown);
    ~TaskService() override;
    TaskService(const TaskService&) = delete;
    TaskService& operator=(const TaskService&) = delete;

    RpcServer::Reply handle(const TtrpcRequest& request, CallReference call);
    bool empty() const { return tasks_.empty(); }
    bool child_ended(pid_t pid, int wait_status);

    // For the sandbox service: a container that the Task API does not show and that no event tells of. -> its pid.
    // A network namespace that the configuration leaves open is `netns_path`'s, where that is given.
    Result<pid_t> create_sandbox(CreateTaskRequest request, const std::string& netns_path);
    Result<> start_sandbox(const std::string& id);
    void signal_sandbox(const std::string& id, int signal);
    void remove_sandbox(const std::string& id);
    Result<Any> sandbox_metrics(const std::string& id);
    // Called when the sandbox's process has ended.
    void observe_sandbox(std::function<void(const supervisor::ExitStatus&)> ended) {
        sandbox_ended_ = std::move(ended);
    }
    std::size_t containers() const;
    void kill_containers();    // SIGKILL to those that run
    void remove_everything();  // the sandbox's container, too; what ran is told to have been killed

    void on_exit(const supervisor::ExitEvent& event) override;
    void on_oom(const supervisor::OomEvent& event) override;

  private:
    struct Process {
        StdioPaths paths;
        std::unique_ptr<ProcessStdio> stdio;
        pid_t pid = 0;
        bool started = false;
        std::optional<supervisor::ExitStatus> exit;
        std::vector<CallReference> waiters;
    };
    struct Exec {
        Process process;
        json::object spec;
    };
    struct Restore {
        std::string images, work;
    };
    // A dump or a restore that is under way: one a container.
    struct CriuJob {
        checkpoint::CriuProcess process;
        CallReference call;
        std::function<Result<std::string>(Result<>)> finish;
    };
    struct Task {
        std::string id, bundle;
        bool rootfs_mounted = false;
        bool hidden = false;  // the sandbox's
        Process first;
        std::map<std::string, Exec> execs;
        std::unique_ptr<supervisor::SupervisedContainer> container;
        std::optional<Restore> restore;  // until there is a process
        std::unique_ptr<CriuJob> criu;
        std::optional<supervisor::ExitStatus> held_exit;  // until the execs' exits are told
        bool oom_told = false;
    };
    struct PendingDelete {
        CallReference call;
        ProcessRequest request;
        supervisor::Timer timer;
        bool late = false;
    };

    // Create and Start while a reader of the process's output is missing.
    struct DeferredCall {
        TtrpcRequest request;
        CallReference call;
        OutputReaders readers;
        std::chrono::steady_clock::time_point until;  // then without them
        supervisor::Timer timer{};
    };

    std::optional<StdioPaths> outputs_of(const TtrpcRequest& request);
    void defer(const TtrpcRequest& request, CallReference call, OutputReaders readers);
    void retry_later(DeferredCall& deferred);
    Result<std::string> dispatch(const std::string& method, const std::string& payload);
    Result<std::string> create(const std::string& payload);
    Result<std::string> start(const std::string& payload);
    Result<std::string> exec(const std::string& payload);
    Result<std::string> resize(const std::string& payload);
    Result<std::string> state(const std::string& payload);
    Result<std::string> pids(const std::string& payload);
    Result<std::string> pause(const std::string& payload);
    Result<std::string> resume(const std::string& payload);
    Result<std::string> kill(const std::string& payload);
    Result<std::string> stats(const std::string& payload);
    Result<std::string> connect(const std::string& payload);
    Result<std::string> close_io(const std::string& payload);
    Result<std::string> update(const std::string& payload);
    Result<std::string> shutdown(const std::string& payload);
    RpcServer::Reply wait(const std::string& payload, CallReference call);
    RpcServer::Reply remove(const std::string& payload, CallReference call);
    RpcServer::Reply checkpoint(const std::string& payload, CallReference call);

    Result<Task*> find(const std::string& id);
    Result<Process*> find_process(Task& task, const std::string& exec_id);
    Result<std::unique_ptr<Task>> make_task(CreateTaskRequest& request, const std::string& netns_path = {});
    Result<> save_state(const Task& task) const;

    // task_checkpoint.cpp
    static Result<> check_not_busy(const Task& task);
    static Result<Restore> plan_restore(const CreateTaskRequest& request, const json::object& config,
                                        const std::string& work);
    Task* to_restore(const std::string& payload);  // of a Start that is to restore a container; nullptr
    RpcServer::Reply begin_restore(Task& task, CallReference call);
    Result<> adopt_restored(Task& task, const checkpoint::RestoreRequest& request);
    bool criu_ended(Task& task, pid_t pid, int wait_status);
    bool end_restore(Task& task);   // a SIGKILL for what is being restored: whether it was
    void give_up_criu(Task& task);  // the container goes

    Result<std::string> start_exec(Task& task, const std::string& exec_id);
    RpcServer::Reply try_remove(const ProcessRequest& request, bool late);
    std::string remove_task(Task& task);
    void retry_deletes();
    void process_ended(Process& process, const std::string& container_id, const std::string& process_id,
                       const supervisor::ExitStatus& status);
    void finish_first(Task& task, const supervisor::ExitStatus& status);
    void tell_oom(Task& task);
    ProcessStdio::Context stdio_context(const std::string& container_id);

    supervisor::EventLoop& loop_;
    std::span<char> scratch_;
    RpcServer& server_;
    EventPublisher& events_;
    TaskServiceOptions options_;
    std::function<void()> shutdown_;
    supervisor::Surroundings surroundings_;
    std::map<std::string, std::unique_ptr<Task>> tasks_;
    std::vector<std::unique_ptr<PendingDelete>> pending_deletes_;
    std::vector<std::unique_ptr<DeferredCall>> deferred_calls_;
    std::function<void(const supervisor::ExitStatus&)> sandbox_ended_;
};

}  // namespace wherry::api::containerd
