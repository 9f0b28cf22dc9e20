// A container as the engine keeps it in memory, and how it is written to the store (kind "container", key the id).
// Internal to the engine; lives on the loop.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "engine/async.hpp"
#include "engine/container_spec.hpp"
#include "engine/containers.hpp"
#include "net/network.hpp"
#include "store/store.hpp"
#include "supervisor/client/client.hpp"

namespace wherry::engine {

// exited covers what was started once and ended; created what never ran. dead: its end could not be cleaned up.
enum class Phase : std::uint8_t { created, starting, running, paused, restarting, exited, removing, dead };
std::string_view to_string(Phase phase);  // Docker's State.Status
Result<Phase> parse_phase(std::string_view text);

// The wall around a sandbox.
enum class Wall : std::uint8_t { namespaces, virtual_machine };

// One process added to a running container.
struct Exec {
    std::string id;
    ExecSpec spec;
    bool started = false;
    bool running = false;
    std::optional<std::int64_t> exit_code;
    int pid = 0;
    int sessions = 0;  // clients on its streams
    WallTime ended_at{};
    Signal changed;
};

class RootHelper;

struct Container {
    // What does not change, or only on request (rename, update).
    std::string id;
    std::string name;
    WallTime created;
    ContainerSpec spec;
    std::string image_id;
    Strings diff_ids;  // of its image, lowest first
    std::string path;  // what is run
    Strings args;
    std::vector<MountPoint> mounts;
    Strings anonymous_volumes;
    std::string sandbox_id;  // its own id unless it joined another's sandbox

    // What happens to it.
    Phase phase = Phase::created;
    bool wanted = false;  // started and not stopped by a user: what restart policies go by
    bool manually_stopped = false;
    bool oom_killed = false;
    int pid = 0;
    std::int64_t exit_code = 0;
    int exit_signal = 0;
    std::string error;
    WallTime started_at{};
    WallTime finished_at{};
    int restart_count = 0;
    std::string denied_syscall;  // the last one that seccomp denied it, by name
    std::optional<net::Endpoint> endpoint;
    std::vector<net::PublishedPort> ports;

    // Not written.
    bool removed = false;             // from the beginning of its removal on
    bool gone = false;                // its removal is written: what waiters for the removal are told
    bool restarting_by_user = false;  // between the two halves of a restart: it does not remove itself
    bool exit_pending = false;        // its process has ended and the end is being dealt with
    std::shared_ptr<supervisor::ShimClient> shim;
    std::uint64_t starts = 0;  // how often it ran under this daemon
    std::uint64_t exits = 0;   // how often it ended
    std::chrono::milliseconds restart_delay{0};
    std::vector<Timing> timings;
    int attached = 0;  // clients that hold, or wait for, its streams
    std::map<std::string, std::shared_ptr<Exec>> execs;
    std::optional<HealthView> health;
    std::vector<std::weak_ptr<RootHelper>> copies;  // cp and export under way on its root
    int copying = 0;                                // how many children do that
    Mutex operations;                               // one start, stop, remove ... at a time
    Signal changed;                                 // phase, exits, removed

    bool is_running() const { return phase == Phase::running || phase == Phase::paused; }
    bool is_alive() const { return is_running() || phase == Phase::restarting || phase == Phase::starting; }
    const Config& config() const { return spec.config; }
    const HostConfig& host_config() const { return spec.host_config; }
};

using ContainerPtr = std::shared_ptr<Container>;

inline constexpr std::string_view container_kind = "container";

store::Record to_record(const Container& container);
Result<ContainerPtr> container_from_record(const store::Record& record);

// Directories and files of a container below the roots.
struct ContainerPaths {
    std::string directory;  // data_root/containers/<id>
    std::string hostname, hosts, resolv_conf, log, exit_record, shm;
    std::string sandbox;  // exec_root/sandboxes/<id>
    std::string started;  // in it: there once the container runs, for a daemon that finds neither shim nor record of it
};
ContainerPaths container_paths(const std::string& data_root, const std::string& exec_root, const Container& container);

}  // namespace wherry::engine
