// Containers as a user sees them. A reference is a full id, an exact name (with or without the leading "/") or an
// unambiguous prefix of an id, in that order, as with Docker; errors carry Docker's texts and codes:
// not_found 404, conflict and already_exists 409, invalid_argument 400.
// Threading: call on the engine's executor; nothing blocks it.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.hpp"
#include "base/fd.hpp"
#include "base/result.hpp"
#include "engine/container_spec.hpp"
#include "engine/copy.hpp"
#include "engine/events.hpp"
#include "engine/mount_point.hpp"
#include "engine/stdio.hpp"

namespace wherry::engine {

struct CreateRequest {
    std::string name;  // empty: one is made up
    ContainerSpec spec;
    std::string platform;  // "", "linux/amd64"
};

struct CreateResult {
    std::string id;
    Strings warnings;
};

// unchanged: HTTP 304 (already started, already stopped).
enum class Outcome : std::uint8_t { changed, unchanged };

struct StopOptions {
    std::string signal;                           // empty: the container's
    std::optional<std::int64_t> timeout_seconds;  // nullopt: the container's; -1: wait for ever
};

struct RemoveOptions {
    bool force = false;
    bool volumes = false;  // anonymous ones too
    bool discard = false;  // for good: nothing is kept for restore()
};

// A container that was removed and can still be had back.
struct RemovedContainer {
    std::string id;
    std::string name;
    std::string image;  // as the user named it
    WallTime created;
    WallTime removed_at;
    WallTime expires_at;
    std::optional<std::int64_t> size_rw_bytes;  // when asked for
};

enum class WaitCondition : std::uint8_t { not_running, next_exit, removed };
Result<WaitCondition> parse_wait_condition(std::string_view text);  // "" is not-running

struct WaitResult {
    std::int64_t status_code = 0;
    std::string error;  // empty: none
};

// The registration exists once wait() returned: send the response's headers, then await the result.
class WaitHandle {
  public:
    virtual ~WaitHandle() = default;
    virtual asio::awaitable<Result<WaitResult>> result() = 0;
    virtual void cancel() = 0;  // ends a pending result() with cancelled
};

struct AttachOptions {
    bool standard_input = false;
    bool standard_output = false;
    bool standard_error = false;
    bool logs = false;        // what was written so far comes first
    bool stream = false;      // and then what is written
    std::string detach_keys;  // empty: "ctrl-p,ctrl-q" on a terminal
};

struct LogsOptions {
    bool standard_output = false;
    bool standard_error = false;
    bool follow = false;
    std::optional<WallTime> since;
    std::optional<WallTime> until;
    std::optional<std::uint64_t> tail;  // nullopt: all
};

struct LogEntry {
    WallTime time;
    StreamId stream = StreamId::standard_output;
    std::string data;  // with its newline, if it had one
    StringMap attributes;
};

class LogStream {
  public:
    virtual ~LogStream() = default;
    virtual bool terminal() const = 0;
    virtual asio::awaitable<Result<std::optional<LogEntry>>> next() = 0;  // nullopt: the end
    virtual void cancel() = 0;
};

struct ContainerState {
    std::string status;  // created, running, paused, restarting, removing, exited, dead
    bool running = false;
    bool paused = false;
    bool restarting = false;
    bool oom_killed = false;
    bool dead = false;
    int pid = 0;
    std::int64_t exit_code = 0;
    std::string error;
    WallTime started_at{};  // the epoch: never (Docker shows 0001-01-01T00:00:00Z)
    WallTime finished_at{};
};

struct PublishedPort {
    std::uint16_t container_port = 0;
    std::string protocol;  // tcp, udp, sctp
    std::string host_ip;   // empty: exposed, not published
    std::uint16_t host_port = 0;
};

struct EndpointView {
    std::string network_id;
    std::string endpoint_id;
    std::string gateway;
    std::string ip_address;
    int ip_prefix_length = 0;
    std::string ipv6_gateway;
    std::string global_ipv6_address;
    int global_ipv6_prefix_length = 0;
    std::string mac_address;
    Strings aliases;
    EndpointSettings settings;
};

struct HealthLogEntry {
    WallTime start;
    WallTime end;
    int exit_code = 0;
    std::string output;
};

struct HealthView {
    std::string status;  // starting, healthy, unhealthy
    int failing_streak = 0;
    std::vector<HealthLogEntry> log;
};

struct ContainerView {
    std::string id;
    std::string name;  // without the leading "/"
    WallTime created;
    std::string path;
    Strings args;
    ContainerState state;
    std::optional<HealthView> health;
    std::string image_id;  // "sha256:..."
    std::string resolv_conf_path;
    std::string hostname_path;
    std::string hosts_path;
    std::string log_path;
    int restart_count = 0;
    std::string platform;  // "linux"
    Strings exec_ids;
    Config config;
    HostConfig host_config;
    std::vector<MountPoint> mounts;
    std::string sandbox_id;
    std::string sandbox;                           // name of the one it shares with others; empty: none
    std::map<std::string, EndpointView> networks;  // by name
    std::vector<PublishedPort> ports;
    std::optional<std::int64_t> size_rw_bytes;  // when asked for
    std::optional<std::int64_t> size_root_fs_bytes;
    Strings lower_directories;  // of the overlay, topmost first
    std::string upper_directory;
    std::string work_directory;
};

struct ListOptions {
    bool all = false;
    std::int64_t limit = 0;  // 0: no limit; the newest, whatever their state
    bool size = false;
    Filters filters;
};

struct ContainerSummary {
    std::string id;
    std::string name;
    std::string image;  // as the user named it (its id when that name moved on)
    std::string image_id;
    std::string command;  // path and arguments, joined
    WallTime created;
    std::string state;   // "running"
    std::string status;  // "Up 3 seconds", "Exited (0) 2 minutes ago"
    std::vector<PublishedPort> ports;
    StringMap labels;
    std::string network_mode;
    std::string sandbox;  // name of the one it shares with others; empty: none
    std::map<std::string, EndpointView> networks;
    std::vector<MountPoint> mounts;
    std::optional<std::int64_t> size_rw_bytes;
    std::optional<std::int64_t> size_root_fs_bytes;
};

struct TopResult {
    Strings titles;
    std::vector<Strings> processes;
};

struct PruneResult {
    Strings deleted;
    std::int64_t space_reclaimed_bytes = 0;
};

struct ExecSpec {
    bool attach_stdin = false;
    bool attach_stdout = false;
    bool attach_stderr = false;
    bool tty = false;
    bool privileged = false;
    std::string user;
    std::string working_dir;
    std::string detach_keys;
    Strings env;
    Strings cmd;
    unsigned console_height = 0;
    unsigned console_width = 0;
};

struct ExecStartOptions {
    bool detach = false;
    std::optional<bool> tty;  // as the start request repeats it
    unsigned console_height = 0;
    unsigned console_width = 0;
};

struct ExecView {
    std::string id;
    std::string container_id;
    bool running = false;
    std::optional<std::int64_t> exit_code;
    int pid = 0;
    ExecSpec spec;
};

// A phase of the last start, for the waterfall of `run --timings`.
struct Timing {
    std::string phase;          // "store.intent", "net.attach", "shim.spawn", "oci.mounts", ...
    std::int64_t start_ns = 0;  // since the start request arrived
    std::int64_t duration_ns = 0;
};

struct InterfaceStats {
    std::uint64_t received_bytes = 0, received_packets = 0, received_errors = 0, received_dropped = 0;
    std::uint64_t sent_bytes = 0, sent_packets = 0, sent_errors = 0, sent_dropped = 0;
};

struct BlockIoStats {
    std::uint64_t major = 0;
    std::uint64_t minor = 0;
    std::string operation;  // "read", "write"
    std::uint64_t value = 0;
};

// One reading of a container's cgroups and network; counters grow, nanoseconds and bytes.
struct StatsView {
    WallTime read;
    std::string id;
    std::string name;
    std::uint64_t pids = 0;
    std::uint64_t pids_limit = 0;
    std::uint64_t cpu_total_ns = 0;
    std::uint64_t cpu_user_ns = 0;
    std::uint64_t cpu_system_ns = 0;
    std::uint64_t host_cpu_ns = 0;
    unsigned online_cpus = 0;
    std::uint64_t throttled_periods = 0;
    std::uint64_t periods = 0;
    std::uint64_t throttled_ns = 0;
    std::uint64_t memory_bytes = 0;
    std::uint64_t memory_max_bytes = 0;
    std::uint64_t memory_limit_bytes = 0;
    std::uint64_t memory_failures = 0;
    std::map<std::string, std::uint64_t> memory_details;
    std::vector<BlockIoStats> block_bytes;
    std::vector<BlockIoStats> block_operations;
    std::map<std::string, InterfaceStats> interfaces;  // without the loopback; empty with the host's network
};

class Containers {
  public:
    virtual ~Containers() = default;

    virtual asio::awaitable<Result<CreateResult>> create(CreateRequest request) = 0;
    virtual asio::awaitable<Result<Outcome>> start(std::string reference) = 0;
    virtual asio::awaitable<Result<Outcome>> stop(std::string reference, StopOptions options) = 0;
    virtual asio::awaitable<Result<>> kill(std::string reference, std::string signal) = 0;  // "": SIGKILL
    virtual asio::awaitable<Result<>> restart(std::string reference, StopOptions options) = 0;
    virtual asio::awaitable<Result<>> remove(std::string reference, RemoveOptions options) = 0;
    // Those that restore() still brings back, the last removed first.
    virtual asio::awaitable<Result<std::vector<RemovedContainer>>> list_removed(bool with_size) = 0;
    // By id, its prefix, or the name (the last removed of that name). The answer is its id. `name`: a new one; empty:
    // its own. already_exists when a container has that name.
    virtual asio::awaitable<Result<std::string>> restore(std::string reference, std::string name) = 0;
    virtual asio::awaitable<Result<>> pause(std::string reference) = 0;
    virtual asio::awaitable<Result<>> unpause(std::string reference) = 0;
    virtual asio::awaitable<Result<>> rename(std::string reference, std::string name) = 0;
    virtual asio::awaitable<Result<Strings>> update(std::string reference, UpdateRequest request) = 0;  // warnings
    virtual asio::awaitable<Result<>> resize(std::string reference, unsigned height, unsigned width) = 0;
    virtual asio::awaitable<Result<std::unique_ptr<WaitHandle>>> wait(std::string reference,
                                                                      WaitCondition condition) = 0;
    virtual asio::awaitable<Result<std::unique_ptr<StdioSession>>> attach(std::string reference,
                                                                          AttachOptions options) = 0;
    virtual asio::awaitable<Result<std::unique_ptr<LogStream>>> logs(std::string reference, LogsOptions options) = 0;
    virtual asio::awaitable<Result<TopResult>> top(std::string reference, std::string ps_arguments) = 0;
    virtual asio::awaitable<Result<StatsView>> stats(std::string reference) = 0;
    virtual asio::awaitable<Result<ContainerView>> inspect(std::string reference, bool with_size) = 0;
    virtual asio::awaitable<Result<std::vector<ContainerSummary>>> list(ListOptions options) = 0;
    // Another number whenever what list() shows may have changed (but for times told relative to now): an answer made
    // from a list is good as long as it stays the same.
    virtual std::uint64_t revision() const = 0;
    virtual asio::awaitable<Result<PruneResult>> prune(Filters filters) = 0;

    virtual asio::awaitable<Result<std::string>> exec_create(std::string reference, ExecSpec spec) = 0;
    // nullptr when detached.
    virtual asio::awaitable<Result<std::unique_ptr<StdioSession>>> exec_start(std::string id,
                                                                              ExecStartOptions options) = 0;
    virtual asio::awaitable<Result<ExecView>> exec_inspect(std::string id) = 0;
    virtual asio::awaitable<Result<>> exec_resize(std::string id, unsigned height, unsigned width) = 0;

    // ---- files (copy.hpp). Archives come and go by a descriptor, which is closed at the end. not_found: "Could not
    // find the file ..."; permission_denied: read-only; invalid_argument: what can't be done there.
    virtual asio::awaitable<Result<PathStat>> stat_path(std::string reference, std::string path) = 0;
    virtual asio::awaitable<Result<std::unique_ptr<ArchiveTransfer>>> read_archive(std::string reference,
                                                                                   std::string path, Fd out) = 0;
    virtual asio::awaitable<Result<>> write_archive(std::string reference, std::string path, ExtractOptions options,
                                                    Fd archive) = 0;
    virtual asio::awaitable<Result<std::unique_ptr<ArchiveTransfer>>> export_root(std::string reference, Fd out) = 0;
    virtual asio::awaitable<Result<std::vector<FileChange>>> changes(std::string reference) = 0;

    // One sentence: why it ended or did not start.
    virtual asio::awaitable<Result<std::string>> why(std::string reference) = 0;
    virtual asio::awaitable<Result<std::vector<Timing>>> timings(std::string reference) = 0;
};

}  // namespace wherry::engine
