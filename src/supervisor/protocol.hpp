// The control protocol between wherryd (or any other client) and a supervisor: wherry-shim beside containers, later
// wherry-init inside a guest. docs/supervisor.md describes it for implementers of other clients.
//
// Transport: any stream socket. A message is a frame (supervisor/frame.hpp): u32 length, big endian, then one JSON
// object:
//     request   {"id":7,"method":"kill","params":{...},"fds":1}
//     answer    {"id":7,"result":{...}}  or  {"id":7,"error":{"code":"not_found","message":"...","errno":2}}
//     event     {"event":"exit","params":{...}}
// "fds" counts descriptors that came with the frame (SCM_RIGHTS); transports that can't carry them never use it.
//
// Rules of versions: unknown members are ignored, missing members have the default written here, an unknown method is
// answered with `unimplemented`. A newer client asks `HelloReply::features` before it relies on something new.
//
// Every struct has `json::object to_json_object(const T&)` and `Result<T> T::parse(const JsonReader&)`.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "base/result.hpp"

namespace wherry::supervisor {

inline constexpr std::int64_t protocol_version = 1;
inline constexpr std::size_t max_frame_bytes = 4U << 20U;
inline constexpr std::string_view shim_socket_name = "shim.sock";  // in the sandbox's directory

namespace method {
inline constexpr std::string_view hello = "hello";              // Hello -> HelloReply; the first call
inline constexpr std::string_view create = "create";            // CreateRequest (+ fd: netns) -> ContainerState
inline constexpr std::string_view start = "start";              // ProcessReference -> ContainerState
inline constexpr std::string_view run = "run";                  // create and start in one
inline constexpr std::string_view exec = "exec";                // ExecRequest -> ExecState
inline constexpr std::string_view kill = "kill";                // KillRequest -> {}
inline constexpr std::string_view resize = "resize";            // ResizeRequest -> {}
inline constexpr std::string_view wait = "wait";                // ProcessReference -> ExitStatus, when it has ended
inline constexpr std::string_view pause = "pause";              // ProcessReference -> {}
inline constexpr std::string_view resume = "resume";            // ProcessReference -> {}
inline constexpr std::string_view stats = "stats";              // ProcessReference -> Stats
inline constexpr std::string_view state = "state";              // ProcessReference -> ContainerState
inline constexpr std::string_view list = "list";                // {} -> SandboxState
inline constexpr std::string_view remove = "delete";            // DeleteRequest -> {}
inline constexpr std::string_view remove_exec = "delete_exec";  // ProcessReference -> {}: forget an ended exec
inline constexpr std::string_view update = "update";            // UpdateRequest -> {}
inline constexpr std::string_view close_stdin = "close_stdin";  // ProcessReference -> {}
inline constexpr std::string_view discard_output = "discard_output";  // ProcessReference -> {}: nobody will read it
inline constexpr std::string_view wait_log = "wait_log";              // LogWaitRequest -> LogProgress
inline constexpr std::string_view sandbox = "sandbox";                // SandboxRequest (+ fd: netns) -> SandboxState
inline constexpr std::string_view subscribe = "subscribe";            // {} -> SandboxState; events follow from then on
inline constexpr std::string_view stream = "stream";                  // StreamRequest [+ fd] -> StreamReply
inline constexpr std::string_view shutdown = "shutdown";              // {} -> {}: kill everything, end the shim
}  // namespace method

namespace event_name {
inline constexpr std::string_view exit = "exit";  // ExitEvent
inline constexpr std::string_view oom = "oom";    // OomEvent
}  // namespace event_name

// Names a container, or an exec inside it when exec_id is not empty.
struct ProcessReference {
    std::string container_id;
    std::string exec_id;
    static Result<ProcessReference> parse(const JsonReader& reader);
};

struct Hello {
    std::int64_t version = protocol_version;
    std::vector<std::string> features;
    std::string client;      // for the shim's log: "wherryd/0.1.0"
    std::string sandbox_id;  // with `directory`: given by the one who spawned the shim, once
    std::string directory;   // the shim listens on <directory>/shim.sock from then on
    static Result<Hello> parse(const JsonReader& reader);
};

struct HelloReply {
    std::int64_t version = protocol_version;
    std::string software;               // "wherry-shim/0.1.0"
    std::vector<std::string> features;  // e.g. "run", "stream-fd", "oom-events"
    std::string sandbox_id;
    pid_t pid = 0;
    WallTime started_at{};
    static Result<HelloReply> parse(const JsonReader& reader);
};

// Where the root filesystem comes from. With no lower directories spec.root.path is used as it is.
struct RootFilesystem {
    std::vector<std::string> lower_directories;  // topmost first
    std::string upper_directory;
    std::string work_directory;
    bool volatile_writes = false;      // overlay's "volatile": no sync at unmount
    std::vector<std::string> options;  // further ones of overlayfs: "index=off", "userxattr"
    static Result<RootFilesystem> parse(const JsonReader& reader);
};

enum class LogDriver : unsigned char { none, json_file, local };
std::string_view to_string(LogDriver driver);  // "none", "json-file", "local"
Result<LogDriver> parse_log_driver(std::string_view name);

struct LogOptions {
    LogDriver driver = LogDriver::none;
    std::string path;                  // rotated files are path.1, path.2, ... (.gz when compressed), newest first
    std::uint64_t max_size_bytes = 0;  // 0: never rotated
    std::uint32_t max_files = 1;       // with 1 and a max_size the file is truncated, as Docker does
    bool compress = false;
    std::map<std::string, std::string> attributes;  // written as "attrs" of each line (labels, env, tag)
    static Result<LogOptions> parse(const JsonReader& reader);
};

struct CreateRequest {
    std::string container_id;
    json::object spec;   // OCI runtime-spec config.json; spec.process.terminal and .consoleSize are honoured
    std::string bundle;  // absolute; what relative paths of the spec and the state given to hooks refer to
    RootFilesystem root;
    std::string seccomp_path;      // compiled filter as confine::serialize() wrote it; empty: none
    std::string exit_record_path;  // ExitRecord is written here, durably, before the exit is announced; empty: nowhere
    LogOptions log;
    bool stdin_open = false;  // otherwise stdin is /dev/null
    bool stdin_once = false;  // the first client that leaves closes stdin
    bool init = false;        // docker run --init: a PID 1 in front of the process that forwards signals and reaps
    bool no_pivot = false;    // chroot instead of pivot_root: for a host whose root is an initramfs
    bool keep_session_keyring = false;  // the container shares the supervisor's session keyring
    // The request may carry one descriptor: the network namespace. The shim keeps it as long as the sandbox lives and
    // uses it for later containers that bring none.
    static Result<CreateRequest> parse(const JsonReader& reader);
};

// Before the first container of a sandbox that several share: the shim makes these namespaces and keeps them, and
// containers whose spec names one of them without a path are put into it. From then on the shim also stays while it has
// no container, as long as a client is connected. Once; conflict afterwards or when there is a container already.
struct SandboxRequest {
    std::vector<std::string> namespaces;  // of "ipc", "uts", "pid"; the network's comes as the descriptor
    std::string hostname;                 // of a shared uts namespace; empty: the host's stays
    std::string domainname;
    static Result<SandboxRequest> parse(const JsonReader& reader);
};

struct ExecRequest {
    std::string container_id;
    std::string exec_id;
    json::object process;  // OCI runtime-spec process object
    bool stdin_open = false;
    bool discard_output = false;  // exec -d: nobody will read
    bool privileged = false;      // without the container's seccomp filter
    static Result<ExecRequest> parse(const JsonReader& reader);
};

struct KillRequest {
    std::string container_id;
    std::string exec_id;
    std::int64_t signal = 15;
    bool all = false;  // every process of the container, not only its first
    static Result<KillRequest> parse(const JsonReader& reader);
};

struct ResizeRequest {
    std::string container_id;
    std::string exec_id;
    std::uint16_t width = 0;  // columns
    std::uint16_t height = 0;
    static Result<ResizeRequest> parse(const JsonReader& reader);
};

struct DeleteRequest {
    std::string container_id;
    bool force = false;  // kill first; otherwise a running container is a conflict
    static Result<DeleteRequest> parse(const JsonReader& reader);
};

struct UpdateRequest {
    std::string container_id;
    json::object resources;  // OCI runtime-spec linux.resources; what is missing stays
    static Result<UpdateRequest> parse(const JsonReader& reader);
};

struct ExitStatus {
    std::int32_t code = 0;    // what a shell would say: exit code, or 128 + signal
    std::int32_t signal = 0;  // 0: it exited by itself
    bool oom_killed = false;
    WallTime finished_at{};
    static Result<ExitStatus> parse(const JsonReader& reader);
};

// The file at CreateRequest::exit_record_path.
struct ExitRecord {
    std::string container_id;
    pid_t pid = 0;
    WallTime started_at{};
    ExitStatus status;
    static Result<ExitRecord> parse(const JsonReader& reader);
};
// Reads one; not_found when the container has not ended (or its shim died before it could write).
Result<ExitRecord> read_exit_record(const std::string& path);

enum class Status : unsigned char { created, running, paused, stopped };
std::string_view to_string(Status status);

// Phases of a start, in nanoseconds since the request arrived at the shim, in order.
struct Timing {
    std::string phase;
    std::int64_t at_ns = 0;
    static Result<Timing> parse(const JsonReader& reader);
};

struct ExecState {
    std::string exec_id;
    pid_t pid = 0;
    std::uint64_t start_ticks = 0;  // field 22 of /proc/<pid>/stat: tells a reused pid
    bool running = false;
    bool terminal = false;
    WallTime started_at{};
    std::optional<ExitStatus> exit;
    std::uint64_t stdout_bytes = 0;  // read from the process so far
    std::uint64_t stderr_bytes = 0;
    static Result<ExecState> parse(const JsonReader& reader);
};

struct ContainerState {
    std::string container_id;
    Status status = Status::created;
    pid_t pid = 0;  // as the shim sees it
    std::uint64_t start_ticks = 0;
    bool terminal = false;
    bool stdin_open = false;
    WallTime created_at{};
    WallTime started_at{};  // zero: not yet
    std::optional<ExitStatus> exit;
    std::uint64_t stdout_bytes = 0;
    std::uint64_t stderr_bytes = 0;
    std::uint64_t oom_kills = 0;
    std::vector<ExecState> execs;
    std::vector<Timing> timings;
    static Result<ContainerState> parse(const JsonReader& reader);
};

struct SandboxState {
    std::string sandbox_id;
    pid_t pid = 0;               // the shim's
    std::int64_t netns_fd = -1;  // number in the shim: /proc/<pid>/fd/<netns_fd>; -1: none
    std::vector<ContainerState> containers;
    static Result<SandboxState> parse(const JsonReader& reader);
};

struct BlockIo {
    std::uint64_t major = 0;
    std::uint64_t minor = 0;
    std::string operation;  // "read", "write", ...
    std::uint64_t value = 0;
};

struct Stats {
    WallTime read_at{};
    std::uint64_t cpu_total_ns = 0;
    std::uint64_t cpu_user_ns = 0;
    std::uint64_t cpu_system_ns = 0;
    std::uint64_t cpu_periods = 0;
    std::uint64_t cpu_throttled_periods = 0;
    std::uint64_t cpu_throttled_ns = 0;
    std::uint64_t memory_usage_bytes = 0;
    std::uint64_t memory_max_usage_bytes = 0;
    std::uint64_t memory_limit_bytes = 0;  // the host's memory when there is no limit
    std::uint64_t memory_failures = 0;
    std::map<std::string, std::uint64_t> memory_stat;  // the kernel's names
    std::uint64_t pids_current = 0;
    std::uint64_t pids_limit = 0;  // 0: none
    std::uint64_t oom_kills = 0;
    std::vector<BlockIo> io_service_bytes;
    std::vector<BlockIo> io_serviced;
    static Result<Stats> parse(const JsonReader& reader);
};

struct LogWaitRequest {
    std::string container_id;
    std::uint64_t after = 0;  // answered once the log has had more entries than this, or has ended
    static Result<LogWaitRequest> parse(const JsonReader& reader);
};

struct LogProgress {
    std::uint64_t entries = 0;  // written since the container started
    bool ended = false;         // nothing will follow
    static Result<LogProgress> parse(const JsonReader& reader);
};

// Turns this connection, or the socket that came as a descriptor, into a stdio stream. After the answer both
// directions carry stream frames (below). Opening before the start is fine.
struct StreamRequest {
    std::string container_id;
    std::string exec_id;
    bool want_stdin = false;
    bool want_stdout = false;  // a terminal's output counts as stdout
    bool want_stderr = false;
    // First byte wanted, counted from the start of the process; missing: only what comes from now on.
    std::optional<std::uint64_t> stdout_offset;
    std::optional<std::uint64_t> stderr_offset;
    static Result<StreamRequest> parse(const JsonReader& reader);
};

struct StreamReply {
    std::uint64_t stdout_offset = 0;  // of the first byte that will come
    std::uint64_t stderr_offset = 0;
    bool terminal = false;
    static Result<StreamReply> parse(const JsonReader& reader);
};

// Stream frames: 8 bytes {kind, 0, 0, 0, u32 length big endian} and the payload. Output frames are, byte for byte,
// those of Docker's multiplexed attach stream.
enum class StreamFrame : unsigned char {
    stdin_data = 0,   // client to shim
    stdout_data = 1,  // shim to client
    stderr_data = 2,  // shim to client
    stdin_end = 16,   // client to shim: end of input, closes the process's stdin (a terminal stays)
    output_end = 17,  // shim to client: every wanted output has ended; the last frame
    gap = 18,  // shim to client: {u8 stream, u64 count big endian}: bytes that no longer exist (log rotated away)
};
inline constexpr std::size_t stream_header_bytes = 8;
inline constexpr std::size_t max_stream_payload_bytes = 64U << 10U;

struct ExitEvent {
    std::string container_id;
    std::string exec_id;
    ExitStatus status;
    static Result<ExitEvent> parse(const JsonReader& reader);
};

struct OomEvent {
    std::string container_id;
    std::uint64_t oom_kills = 0;
    static Result<OomEvent> parse(const JsonReader& reader);
};

json::object to_json_object(const ProcessReference& value);
json::object to_json_object(const Hello& value);
json::object to_json_object(const HelloReply& value);
json::object to_json_object(const RootFilesystem& value);
json::object to_json_object(const LogOptions& value);
json::object to_json_object(const CreateRequest& value);
json::object to_json_object(const SandboxRequest& value);
json::object to_json_object(const ExecRequest& value);
json::object to_json_object(const KillRequest& value);
json::object to_json_object(const ResizeRequest& value);
json::object to_json_object(const DeleteRequest& value);
json::object to_json_object(const UpdateRequest& value);
json::object to_json_object(const ExitStatus& value);
json::object to_json_object(const ExitRecord& value);
json::object to_json_object(const Timing& value);
json::object to_json_object(const ExecState& value);
json::object to_json_object(const ContainerState& value);
json::object to_json_object(const SandboxState& value);
json::object to_json_object(const Stats& value);
json::object to_json_object(const LogWaitRequest& value);
json::object to_json_object(const LogProgress& value);
json::object to_json_object(const StreamRequest& value);
json::object to_json_object(const StreamReply& value);
json::object to_json_object(const ExitEvent& value);
json::object to_json_object(const OomEvent& value);

// {"code":"not_found","message":"...","errno":2} and back.
json::object error_to_json(const Error& error);
Error error_from_json(const JsonReader& reader);

}  // namespace wherry::supervisor
