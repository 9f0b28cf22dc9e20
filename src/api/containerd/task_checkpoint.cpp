// Checkpoint, and the Start of a container that Create made from one. CRIU runs beside the loop; the answer is given
// when it has ended.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "api/containerd/bundle.hpp"
#include "api/containerd/task_service.hpp"
#include "api/containerd/task_spec.hpp"
#include "base/fd.hpp"
#include "base/log.hpp"
#include "checkpoint/images.hpp"
#include "oci/intel_rdt.hpp"
#include "oci/spec.hpp"

namespace wherry::api::containerd {

namespace {

constexpr const char* work_name = "/criu-work";  // below the bundle; kept only when CRIU has failed
constexpr const char* pid_name = "/criu.pid";

Result<CheckpointOptions> checkpoint_options_of(const std::optional<Any>& any) {
    if (!any) return CheckpointOptions{};
    if (any->type_url != checkpoint_options_type)
        return fail(Code::invalid_argument, "checkpoint: unknown options " + any->type_url);
    return TRY(decode<CheckpointOptions>(any->value), "checkpoint options");
}

// True when it was not there before.
Result<bool> make_folder(const std::string& path) {
    if (::mkdir(path.c_str(), 0700) == 0) return true;
    if (errno != EEXIST) return fail_errno(path);
    struct stat info{};
    if (::stat(path.c_str(), &info) < 0) return fail_errno(path);
    if (!S_ISDIR(info.st_mode)) return fail(Code::invalid_argument, path + ": not a directory");
    return false;
}

void drop(const std::string& folder) {
    if (folder.empty()) return;
    if (auto removed = remove_tree(folder); !removed) log_warn("checkpoint.left", {{"error", removed.error()}});
}

}  // namespace

Result<> TaskService::check_not_busy(const Task& task) {
    if (!task.criu) return {};
    return fail(Code::conflict,
                task.restore ? "the container is being restored" : "the container is being checkpointed");
}

RpcServer::Reply TaskService::checkpoint(const std::string& payload, CallReference call) {
    CheckpointTaskRequest request = TRY(decode<CheckpointTaskRequest>(payload));
    Task* task = TRY(find(request.id));
    CheckpointOptions wish = TRY(checkpoint_options_of(request.options));
    checkpoint::DumpRequest dump;
    checkpoint::Options& options = dump.options;
    options.tcp_established = wish.open_tcp;
    options.external_unix_sockets = wish.external_unix_sockets;
    options.shell_job = wish.terminal;
    options.file_locks = wish.file_locks;
    options.empty_namespaces = std::move(wish.empty_namespaces);
    if (!wish.cgroups_mode.empty()) options.cgroups_mode = std::move(wish.cgroups_mode);
    TRY(checkpoint::check_options(options), "checkpoint");
    // As in runc's shim the folder is the request's; the options' is for who speaks to the shim directly.
    options.images = request.path.empty() ? std::move(wish.image_path) : std::move(request.path);
    options.work = wish.work_path.empty() ? task->bundle + work_name : wish.work_path;
    TRY(check_absolute(options.images, "checkpoint: path"));
    TRY(check_absolute(options.work, "checkpoint: work path"));

    TRY(check_not_busy(*task));
    supervisor::Status status = task->container->status();
    if (status != supervisor::Status::running && status != supervisor::Status::paused)
        return fail(Code::conflict, std::string("Container cannot be checkpointed in ") +
                                        (task->first.exit ? "stopped" : "created") + " state");
    // They are no descendants of the first process: CRIU would leave them out, and they would end with the container.
    if (task->container->has_running_execs())
        return fail(Code::conflict, "a container with processes of exec cannot be checkpointed");
    dump.subject.spec = TRY(oci::spec_from_json(TRY(read_config(task->bundle))));
    if (dump.subject.spec.process) dump.subject.spec.process->terminal = task->first.paths.terminal;
    TRY(checkpoint::check_dumpable(dump.subject.spec));
    TRY(checkpoint::find_criu());

    std::string own_work = wish.work_path.empty() ? options.work : std::string();
    std::string made_images;  // here: not left behind without images in it
    auto started = [&]() -> Result<checkpoint::CriuProcess> {
        if (TRY(make_folder(options.images), "checkpoint: path")) made_images = options.images;
        TRY(make_folder(options.work), "checkpoint: work path");
        dump.subject.bundle = task->bundle;
        dump.subject.cgroup = task->container->cgroup_path();
        dump.pid = task->first.pid;
        dump.leave_running = !wish.exit;
        dump.frozen = status == supervisor::Status::paused;
        checkpoint::CriuRun run = TRY(checkpoint::prepare_dump(dump));
        run.dies_with_parent = true;
        return checkpoint::CriuProcess::start(run);
    }();
    if (!started) {
        drop(made_images);
        drop(own_work);
        return std::unexpected(std::move(started).error().context("wherry checkpoint failed"));
    }
    auto finish = [this, task, made_images, own_work](Result<> outcome) -> Result<std::string> {
        if (!outcome) {
            drop(made_images);  // the log stays
            return std::unexpected(std::move(outcome).error().context("wherry checkpoint failed"));
        }
        drop(own_work);
        events_.publish(TaskCheckpointed{task->id, {}});
        return std::string();
    };
    task->criu = std::make_unique<CriuJob>(CriuJob{std::move(*started), call, std::move(finish)});
    return std::nullopt;
}

Result<TaskService::Restore> TaskService::plan_restore(const CreateTaskRequest& request, const json::object& config,
                                                       const std::string& work) {
    Restore restore{request.checkpoint, work.empty() ? request.bundle + work_name : work};
    TRY(check_absolute(restore.images, "checkpoint"));
    TRY(check_absolute(restore.work, "checkpoint: work path"));
    oci::Spec spec = TRY(oci::spec_from_json(config));
    if (spec.process) spec.process->terminal = spec.process->terminal || request.terminal;
    TRY(checkpoint::check_restorable(spec));
    TRY(checkpoint::check_images(restore.images));
    TRY(checkpoint::find_criu());
    return restore;
}

TaskService::Task* TaskService::to_restore(const std::string& payload) {
    auto request = decode<ProcessRequest>(payload);
    if (!request || !request->exec_id.empty()) return nullptr;
    auto task = find(request->id);
    return task && (*task)->restore ? *task : nullptr;
}

RpcServer::Reply TaskService::begin_restore(Task& task, CallReference call) {
    TRY(check_not_busy(task));
    std::string own_work = task.restore->work == task.bundle + work_name ? task.restore->work : std::string();
    checkpoint::RestoreRequest request;
    auto started = [&]() -> Result<checkpoint::CriuProcess> {
        request.options.images = task.restore->images;
        request.options.work = task.restore->work;
        TRY(make_folder(request.options.work));
        checkpoint::Subject& subject = request.subject;
        subject.spec = TRY(oci::spec_from_json(TRY(read_config(task.bundle))));
        subject.bundle = task.bundle;
        subject.root = subject.spec.root.path;
        if (task.rootfs_mounted || !subject.root.starts_with('/'))
            subject.root = task.bundle + "/" + (task.rootfs_mounted ? "rootfs" : subject.spec.root.path);
        subject.cgroup = task.container->cgroup_path();
        request.root_mount = subject.root;
        request.intel_rdt = TRY(oci::make_intel_rdt(subject.spec, task.id, std::nullopt));
        request.pid_file = task.bundle + pid_name;
        request.stdio = task.container->waiting_stdio();
        checkpoint::CriuRun run = TRY(checkpoint::prepare_restore(request));
        run.dies_with_parent = true;
        return checkpoint::CriuProcess::start(run);
    }();
    if (!started) {
        drop(own_work);
        oci::drop_intel_rdt(request.intel_rdt);
        return std::unexpected(std::move(started).error().context("wherry restore failed"));
    }
    auto finish = [this, &task, request, own_work](Result<> outcome) -> Result<std::string> {
        if (outcome) outcome = adopt_restored(task, request);
        ::unlink(request.pid_file.c_str());
        if (!outcome) {
            // It stays as it was created; the log stays, too.
            task.container->kill_strays();
            oci::drop_intel_rdt(request.intel_rdt);
            return std::unexpected(std::move(outcome).error().context("wherry restore failed"));
        }
        drop(own_work);
        auto pid = static_cast<std::uint32_t>(task.first.pid);
        events_.publish(TaskStart{task.id, pid});
        return encode(PidResponse{pid});
    };
    task.criu = std::make_unique<CriuJob>(CriuJob{std::move(*started), call, std::move(finish)});
    return std::nullopt;
}

Result<> TaskService::adopt_restored(Task& task, const checkpoint::RestoreRequest& request) {
    TRY(task.container->adopt(TRY(checkpoint::restored_container(request, task.id))));
    task.restore.reset();
    task.first.pid = TRY(task.container->process({}))->pid;
    task.first.started = true;
    if (auto saved = save_state(task); !saved)
        log_warn("task.state_not_saved", {{"id", task.id}, {"error", saved.error()}});
    return {};
}

// Called while children are reaped, before any other child is asked for: CRIU's become ours when it ends, and are known
// by the time they are reaped.
bool TaskService::criu_ended(Task& task, pid_t pid, int wait_status) {
    if (!task.criu || task.criu->process.pid() != pid) return false;
    std::unique_ptr<CriuJob> job = std::move(task.criu);
    server_.answer(job->call, job->finish(job->process.ended(wait_status)));
    return true;
}

bool TaskService::end_restore(Task& task) {
    if (!task.restore || !task.criu) return false;
    ::kill(task.criu->process.pid(), SIGKILL);
    return true;
}

void TaskService::give_up_criu(Task& task) {
    if (!task.criu) return;
    std::unique_ptr<CriuJob> job = std::move(task.criu);
    ::kill(job->process.pid(), SIGKILL);
    int wait_status = 0;
    while (::waitpid(job->process.pid(), &wait_status, 0) < 0 && errno == EINTR) {
    }
    server_.answer(job->call, job->finish(fail(Code::unavailable, "the container was removed")));
}

}  // namespace wherry::api::containerd
