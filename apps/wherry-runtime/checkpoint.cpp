// checkpoint and restore, through CRIU.
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "base/clock.hpp"
#include "checkpoint/criu.hpp"
#include "checkpoint/images.hpp"
#include "commands.hpp"
#include "context.hpp"
#include "foreground.hpp"
#include "oci/intel_rdt.hpp"
#include "oci/spec.hpp"
#include "placement.hpp"

namespace wherry::runtime {

namespace {

// What checkpoint and restore have in common.
checkpoint::Options options_of(const Options& line, std::string images, std::string work) {
    checkpoint::Options options;
    options.images = std::move(images);
    options.work = std::move(work);
    options.tcp_established = line.has("tcp-established");
    options.external_unix_sockets = line.has("ext-unix-sk");
    options.file_locks = line.has("file-locks");
    options.auto_dedup = line.has("auto-dedup");
    options.shell_job = line.has("shell-job");
    options.cgroups_mode = line.value("manage-cgroups-mode", "soft");
    options.empty_namespaces = line.all("empty-ns");
    return options;
}

Result<std::string> directory_for(const std::string& wish) {
    std::string path = TRY(absolute(wish));
    if (::mkdir(path.c_str(), 0755) < 0 && errno != EEXIST) return fail_errno(path);
    return path;
}

Result<oci::Spec> spec_of(const std::string& bundle) {
    std::string text = TRY(read_file(bundle + "/config.json", config_limit), "bundle");
    return oci::parse_spec(text);
}

}  // namespace

Result<int> checkpoint_command(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    const Options& options = line.local;
    TRY(checkpoint::find_criu());
    if (is_rootless(line)) return fail(Code::unimplemented, "checkpoint: not for rootless containers");
    for (const char* refused : {"lazy-pages", "page-server", "status-fd"}) {
        if (options.has(refused)) return fail(Code::unimplemented, std::string("--") + refused + " is not supported");
    }
    Known known = TRY(find(line, id));
    std::string_view status = status_of(known);
    if (status != "running" && status != "paused")
        return fail(Code::conflict, "Container cannot be checkpointed in " + std::string(status) + " state");
    std::string bundle = TRY(JsonReader(known.state.at("container").as_object(), "state").string_or("bundle", ""));
    oci::Spec spec = TRY(spec_of(bundle));
    TRY(checkpoint::check_dumpable(spec), "checkpoint");
    std::string images = TRY(directory_for(options.value("image-path", "checkpoint")));
    std::string work = options.has("work-path") ? TRY(directory_for(options.value("work-path"))) : images;
    checkpoint::DumpRequest dump{
        options_of(options, std::move(images), std::move(work)),
        {spec, bundle, TRY(JsonReader(known.state, "state").string_or("rootfs", "/")),
         TRY(JsonReader(known.state, "state").string_or("cgroup", ""))},
    };
    dump.pid = known.container->pid();
    dump.pre_dump = options.has("pre-dump");
    dump.leave_running = options.has("leave-running") || dump.pre_dump;
    dump.frozen = status == "paused";
    dump.parent = options.value("parent-path");
    checkpoint::CriuRun run = TRY(checkpoint::prepare_dump(dump));
    TRY(checkpoint::run_criu(run), "checkpoint");
    if (dump.leave_running) return 0;
    // CRIU has ended the processes; the container is stopped and to be deleted by its owner.
    pollfd watched{known.container->pidfd(), POLLIN, 0};
    ::poll(&watched, 1, 10'000);
    known.container.reset();
    TRY(remove_container(known));
    return 0;
}

Result<int> restore_command(const CommandLine& line) {
    std::string id = TRY(only_id(line));
    const Options& options = line.local;
    TRY(checkpoint::find_criu());
    if (is_rootless(line)) return fail(Code::unimplemented, "restore: not for rootless containers");
    if (options.has("lazy-pages")) return fail(Code::unimplemented, "--lazy-pages is not supported");
    std::string bundle = TRY(absolute(options.value("bundle", ".")));
    oci::Spec spec = TRY(spec_of(bundle));
    TRY(checkpoint::check_restorable(spec), "restore");
    std::string images = TRY(absolute(options.value("image-path", "checkpoint")));
    std::string work = options.has("work-path") ? TRY(directory_for(options.value("work-path"))) : images;
    StateDirectory directory = TRY(StateDirectory::create(root_of(line), id));
    // The processes CRIU makes become ours when it ends.
    if (::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0) return fail_errno("PR_SET_CHILD_SUBREAPER");

    std::optional<Placement> placement;
    std::optional<confine::ResctrlGroup> intel_rdt;
    auto restored = [&]() -> Result<oci::Container> {
        placement.emplace(TRY(Placement::make(line, spec, id)));
        intel_rdt = TRY(oci::make_intel_rdt(spec, id, std::nullopt));
        std::string root = spec.root.path.starts_with('/') ? spec.root.path : bundle + "/" + spec.root.path;
        std::string cgroup = placement->cgroup() != nullptr ? placement->cgroup()->path() : std::string();
        checkpoint::RestoreRequest request{options_of(options, images, work), {spec, bundle, root, cgroup}};
        request.root_mount = directory.path() + "/root";
        if (::mkdir(request.root_mount.c_str(), 0700) < 0) return fail_errno(request.root_mount);
        request.pid_file = directory.path() + "/criu.pid";
        request.stdio = {0, 1, 2};
        request.intel_rdt = intel_rdt;
        request.lsm_profile = options.value("lsm-profile");
        request.lsm_mount_context = options.value("lsm-mount-context");
        checkpoint::CriuRun run = TRY(checkpoint::prepare_restore(request), "restore");
        TRY(checkpoint::run_criu(run), "restore");
        placement->settle();
        return checkpoint::restored_container(request, id);
    }();
    if (!restored) {
        if (placement) placement->remove();
        oci::drop_intel_rdt(intel_rdt);
        [[maybe_unused]] auto removed = directory.remove();
        return std::unexpected<Error>(std::move(restored).error());
    }
    json::object state;
    state["container"] = restored->state();
    placement->save(state);
    state["created"] = format_rfc3339(wall_now());
    state["rootfs"] = spec.root.path.starts_with('/') ? spec.root.path : bundle + "/" + spec.root.path;
    state["owner"] = "root";
    if (spec.process) state["process"] = oci::to_json(*spec.process);
    if (spec.linux_spec.seccomp) state["seccomp"] = *spec.linux_spec.seccomp;
    TRY(directory.save(state));
    TRY(write_pid_file(options, restored->pid()));
    if (options.has("detach")) return 0;
    directory.unlock();
    auto code = attend(restored->pidfd(), Fd());
    Known known{std::move(directory), std::move(state), std::nullopt};
    TRY(remove_container(known));
    return code;
}

}  // namespace wherry::runtime
