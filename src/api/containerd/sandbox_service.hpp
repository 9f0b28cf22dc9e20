// containerd's sandbox API (containerd.runtime.sandbox.v1.Sandbox, 1.7 and later) for the one sandbox of a shim.
//
// A sandbox is a process that owns a pod's namespaces, which the pod's containers join by its /proc/<pid>/ns. A bundle
// whose config.json has a process gives that process (a pause container, or whatever the caller likes). One without
// gets a process of our own, made from CRI's PodSandboxConfig: in an empty root, without rights, under strict seccomp.
// The Task API does not show it, and events do not tell of it: containerd asks here.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "api/containerd/rpc_server.hpp"
#include "api/containerd/sandbox_messages.hpp"
#include "api/containerd/task_service.hpp"
#include "base/clock.hpp"
#include "supervisor/event_loop.hpp"
#include "supervisor/protocol.hpp"
#include "supervisor/sandbox_namespaces.hpp"

namespace wherry::api::containerd {

// What a pod's configuration asks of the process that we make for it. Sysctls by their paths below /proc/sys.
// invalid_argument or unimplemented for what can't be had.
struct PodPlan {
    supervisor::SandboxRequest namespaces;
    std::map<std::string, std::string> sysctls;
    bool host_network = false;
};
Result<PodPlan> plan_pod(const PodConfig& config, const std::string& netns_path);

class SandboxService {
  public:
    // `shutdown` is called when containerd wants the shim to end.
    SandboxService(supervisor::EventLoop& loop, RpcServer& server, TaskService& tasks, std::string scratch_directory,
                   std::function<void()> shutdown);
    SandboxService(const SandboxService&) = delete;
    SandboxService& operator=(const SandboxService&) = delete;

    RpcServer::Reply handle(const TtrpcRequest& request, CallReference call);
    bool exists() const { return sandbox_.has_value(); }
    bool child_ended(pid_t pid, int wait_status);  // true: it was the sandbox's process

  private:
    struct Sandbox {
        std::string id, bundle;
        bool of_bundle = false;  // its process is the bundle's
        supervisor::SandboxNamespaces namespaces;
        pid_t pid = 0;
        bool started = false;
        WallTime created_at{};
        std::optional<supervisor::ExitStatus> exit;
        std::vector<CallReference> waiting, stopping;
        supervisor::Timer patience;
    };

    Result<std::string> dispatch(const std::string& method, const std::string& payload);
    Result<std::string> create(const std::string& payload);
    Result<std::string> start(const std::string& payload);
    Result<std::string> platform(const std::string& payload);
    Result<std::string> status(const std::string& payload);
    Result<std::string> ping(const std::string& payload);
    Result<std::string> metrics(const std::string& payload);
    Result<std::string> shutdown(const std::string& payload);
    RpcServer::Reply wait(const std::string& payload, CallReference call);
    RpcServer::Reply stop(const std::string& payload, CallReference call);

    Result<Sandbox*> find(const std::string& id);
    Result<> hold_namespaces(Sandbox& sandbox, const CreateSandboxRequest& request);
    void end(Sandbox& sandbox, int signal);
    void ended(const supervisor::ExitStatus& status);

    supervisor::EventLoop& loop_;
    RpcServer& server_;
    TaskService& tasks_;
    std::string scratch_directory_;
    std::function<void()> shutdown_;
    std::optional<Sandbox> sandbox_;
};

}  // namespace wherry::api::containerd
