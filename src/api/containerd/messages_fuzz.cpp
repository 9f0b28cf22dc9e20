// Every message of the Task API, its events and options from hostile bytes. What is accepted must come back the same
// after it was written: written twice, the bytes are equal.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/containerd/messages.hpp"
#include "api/containerd/rootfs.hpp"
#include "api/containerd/sandbox_messages.hpp"
#include "api/containerd/sandbox_service.hpp"
#include "api/containerd/stdio.hpp"
#include "api/containerd/task_spec.hpp"

namespace {

using namespace wherry::api::containerd;

template <class... Messages>
void parse_as_each(std::string_view input) {
    (
        [&] {
            auto value = decode<Messages>(input);
            if (!value) return;
            std::string bytes = encode(*value);
            auto again = decode<Messages>(bytes);
            if (!again || encode(*again) != bytes) __builtin_trap();
        }(),
        ...);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // SAFETY: bytes are bytes.
    std::string_view input(reinterpret_cast<const char*>(data), size);
    parse_as_each<CreateTaskRequest, ProcessRequest, ExecProcessRequest, ResizePtyRequest, KillRequest, CloseIoRequest,
                  CheckpointTaskRequest, CheckpointOptions, UpdateTaskRequest, ShutdownRequest, RuntimeOptions, Any,
                  Mount, PidResponse, DeleteResponse, StateResponse, PidsResponse, WaitResponse, StatsResponse,
                  ConnectResponse, TaskCreate, TaskStart, TaskDelete, TaskExit, TaskOom, TaskExecAdded, TaskExecStarted,
                  TaskPaused, TaskResumed, TaskCheckpointed, ForwardRequest, CreateSandboxRequest, SandboxIdRequest,
                  StartSandboxResponse, PlatformResponse, StopSandboxRequest, WaitSandboxResponse, SandboxStatusRequest,
                  SandboxStatusResponse, SandboxMetricsResponse, PodConfig>(input);
    if (auto pod = decode<PodConfig>(input)) static_cast<void>(plan_pod(*pod, pod->hostname));
    if (auto create = decode<CreateTaskRequest>(input)) {
        static_cast<void>(plan_root(create->rootfs, false));
        static_cast<void>(parse_output_target(create->stdout_path));
        static_cast<void>(cgroup_path_of(create->id));
    }
    std::string text(input);
    static_cast<void>(parse_output_target(text));
    static_cast<void>(cgroup_path_of(text));
    return 0;
}
