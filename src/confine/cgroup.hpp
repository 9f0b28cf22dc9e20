// Control groups, one type for v1, v2 and hybrid hosts (cgroups(7); Documentation/admin-guide/cgroup-v1, cgroup-v2).
//
// A hybrid host has controllers on v1 hierarchies and an empty v2 hierarchy beside them: a Cgroup is a directory of the
// same path in each. Limits go where the controller is; freezing and killing go to v2 where it is mounted.
//
//     const CgroupSystem& system = *TRY(CgroupSystem::of_this_host());
//     Cgroup group = TRY(Cgroup::create(system, "/wherry/" + id));
//     TRY(group.apply(resources));
//     CgroupJoin join = TRY(group.prepare_join());
//     clone3 with CLONE_INTO_CGROUP and join.unified_directory() where there is one;
//     in the child, single-threaded: post_fork::join_cgroups(join.task_files());
//     ...
//     TRY(group.kill_all());  TRY(group.remove());
//
// Nothing here ever writes a pid into cgroup.procs: that costs milliseconds (a grace period of the kernel), a task
// moving itself costs microseconds. Not thread-safe per object; different objects are independent.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "confine/cgroup_resources.hpp"
#include "confine/cgroup_statistics.hpp"

namespace wherry::confine {

enum class CgroupMode : unsigned char { v1, v2, hybrid };
std::string_view to_string(CgroupMode mode);

struct CgroupHierarchy {
    bool unified = false;                  // cgroup2
    std::string mount_point;               // "/sys/fs/cgroup/memory"
    std::vector<std::string> controllers;  // "cpu", "cpuacct", ...; a named hierarchy has "name=systemd"
    std::string own_path;                  // where this process is, as /proc/self/cgroup tells

    bool has(std::string_view controller) const;
};

// The hierarchies mounted here and who has which controller.
class CgroupSystem {
  public:
    static Result<CgroupSystem> detect();  // /proc/self/mountinfo, /proc/self/cgroup, cgroup.controllers
    // The same from texts; `available` are the controllers of the v2 root ("cpu io memory").
    static Result<CgroupSystem> parse(std::string_view mountinfo, std::string_view cgroup, std::string_view available);
    // Detected once for the process.
    static Result<const CgroupSystem*> of_this_host();

    CgroupMode mode() const { return mode_; }
    const std::vector<CgroupHierarchy>& hierarchies() const { return hierarchies_; }
    const CgroupHierarchy* unified() const;  // nullptr on pure v1
    const CgroupHierarchy* v1_with(std::string_view controller) const;
    bool has(std::string_view controller) const;  // on any hierarchy
    bool on_v2(std::string_view controller) const;
    const std::vector<std::string>& v2_controllers() const { return v2_controllers_; }

  private:
    std::vector<CgroupHierarchy> hierarchies_;
    std::vector<std::string> v2_controllers_;
    CgroupMode mode_ = CgroupMode::v1;
};

// Absolute, no "..", no empty or "." parts, no control characters, at most 255 bytes a part: "/wherry/<id>".
Result<> validate_cgroup_path(std::string_view path);

// What a child needs to enter a cgroup: open descriptors, so that it works from any root and mount namespace. The child
// itself writes, so it must be single-threaded and do so before it drops its rights or joins a user namespace.
class CgroupJoin {
  public:
    // `tasks` of each v1 hierarchy, open for writing.
    std::span<const int> task_files() const { return task_files_; }
    // Directory for CLONE_INTO_CGROUP; -1 when there is no v2 hierarchy.
    int unified_directory() const { return unified_directory_.get(); }
    // cgroup.procs of v2, for a child that was not made with CLONE_INTO_CGROUP (slow: milliseconds); -1 without v2.
    int unified_procs() const { return unified_procs_.get(); }

  private:
    friend class Cgroup;
    std::vector<Fd> owned_;
    std::vector<int> task_files_;
    Fd unified_directory_;
    Fd unified_procs_;
};

namespace post_fork {
// Moves the calling (single-threaded) process: writes "0" to each. 0 or an errno.
int join_cgroups(std::span<const int> task_files) noexcept;
}  // namespace post_fork

// Tells of processes of the cgroup killed for lack of memory. Watch fd() with epoll for events(); then call read().
class OomWatch {
  public:
    int fd() const;
    std::uint32_t events() const;  // EPOLLIN on v1 (an eventfd), EPOLLPRI on v2 (memory.events)
    // Clears the readiness; the number of processes killed since the cgroup was made.
    Result<std::uint64_t> read();

  private:
    friend class Cgroup;
    Fd event_;     // v1
    Fd counters_;  // memory.oom_control or memory.events
    bool v2_ = false;
};

class Cgroup {
  public:
    // Makes the directory in every hierarchy, parents too (cpuset v1: processors and memory nodes inherited; v2:
    // controllers enabled on the way). already_exists when one of the leaves is there; then nothing is left behind.
    static Result<Cgroup> create(const CgroupSystem& system, const std::string& path);
    // One that exists in at least one hierarchy; not_found otherwise.
    static Result<Cgroup> open(const CgroupSystem& system, const std::string& path);
    // create() in two steps, for who has something to do meanwhile: begin() makes what a process is born in (v2's
    // directory), complete() the rest. Only where both kinds of hierarchy are mounted; unimplemented elsewhere.
    static Result<Cgroup> begin(const CgroupSystem& system, const std::string& path);
    Result<> complete();
    // One that somebody else (systemd) has made in some hierarchies: made in the others as well.
    static Result<Cgroup> adopt(const CgroupSystem& system, const std::string& path);
    Cgroup(Cgroup&&) noexcept;
    Cgroup& operator=(Cgroup&&) noexcept;
    ~Cgroup();  // closes descriptors; the cgroup stays

    const std::string& path() const;

    // Sets what is given, in an order the kernel accepts also for a cgroup in use (memory below swap, quota within
    // period). invalid_argument for values the kernel refuses, unimplemented for what no hierarchy here can do, naming
    // the setting. Warnings (settings that have no effect on this host) are appended when given.
    Result<> apply(const CgroupResources& resources, std::vector<std::string>* warnings = nullptr);

    Result<CgroupJoin> prepare_join() const;
    // The paths of the files that task_files() are opened from, also of hierarchies not yet made: for a child that
    // opens them itself. They name host paths.
    std::vector<std::string> task_paths() const;

    Result<CgroupStatistics> statistics() const;
    // memory.oom_control's or memory.events' oom_kill. 0 when there is no memory controller.
    Result<std::uint64_t> oom_kills() const;
    Result<OomWatch> watch_oom() const;

    // Returns when all are stopped, deadline_exceeded otherwise (then thawed again).
    Result<> freeze(std::chrono::milliseconds timeout = std::chrono::seconds(10));
    Result<> thaw();
    Result<bool> frozen() const;

    Result<std::vector<pid_t>> pids() const;  // of this cgroup and those below
    Result<bool> populated() const;
    // SIGKILL to every process in it and below, also frozen ones; loops until no new ones appear. Does not wait for
    // their end.
    Result<> kill_all();
    // `signal` to each process once (docker kill of a whole group); not a guarantee.
    Result<> signal_all(int signal);

    // Removes it and the cgroups below from every hierarchy. Processes that have just been killed hold it for a moment:
    // waits for them (cgroup.events on v2, short retries on v1), then deadline_exceeded naming what is still there.
    // Missing is fine.
    Result<> remove(std::chrono::milliseconds timeout = std::chrono::seconds(5));

  private:
    struct State;
    explicit Cgroup(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

// Removes whatever is left of `path` in any hierarchy, killing what is inside: for reconciling at start.
Result<> remove_cgroup_by_path(const CgroupSystem& system, const std::string& path,
                               std::chrono::milliseconds timeout = std::chrono::seconds(5));
// Names of the direct children of `parent` over all hierarchies, sorted, each once. Missing parent: empty.
Result<std::vector<std::string>> list_child_cgroups(const CgroupSystem& system, const std::string& parent);

}  // namespace wherry::confine
