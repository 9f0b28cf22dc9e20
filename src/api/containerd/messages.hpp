// The messages of containerd's shim interface by name and field number (containerd/runtime/v2/task/shim.proto,
// api/events/task.proto, api/types/{mount,task}.proto, runtime/v2/runc/options/oci.proto, api/services/ttrpc/events).
// Empty answers (google.protobuf.Empty) are empty strings.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/containerd/wire.hpp"
#include "base/clock.hpp"

// One line a message: the members in the order of the pairs.
#define WHERRY_WIRE_FIELDS(...)                   \
    void fields(this auto&& self, auto&& field) { \
        [[maybe_unused]] auto& f = field;         \
        [[maybe_unused]] auto& s = self;          \
        __VA_ARGS__;                              \
    }

namespace wherry::api::containerd {

inline constexpr std::string_view task_service_name = "containerd.task.v2.Task";
inline constexpr std::string_view events_service_name = "containerd.services.events.ttrpc.v1.Events";

// google.protobuf.Any; type_url without a host, as containerd's typeurl writes it.
struct Any {
    std::string type_url;
    std::string value;
    WHERRY_WIRE_FIELDS(f(1, s.type_url), f(2, s.value))
};

struct Timestamp {
    std::int64_t seconds = 0;
    std::int32_t nanos = 0;
    WHERRY_WIRE_FIELDS(f(1, s.seconds), f(2, s.nanos))
};
Timestamp timestamp_of(WallTime time);  // the zero time: 0001-01-01T00:00:00Z, as Go writes it

struct Mount {
    std::string type, source, target;
    std::vector<std::string> options;
    WHERRY_WIRE_FIELDS(f(1, s.type), f(2, s.source), f(3, s.target), f(4, s.options))
};

// ---- requests and answers of the Task API

struct CreateTaskRequest {
    std::string id, bundle;
    std::vector<Mount> rootfs;
    bool terminal = false;
    std::string stdin_path, stdout_path, stderr_path;
    std::string checkpoint, parent_checkpoint;
    std::optional<Any> options;
    WHERRY_WIRE_FIELDS(f(1, s.id), f(2, s.bundle), f(3, s.rootfs), f(4, s.terminal), f(5, s.stdin_path),
                       f(6, s.stdout_path), f(7, s.stderr_path), f(8, s.checkpoint), f(9, s.parent_checkpoint),
                       f(10, s.options))
};

struct PidResponse {  // of Create and Start
    std::uint32_t pid = 0;
    WHERRY_WIRE_FIELDS(f(1, s.pid))
};

// Start, Delete, State, Wait, and those that name no process inside the container.
struct ProcessRequest {
    std::string id, exec_id;
    WHERRY_WIRE_FIELDS(f(1, s.id), f(2, s.exec_id))
};

struct DeleteResponse {
    std::uint32_t pid = 0;
    std::uint32_t exit_status = 0;
    Timestamp exited_at;
    WHERRY_WIRE_FIELDS(f(1, s.pid), f(2, s.exit_status), f(3, s.exited_at))
};

struct ExecProcessRequest {
    std::string id, exec_id;
    bool terminal = false;
    std::string stdin_path, stdout_path, stderr_path;
    std::optional<Any> spec;
    WHERRY_WIRE_FIELDS(f(1, s.id), f(2, s.exec_id), f(3, s.terminal), f(4, s.stdin_path), f(5, s.stdout_path),
                       f(6, s.stderr_path), f(7, s.spec))
};

struct ResizePtyRequest {
    std::string id, exec_id;
    std::uint32_t width = 0, height = 0;
    WHERRY_WIRE_FIELDS(f(1, s.id), f(2, s.exec_id), f(3, s.width), f(4, s.height))
};

enum class TaskStatus : std::uint8_t { unknown = 0, created = 1, running = 2, stopped = 3, paused = 4, pausing = 5 };

struct StateResponse {
    std::string id, bundle;
    std::uint32_t pid = 0;
    TaskStatus status = TaskStatus::unknown;
    std::string stdin_path, stdout_path, stderr_path;
    bool terminal = false;
    std::uint32_t exit_status = 0;
    Timestamp exited_at;
    std::string exec_id;
    WHERRY_WIRE_FIELDS(f(1, s.id), f(2, s.bundle), f(3, s.pid), f(4, s.status), f(5, s.stdin_path), f(6, s.stdout_path),
                       f(7, s.stderr_path), f(8, s.terminal), f(9, s.exit_status), f(10, s.exited_at), f(11, s.exec_id))
};

struct KillRequest {
    std::string id, exec_id;
    std::uint32_t signal = 0;
    bool all = false;
    WHERRY_WIRE_FIELDS(f(1, s.id), f(2, s.exec_id), f(3, s.signal), f(4, s.all))
};

struct CloseIoRequest {
    std::string id, exec_id;
    bool close_stdin = false;
    WHERRY_WIRE_FIELDS(f(1, s.id), f(2, s.exec_id), f(3, s.close_stdin))
};

struct ProcessInfo {
    std::uint32_t pid = 0;
    std::optional<Any> info;  // ProcessDetails for an exec
    WHERRY_WIRE_FIELDS(f(1, s.pid), f(2, s.info))
};
struct PidsResponse {
    std::vector<ProcessInfo> processes;
    WHERRY_WIRE_FIELDS(f(1, s.processes))
};
inline constexpr std::string_view process_details_type = "containerd.runc.v1.ProcessDetails";
struct ProcessDetails {
    std::string exec_id;
    WHERRY_WIRE_FIELDS(f(1, s.exec_id))
};

struct CheckpointTaskRequest {
    std::string id, path;
    std::optional<Any> options;
    WHERRY_WIRE_FIELDS(f(1, s.id), f(2, s.path), f(3, s.options))
};

// containerd.runc.v1.CheckpointOptions.
inline constexpr std::string_view checkpoint_options_type = "containerd.runc.v1.CheckpointOptions";
struct CheckpointOptions {
    bool exit = false;  // the container ends with it
    bool open_tcp = false;
    bool external_unix_sockets = false;
    bool terminal = false;
    bool file_locks = false;
    std::vector<std::string> empty_namespaces;
    std::string cgroups_mode;
    std::string image_path, work_path;
    WHERRY_WIRE_FIELDS(f(1, s.exit), f(2, s.open_tcp), f(3, s.external_unix_sockets), f(4, s.terminal),
                       f(5, s.file_locks), f(6, s.empty_namespaces), f(7, s.cgroups_mode), f(8, s.image_path),
                       f(9, s.work_path))
};

struct UpdateTaskRequest {
    std::string id;
    std::optional<Any> resources;
    std::map<std::string, std::string> annotations;
    WHERRY_WIRE_FIELDS(f(1, s.id), f(2, s.resources), f(3, s.annotations))
};

struct WaitResponse {
    std::uint32_t exit_status = 0;
    Timestamp exited_at;
    WHERRY_WIRE_FIELDS(f(1, s.exit_status), f(2, s.exited_at))
};

struct StatsResponse {
    std::optional<Any> stats;
    WHERRY_WIRE_FIELDS(f(1, s.stats))
};

struct ConnectResponse {
    std::uint32_t shim_pid = 0, task_pid = 0;
    std::string version;
    WHERRY_WIRE_FIELDS(f(1, s.shim_pid), f(2, s.task_pid), f(3, s.version))
};

struct ShutdownRequest {
    std::string id;
    bool now = false;
    WHERRY_WIRE_FIELDS(f(1, s.id), f(2, s.now))
};

// containerd.runc.v1.Options: what dockerd, CRI and ctr may send as runtime options. What makes no sense without a
// runtime binary (binary_name, root) is not read.
inline constexpr std::string_view runc_options_type = "containerd.runc.v1.Options";
struct RuntimeOptions {
    bool no_pivot_root = false;
    bool no_new_keyring = false;
    std::string shim_cgroup;
    bool systemd_cgroup = false;
    std::string criu_work_path;  // of a restore
    WHERRY_WIRE_FIELDS(f(1, s.no_pivot_root), f(2, s.no_new_keyring), f(3, s.shim_cgroup), f(9, s.systemd_cgroup),
                       f(11, s.criu_work_path))
};

// ---- events

struct TaskIo {
    std::string stdin_path, stdout_path, stderr_path;
    bool terminal = false;
    WHERRY_WIRE_FIELDS(f(1, s.stdin_path), f(2, s.stdout_path), f(3, s.stderr_path), f(4, s.terminal))
};
struct TaskCreate {
    static constexpr std::string_view topic = "/tasks/create", type = "containerd.events.TaskCreate";
    std::string container_id, bundle;
    std::vector<Mount> rootfs;
    TaskIo io;
    std::string checkpoint;
    std::uint32_t pid = 0;
    WHERRY_WIRE_FIELDS(f(1, s.container_id), f(2, s.bundle), f(3, s.rootfs), f(4, s.io), f(5, s.checkpoint),
                       f(6, s.pid))
};
struct TaskStart {
    static constexpr std::string_view topic = "/tasks/start", type = "containerd.events.TaskStart";
    std::string container_id;
    std::uint32_t pid = 0;
    WHERRY_WIRE_FIELDS(f(1, s.container_id), f(2, s.pid))
};
struct TaskDelete {
    static constexpr std::string_view topic = "/tasks/delete", type = "containerd.events.TaskDelete";
    std::string container_id;
    std::uint32_t pid = 0, exit_status = 0;
    Timestamp exited_at;
    std::string id;
    WHERRY_WIRE_FIELDS(f(1, s.container_id), f(2, s.pid), f(3, s.exit_status), f(4, s.exited_at), f(5, s.id))
};
struct TaskExit {
    static constexpr std::string_view topic = "/tasks/exit", type = "containerd.events.TaskExit";
    std::string container_id, id;  // id: the container's, or the exec's
    std::uint32_t pid = 0, exit_status = 0;
    Timestamp exited_at;
    WHERRY_WIRE_FIELDS(f(1, s.container_id), f(2, s.id), f(3, s.pid), f(4, s.exit_status), f(5, s.exited_at))
};
struct TaskOom {
    static constexpr std::string_view topic = "/tasks/oom", type = "containerd.events.TaskOOM";
    std::string container_id;
    WHERRY_WIRE_FIELDS(f(1, s.container_id))
};
struct TaskExecAdded {
    static constexpr std::string_view topic = "/tasks/exec-added", type = "containerd.events.TaskExecAdded";
    std::string container_id, exec_id;
    WHERRY_WIRE_FIELDS(f(1, s.container_id), f(2, s.exec_id))
};
struct TaskExecStarted {
    static constexpr std::string_view topic = "/tasks/exec-started", type = "containerd.events.TaskExecStarted";
    std::string container_id, exec_id;
    std::uint32_t pid = 0;
    WHERRY_WIRE_FIELDS(f(1, s.container_id), f(2, s.exec_id), f(3, s.pid))
};
struct TaskPaused {
    static constexpr std::string_view topic = "/tasks/paused", type = "containerd.events.TaskPaused";
    std::string container_id;
    WHERRY_WIRE_FIELDS(f(1, s.container_id))
};
struct TaskResumed {
    static constexpr std::string_view topic = "/tasks/resumed", type = "containerd.events.TaskResumed";
    std::string container_id;
    WHERRY_WIRE_FIELDS(f(1, s.container_id))
};

struct TaskCheckpointed {
    static constexpr std::string_view topic = "/tasks/checkpointed", type = "containerd.events.TaskCheckpointed";
    std::string container_id, checkpoint;
    WHERRY_WIRE_FIELDS(f(1, s.container_id), f(2, s.checkpoint))
};

struct Envelope {
    Timestamp timestamp;
    std::string name_space, topic;
    std::optional<Any> event;
    WHERRY_WIRE_FIELDS(f(1, s.timestamp), f(2, s.name_space), f(3, s.topic), f(4, s.event))
};
struct ForwardRequest {
    std::optional<Envelope> envelope;
    WHERRY_WIRE_FIELDS(f(1, s.envelope))
};

}  // namespace wherry::api::containerd
