// One supervised container: its runtime object, cgroup, log, first process and execs.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "confine/cgroup.hpp"
#include "oci/container.hpp"
#include "supervisor/process.hpp"
#include "supervisor/protocol.hpp"
#include "supervisor/sandbox_namespaces.hpp"

namespace wherry::supervisor {

// What a container tells its surroundings. Called from the loop.
class ContainerObserver {
  public:
    virtual ~ContainerObserver() = default;
    virtual void on_exit(const ExitEvent& event) = 0;
    virtual void on_oom(const OomEvent& event) = 0;
};

struct Surroundings {
    EventLoop& loop;
    std::span<char> scratch;
    ContainerObserver& observer;
};

class SupervisedContainer {
  public:
    // Makes the cgroup, the log, the pipes and the waiting first process. On error nothing is left behind.
    static Result<std::unique_ptr<SupervisedContainer>> create(Surroundings& surroundings, CreateRequest request,
                                                               const SandboxNamespaces& namespaces);
    // The same without a process: adopt() gives it one that was made by somebody else, restored from a checkpoint.
    static Result<std::unique_ptr<SupervisedContainer>> create_empty(Surroundings& surroundings, CreateRequest request);
    ~SupervisedContainer();  // kills what still runs and removes the cgroup
    SupervisedContainer(const SupervisedContainer&) = delete;
    SupervisedContainer& operator=(const SupervisedContainer&) = delete;

    Result<> start();
    // Of an empty one: the streams of the process to come; -1: /dev/null.
    std::array<int, 3> waiting_stdio() const;
    // The process must be a child of this one by now, run in the container's cgroup and have the waiting streams.
    Result<> adopt(oci::Container container);
    void kill_strays();  // of an empty one: what a restore that failed has left in the cgroup
    Result<ExecState> exec(ExecRequest request);
    Result<> kill(const KillRequest& request);
    Result<> pause();
    Result<> resume();
    Result<Stats> stats();
    Result<confine::CgroupStatistics> cgroup_statistics() const;  // conflict once it has ended
    Result<std::vector<pid_t>> pids() const;                      // of every process inside
    const std::string& cgroup_path() const { return cgroup_path_; }
    // What oci::Container::restore() takes; empty without a process.
    json::object runtime_state() const { return container_ ? container_->state() : json::object(); }
    Result<> update(const UpdateRequest& request);
    Result<> remove_exec(const std::string& exec_id);
    // The first process, or an exec; not_found.
    Result<SupervisedProcess*> process(const std::string& exec_id);
    ContainerState state() const;
    Status status() const;
    bool has_running_execs() const;
    const std::string& id() const { return id_; }
    bool ended() const { return first_->exit().has_value(); }
    // Before it is destroyed: poststop hooks; ends the streams of leaked descendants.
    void prepare_removal();

    // True when the child belongs here.
    bool child_ended(pid_t pid, int wait_status);

  private:
    struct Exec {
        std::unique_ptr<SupervisedProcess> process;
        Fd pidfd;
        std::uint64_t order = 0;
    };

    SupervisedContainer(Surroundings& surroundings, CreateRequest&& request);
    Result<> set_up(CreateRequest& request, const SandboxNamespaces& namespaces);
    Result<> set_up_empty(CreateRequest& request);
    Result<> set_up_cgroup(oci::Spec& spec);
    Result<> set_up_streams(CreateRequest& request, bool terminal);
    void process_made();
    void first_process_ended(int wait_status);
    void exec_ended(const std::string& exec_id, int wait_status);
    void finish_first(ExitStatus status);
    void forget_old_execs();
    void watch_oom();
    void report_oom(std::uint64_t kills);
    void recheck_oom(std::chrono::milliseconds delay);
    void remove_cgroup();
    ExecState exec_state(const std::string& exec_id, const Exec& exec) const;

    Surroundings& surroundings_;
    std::shared_ptr<const bool> alive_ = std::make_shared<const bool>(true);  // guards callbacks that outlive this
    std::string id_;
    std::string exit_record_path_;
    std::string seccomp_path_;
    WallTime created_at_{};
    std::int64_t begin_ns_ = 0;
    std::vector<Timing> timings_;
    std::string cgroup_path_;
    std::optional<confine::Cgroup> cgroup_;
    std::optional<confine::OomWatch> oom_watch_;
    Watch oom_events_;
    Timer oom_recheck_;
    std::uint64_t oom_kills_ = 0;
    std::optional<oci::Container> container_;
    std::unique_ptr<SupervisedProcess> first_;
    ChildStdio waiting_stdio_;  // without a process
    std::map<std::string, Exec> execs_;
    std::uint64_t next_exec_order_ = 0;
    bool has_poststop_hooks_ = false;
    bool started_ = false;
    bool paused_ = false;
};

}  // namespace wherry::supervisor
