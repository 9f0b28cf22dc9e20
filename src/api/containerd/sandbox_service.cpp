#include "api/containerd/sandbox_service.hpp"

#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <utility>

#include "api/containerd/bundle.hpp"
#include "api/containerd/task_spec.hpp"
#include "base/fd.hpp"
#include "confine/namespaces.hpp"
#include "oci/sysctl.hpp"

namespace wherry::api::containerd {

namespace {

using supervisor::ExitStatus;

constexpr const char* ready = "SANDBOX_READY";
constexpr const char* not_ready = "SANDBOX_NOTREADY";

#if defined(__x86_64__)
constexpr const char* own_architecture = "amd64";
#elif defined(__aarch64__)
constexpr const char* own_architecture = "arm64";
#endif

std::string encode_exit(const ExitStatus& status) {
    return encode(WaitSandboxResponse{static_cast<std::uint32_t>(status.code), timestamp_of(status.finished_at)});
}

// A bundle of a sandbox may come without a configuration, or with one that has no process.
Result<bool> has_process(const std::string& bundle) {
    if (!path_exists(bundle + "/config.json")) return false;
    json::object config = TRY(read_config(bundle));
    const json::value* process = config.if_contains("process");
    return process != nullptr && !process->is_null();
}

}  // namespace

Result<PodPlan> plan_pod(const PodConfig& config, const std::string& netns_path) {
    const PodNamespaceOptions& wish = config.linux_part.security.namespaces;
    if (wish.user && wish.user->mode == NamespaceMode::pod && !wish.user->uids.empty())
        return fail(Code::unimplemented, "user namespaces of pods are not supported");
    if (netns_path.find('\0') != std::string::npos || (!netns_path.empty() && netns_path.front() != '/'))
        return fail(Code::invalid_argument, "netns_path: expected an absolute path");
    PodPlan plan;
    plan.host_network = wish.network == NamespaceMode::node;
    // Always with process numbers of its own: what holds such a namespace is a process that stays, whose
    // /proc/<pid>/ns the containers join.
    plan.namespaces.namespaces = {"pid", "ipc"};
    if (!plan.host_network) {
        plan.namespaces.namespaces.emplace_back("uts");
        if (netns_path.empty()) plan.namespaces.namespaces.emplace_back("network");
        constexpr std::size_t longest_name = 64;
        if (config.hostname.size() > longest_name || config.hostname.find('\0') != std::string::npos)
            return fail(Code::invalid_argument, "hostname: longer than 64 characters");
        plan.namespaces.hostname = config.hostname;
    }
    for (const auto& [name, value] : config.linux_part.sysctls) {
        auto scope = oci::sysctl_scope(name);
        bool own = (scope == oci::SysctlScope::ipc && wish.ipc != NamespaceMode::node) ||
                   (scope == oci::SysctlScope::network && !plan.host_network);
        if (!own) return fail(Code::invalid_argument, "sysctl " + name + ": not of a namespace of the pod");
        if (value.find('\0') != std::string::npos) return fail(Code::invalid_argument, "sysctl " + name + ": NUL");
        plan.sysctls.emplace(oci::sysctl_path(name), value);
    }
    return plan;
}

SandboxService::SandboxService(supervisor::EventLoop& loop, RpcServer& server, TaskService& tasks,
                               std::string scratch_directory, std::function<void()> shutdown)
    : loop_(loop),
      server_(server),
      tasks_(tasks),
      scratch_directory_(std::move(scratch_directory)),
      shutdown_(std::move(shutdown)) {
    tasks_.observe_sandbox([this](const ExitStatus& status) { ended(status); });
}

RpcServer::Reply SandboxService::handle(const TtrpcRequest& request, CallReference call) {
    if (request.method == "WaitSandbox") return wait(request.payload, call);
    if (request.method == "StopSandbox") return stop(request.payload, call);
    return TRY(dispatch(request.method, request.payload));
}

Result<std::string> SandboxService::dispatch(const std::string& method, const std::string& payload) {
    using Method = Result<std::string> (SandboxService::*)(const std::string&);
    static constexpr std::pair<std::string_view, Method> methods[]{
        {"CreateSandbox", &SandboxService::create},     {"StartSandbox", &SandboxService::start},
        {"Platform", &SandboxService::platform},        {"SandboxStatus", &SandboxService::status},
        {"PingSandbox", &SandboxService::ping},         {"SandboxMetrics", &SandboxService::metrics},
        {"ShutdownSandbox", &SandboxService::shutdown},
    };
    for (const auto& [name, function] : methods) {
        if (name == method) return (this->*function)(payload);
    }
    return fail(Code::unimplemented, "unknown method " + method);
}

Result<SandboxService::Sandbox*> SandboxService::find(const std::string& id) {
    if (!sandbox_ || sandbox_->id != id) return fail(Code::not_found, "sandbox does not exist: " + id);
    return &*sandbox_;
}

// ---- life

Result<> SandboxService::hold_namespaces(Sandbox& sandbox, const CreateSandboxRequest& request) {
    PodConfig config;
    if (request.options && request.options->type_url == pod_config_type)
        config = TRY(decode<PodConfig>(request.options->value), "options");
    PodPlan plan = TRY(plan_pod(config, request.netns_path));
    if (!plan.host_network && !request.netns_path.empty())
        sandbox.namespaces.keep_network(
            TRY(confine::open_namespace(request.netns_path, confine::Namespace::network), "netns_path"));
    TRY(sandbox.namespaces.make(plan.namespaces, scratch_directory_, plan.sysctls));
    sandbox.pid = sandbox.namespaces.holder();
    return {};
}

Result<std::string> SandboxService::create(const std::string& payload) {
    CreateSandboxRequest request = TRY(decode<CreateSandboxRequest>(payload));
    TRY(check_id(request.sandbox_id), "sandbox id");
    TRY(check_absolute(request.bundle_path, "bundle"));
    if (sandbox_) return fail(Code::already_exists, "this shim has its sandbox: " + sandbox_->id);
    Sandbox sandbox;
    sandbox.id = request.sandbox_id;
    sandbox.bundle = request.bundle_path;
    sandbox.created_at = wall_now();
    sandbox.of_bundle = TRY(has_process(request.bundle_path));
    if (sandbox.of_bundle) {
        CreateTaskRequest task;
        task.id = request.sandbox_id;
        task.bundle = request.bundle_path;
        task.rootfs = std::move(request.rootfs);
        task.options = std::move(request.options);
        sandbox.pid = TRY(tasks_.create_sandbox(std::move(task), request.netns_path));
    } else {
        TRY(hold_namespaces(sandbox, request), "wherry create failed");
    }
    sandbox_ = std::move(sandbox);
    return std::string();
}

Result<std::string> SandboxService::start(const std::string& payload) {
    SandboxIdRequest request = TRY(decode<SandboxIdRequest>(payload));
    Sandbox* sandbox = TRY(find(request.sandbox_id));
    if (sandbox->exit) return fail(Code::conflict, "the sandbox has stopped");
    if (sandbox->started) return fail(Code::conflict, "the sandbox has been started already");
    if (sandbox->of_bundle) TRY(tasks_.start_sandbox(sandbox->id));
    sandbox->started = true;
    return encode(StartSandboxResponse{static_cast<std::uint32_t>(sandbox->pid), timestamp_of(sandbox->created_at)});
}

void SandboxService::end(Sandbox& sandbox, int signal) {
    if (sandbox.exit) return;
    if (sandbox.of_bundle) {
        tasks_.signal_sandbox(sandbox.id, signal);
    } else {
        sandbox.namespaces.release();  // child_ended() tells when it is done
    }
}

void SandboxService::ended(const ExitStatus& status) {
    if (!sandbox_ || sandbox_->exit) return;
    sandbox_->exit = status;
    sandbox_->patience.reset();
    for (CallReference call : std::exchange(sandbox_->waiting, {})) server_.answer(call, encode_exit(status));
    for (CallReference call : std::exchange(sandbox_->stopping, {})) server_.answer(call, std::string());
}

bool SandboxService::child_ended(pid_t pid, int wait_status) {
    if (!sandbox_ || sandbox_->of_bundle || sandbox_->pid != pid || sandbox_->exit) return false;
    ExitStatus status;
    if (WIFSIGNALED(wait_status)) {
        status.signal = WTERMSIG(wait_status);
        status.code = 128 + status.signal;
    } else {
        status.code = WEXITSTATUS(wait_status);
    }
    status.finished_at = wall_now();
    ended(status);
    return true;
}

RpcServer::Reply SandboxService::stop(const std::string& payload, CallReference call) {
    StopSandboxRequest request = TRY(decode<StopSandboxRequest>(payload));
    Sandbox* sandbox = TRY(find(request.sandbox_id));
    tasks_.kill_containers();
    if (sandbox->exit) return std::string();
    if (sandbox->of_bundle && !sandbox->started) {
        // Nothing of it has run.
        tasks_.remove_sandbox(sandbox->id);
        return std::string();
    }
    sandbox->stopping.push_back(call);
    end(*sandbox, request.timeout_secs == 0 ? SIGKILL : SIGTERM);
    if (sandbox->of_bundle && request.timeout_secs != 0) {
        loop_.schedule(sandbox->patience, std::chrono::seconds(request.timeout_secs),
                       [this] { end(*sandbox_, SIGKILL); });
    }
    return std::nullopt;
}

RpcServer::Reply SandboxService::wait(const std::string& payload, CallReference call) {
    SandboxIdRequest request = TRY(decode<SandboxIdRequest>(payload));
    Sandbox* sandbox = TRY(find(request.sandbox_id));
    if (sandbox->exit) return encode_exit(*sandbox->exit);
    sandbox->waiting.push_back(call);
    return std::nullopt;
}

// Everything goes, the shim itself last. Also for a sandbox whose creation has failed.
Result<std::string> SandboxService::shutdown(const std::string& payload) {
    SandboxIdRequest request = TRY(decode<SandboxIdRequest>(payload));
    if (sandbox_ && sandbox_->id != request.sandbox_id)
        return fail(Code::not_found, "sandbox does not exist: " + request.sandbox_id);
    if (!sandbox_ && !tasks_.empty()) return fail(Code::conflict, "containers are left, and no sandbox");
    tasks_.remove_everything();
    if (sandbox_) {
        sandbox_->namespaces.release();
        ExitStatus status;
        status.finished_at = wall_now();
        ended(status);
        sandbox_.reset();
    }
    loop_.defer(shutdown_);
    return std::string();
}

// ---- questions

Result<std::string> SandboxService::platform(const std::string& payload) {
    SandboxIdRequest request = TRY(decode<SandboxIdRequest>(payload));
    TRY(find(request.sandbox_id));
    return encode(PlatformResponse{Platform{"linux", own_architecture, {}}});
}

Result<std::string> SandboxService::status(const std::string& payload) {
    SandboxStatusRequest request = TRY(decode<SandboxStatusRequest>(payload));
    Sandbox* sandbox = TRY(find(request.sandbox_id));
    SandboxStatusResponse response;
    response.sandbox_id = sandbox->id;
    response.pid = static_cast<std::uint32_t>(sandbox->pid);
    response.state = sandbox->started && !sandbox->exit ? ready : not_ready;
    response.created_at = timestamp_of(sandbox->created_at);
    response.exited_at = timestamp_of(sandbox->exit ? sandbox->exit->finished_at : WallTime{});
    if (request.verbose) {
        response.info.emplace("bundle", sandbox->bundle);
        response.info.emplace("containers", std::to_string(tasks_.containers()));
    }
    return encode(response);
}

Result<std::string> SandboxService::ping(const std::string& payload) {
    SandboxIdRequest request = TRY(decode<SandboxIdRequest>(payload));
    TRY(find(request.sandbox_id));
    return std::string();
}

Result<std::string> SandboxService::metrics(const std::string& payload) {
    SandboxIdRequest request = TRY(decode<SandboxIdRequest>(payload));
    Sandbox* sandbox = TRY(find(request.sandbox_id));
    SandboxMetricsResponse response;
    response.metrics.timestamp = timestamp_of(wall_now());
    response.metrics.id = sandbox->id;
    // A process of ours is in no cgroup of its own: there is nothing to count.
    if (sandbox->of_bundle && !sandbox->exit) response.metrics.data = TRY(tasks_.sandbox_metrics(sandbox->id));
    return encode(response);
}

}  // namespace wherry::api::containerd
