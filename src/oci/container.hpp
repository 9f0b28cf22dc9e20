// The container life cycle: create, start, exec, kill, delete. One Container is one first process and its namespaces.
//
// The caller is the parent of the container's processes: it waits on pidfd() and reaps with wait_exit(). The calling
// process must be single-threaded (checked): the child of clone3 goes on as ordinary C++ until it becomes the
// container's program. Call protect_own_binary() first thing in main().
//
//     CreateRequest request;
//     request.id = id;  request.spec = std::move(spec);
//     request.overlay = OverlayRoot{...};
//     request.stdio = {in.get(), out.get(), err.get()};
//     Container container = TRY(Container::create(std::move(request)));
//     TRY(container.start());
//     ... epoll on container.pidfd() ...
//     ExitStatus status = TRY(wait_exit(container.pidfd()));
//
// All calls block until the child answers (create of an ordinary container: 2-4 ms; hooks as long as their timeouts).
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "base/result.hpp"
#include "confine/cgroup.hpp"
#include "confine/resctrl.hpp"
#include "confine/seccomp.hpp"
#include "oci/spec.hpp"
#include "oci/user.hpp"

namespace wherry::oci {

// Where a failed create, start or exec stopped, for the engine's status and the shell's exit code.
// Carried by the Error's message; failure_kind() recovers it.
enum class FailureKind : unsigned char {
    other,
    executable_not_found,    // Docker: 400, exit code 127: exec: "foo": executable file not found in $PATH
    executable_not_runnable  // Docker: 400, exit code 126: permission denied, is a directory, exec format error
};
FailureKind failure_kind(const Error& error);
// 127, 126, or 128 for any other failure to start, as Docker reports.
int failure_exit_code(const Error& error);

// Overlayfs assembled inside the container's own mount namespace; nothing appears in the host's.
struct OverlayRoot {
    std::vector<std::string> lower;    // uppermost first; absolute
    std::string upper, work;           // both empty: read-only
    std::vector<std::string> options;  // further ones: "volatile", "metacopy=off", ...
};

// A namespace to join instead of a new one: overrides the spec's entry of that type.
struct NamespaceFd {
    std::string type;  // as in the spec: "network"
    int fd = -1;       // borrowed until create() returns
};

// A descriptor the process gets under a fixed number (3 and up); everything else is closed.
struct ExtraFd {
    int fd = -1;      // borrowed
    int number = -1;  // in the container
};

// Who answers a profile's SCMP_ACT_NOTIFY: a unix socket that gets the descriptor of the notifications with a
// ContainerProcessState (config-linux.md "Seccomp", listenerPath).
struct SeccompListener {
    std::string path;      // absolute
    std::string metadata;  // passed on as it is
};

// Monotonic nanoseconds; 0: did not happen.
struct Timeline {
    std::int64_t begin = 0, cloned = 0, namespaces_joined = 0, cgroup_joined = 0, rootfs_mounted = 0, mounts_done = 0,
                 devices_done = 0, pivoted = 0, masks_done = 0, confined = 0, ready = 0, started = 0, executed = 0;
    struct Phase {
        std::string_view name;
        std::int64_t at_ns;
    };
    std::vector<Phase> phases() const;  // those that happened, in order of time
};

struct CreateRequest {
    std::string id;
    Spec spec;
    std::string bundle;                    // folder relative root paths start at; also told to hooks
    std::optional<OverlayRoot> overlay;    // instead of spec.root.path
    std::array<int, 3> stdio{-1, -1, -1};  // borrowed; -1: /dev/null. Not used with spec.process->terminal.
    std::vector<ExtraFd> extra_fds;
    std::vector<NamespaceFd> namespaces;
    confine::SeccompProgram seccomp;  // empty: no filter
    std::optional<SeccompListener> seccomp_listener;
    const confine::Cgroup* cgroup = nullptr;  // made and configured; the first process starts inside
    // The rest of the cgroup's making, for one that Cgroup::begin() has begun: runs here while the first process is
    // busy with its namespaces, and the process enters it when this has succeeded.
    std::function<Result<>()> complete_cgroup;
    // Where linux.intelRdt finds resctrl; nullopt: where /proc/self/mountinfo says it is mounted.
    std::optional<confine::ResctrlMount> resctrl;
    bool init = false;  // docker's --init: PID 1 forwards signals and reaps
    bool new_session_keyring = true;
    bool loopback_up = true;  // bring lo up in a network namespace made here
    bool no_pivot = false;    // MS_MOVE + chroot: root on initramfs only
    bool rootless = false;  // not the host's root: id maps by newuidmap and newgidmap, sources opened in the container
    // Folder for the socket another process starts the container by (wherry-runtime); empty: only this object can.
    std::string start_socket_path;
    std::uint16_t rows = 0, columns = 0;  // of a terminal
};

struct ExecRequest {
    ProcessSpec process;
    std::array<int, 3> stdio{-1, -1, -1};
    std::vector<ExtraFd> extra_fds;
    confine::SeccompProgram seccomp;  // empty: no filter
    std::optional<SeccompListener> seccomp_listener;
    const confine::Cgroup* cgroup = nullptr;
    std::uint16_t rows = 0, columns = 0;
};

struct ExecProcess {
    pid_t pid = -1;
    Fd pidfd;
    Fd terminal;  // the pty's master; empty without a terminal
    Timeline timeline;
};

struct ExitStatus {
    int code = 0;    // as a shell says it: the exit code, or 128 + signal
    int signal = 0;  // 0: exited
    bool core_dumped = false;
};
// Reaps the child behind pidfd; blocks unless it has ended. nullopt from try_wait_exit: still running.
Result<ExitStatus> wait_exit(int pidfd);
Result<std::optional<ExitStatus>> try_wait_exit(int pidfd);

class Container {
  public:
    // Makes the namespaces and the first process, which then waits for start(). On error nothing is left: no process,
    // no mount; the poststop hooks have run if others may have before. user() tells what spec.process->user.username
    // came to; HOME is set when the environment has none.
    static Result<Container> create(const CreateRequest& request);
    // A container of an earlier process (not necessarily its parent), from state(). not_found when its process is gone
    // or the pid belongs to another process by now.
    static Result<Container> restore(const json::object& state);

    Container(Container&&) noexcept;
    Container& operator=(Container&&) noexcept;
    ~Container();  // does not end the process

    // Lets the first process become its program; returns once execve has succeeded, and the poststart hooks have run.
    // On error the process has ended and, if it was this process's child, has been reaped.
    Result<> start();
    Result<ExecProcess> exec(ExecRequest request);
    Result<> signal(int signal_number) const;  // to the first process; not_found when it is gone

    const std::string& id() const;
    pid_t pid() const;   // in the caller's pid namespace
    int pidfd() const;   // owned by the container
    Fd take_terminal();  // the pty's master, once
    const ResolvedUser& user() const;
    const std::optional<confine::ResctrlGroup>& intel_rdt() const;  // of linux.intelRdt
    const Timeline& timeline() const;
    bool started() const;
    // Descriptor of the container's root folder as its first process sees it (for cp, user lookups).
    Result<Fd> open_root() const;
    // What restore() needs: id, pid, start time, bundle, hooks, resctrl group. Stable JSON.
    json::object state() const;

  private:
    struct Impl;
    explicit Container(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

// To be called by whoever deletes a container, when its processes are gone; `state` as Container::state() gave it.
// Before it, also by them: what oci/intel_rdt.hpp removes.
Result<> run_poststop_hooks(const json::object& state);

// Start time of a process in clock ticks after boot (/proc/<pid>/stat, field 22); tells a reused pid. not_found also
// for one that has ended and waits to be reaped.
Result<std::uint64_t> process_start_time(pid_t pid);

// To be called first in main() of a binary that links this library: makes the process non-dumpable, and re-executes
// it from a read-only, detached mount of itself (or a sealed memfd) unless it already runs from one, so that no
// container can ever write to the file behind /proc/<pid>/exe. argv is passed on unchanged.
Result<> protect_own_binary(char** argv);
// For a parent that starts such a binary often: a descriptor to execveat(fd, "", ..., AT_EMPTY_PATH); the started
// process then does not re-execute itself.
Result<Fd> open_protected_binary(const std::string& path);

}  // namespace wherry::oci
