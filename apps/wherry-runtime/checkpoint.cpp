// checkpoint and restore, through CRIU.
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdio>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "commands.hpp"
#include "context.hpp"
#include "criu.hpp"
#include "foreground.hpp"
#include "oci/intel_rdt.hpp"
#include "oci/spec.hpp"
#include "placement.hpp"

namespace wherry::runtime {

namespace {

constexpr const char* descriptors_file = "descriptors.json";  // runc's: what 0, 1 and 2 were

std::string read_link(const std::string& path) {
    std::array<char, 4096> target{};
    ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
    return length <= 0 ? std::string() : std::string(target.data(), static_cast<std::size_t>(length));
}

// What checkpoint and restore have in common.
Result<std::vector<std::string>> common_arguments(const Options& options, const std::string& images,
                                                  const std::string& work) {
    std::vector<std::string> arguments{"--images-dir", images, "--work-dir", work, "-v4"};
    for (const char* flag : {"tcp-established", "ext-unix-sk", "file-locks", "auto-dedup", "shell-job"}) {
        if (options.has(flag)) arguments.push_back(std::string("--") + flag);
    }
    std::string mode = options.value("manage-cgroups-mode", "soft");
    if (mode != "soft" && mode != "full" && mode != "strict" && mode != "ignore")
        return fail(Code::invalid_argument, "invalid manage cgroups mode");
    arguments.push_back("--manage-cgroups=" + mode);
    for (const std::string& kind : options.all("empty-ns")) {
        if (kind != "network") return fail(Code::invalid_argument, "--empty-ns: only network is supported");
        arguments.insert(arguments.end(), {"--empty-ns", "net"});
    }
    return arguments;
}

bool is_bind(const oci::Mount& mount) {
    if (mount.type == "bind") return true;
    for (const std::string& option : mount.options) {
        if (option == "bind" || option == "rbind") return true;
    }
    return false;
}

// Mounts whose contents come from outside: CRIU is told their names, and on restore where they come from.
void external_mounts(const oci::Spec& spec, const std::string& bundle, bool restoring,
                     std::vector<std::string>& arguments) {
    for (const oci::Mount& mount : spec.mounts) {
        if (!is_bind(mount)) continue;
        std::string source = mount.source.starts_with('/') ? mount.source : bundle + "/" + mount.source;
        arguments.emplace_back("--external");
        arguments.push_back("mnt[" + mount.destination + "]:" + (restoring ? source : mount.destination));
    }
}

// What the runtime itself has bound from the host: files masked with its /dev/null, the container's own cgroups.
Result<> external_runtime_mounts(const oci::Spec& spec, const std::string& cgroup, bool restoring,
                                 std::vector<std::string>& arguments) {
    auto add = [&](const std::string& destination, const std::string& source) {
        arguments.emplace_back("--external");
        arguments.push_back("mnt[" + destination + "]:" + (restoring ? source : destination));
    };
    for (const std::string& path : spec.linux_spec.masked_paths) {
        struct stat info{};
        // Masked directories are small file systems of their own.
        if (::stat(path.c_str(), &info) == 0 && !S_ISDIR(info.st_mode)) add(path, "/dev/null");
    }
    for (const oci::Mount& mount : spec.mounts) {
        if ((mount.type != "cgroup" && mount.type != "cgroup2") || is_bind(mount)) continue;
        const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
        bool only_v2 = system->mode() == confine::CgroupMode::v2;
        for (const confine::CgroupHierarchy& hierarchy : system->hierarchies()) {
            std::string name = hierarchy.mount_point.substr(hierarchy.mount_point.rfind('/'));
            add(only_v2 ? mount.destination : mount.destination + name, hierarchy.mount_point + cgroup);
        }
    }
    return {};
}

// Network and pid namespaces given by path belong to somebody else, who gives them again.
void external_namespaces(const oci::Spec& spec, bool restoring, std::vector<std::string>& arguments, CriuRun& run,
                         std::vector<Fd>& kept) {
    for (const auto& [type, name] : {std::pair{"network", "net"}, std::pair{"pid", "pid"}}) {
        const oci::Namespace* entry = spec.linux_spec.find_namespace(type);
        if (entry == nullptr || entry->path.empty()) continue;
        std::string key = std::string("extRoot") + name + "NS";
        struct stat info{};
        if (!restoring) {
            if (::stat(entry->path.c_str(), &info) < 0) continue;
            arguments.insert(arguments.end(),
                             {"--external", std::string(name) + "[" + std::to_string(info.st_ino) + "]:" + key});
            continue;
        }
        auto opened = open_file(entry->path, O_RDONLY);
        if (!opened) continue;
        int number = 20 + static_cast<int>(kept.size());
        run.descriptors.emplace_back(opened->get(), number);
        kept.push_back(std::move(*opened));
        arguments.insert(arguments.end(), {"--inherit-fd", "fd[" + std::to_string(number) + "]:" + key});
    }
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
    TRY(find_criu());
    if (is_rootless(line)) return fail(Code::unimplemented, "checkpoint: not for rootless containers");
    for (const char* refused : {"lazy-pages", "page-server", "status-fd"}) {
        if (options.has(refused)) return fail(Code::unimplemented, std::string("--") + refused + " is not supported");
    }
    Known known = TRY(find(line, id));
    std::string_view status = status_of(known);
    if (status != "running" && status != "paused")
        return fail(Code::conflict, "Container cannot be checkpointed in " + std::string(status) + " state");
    std::string images = TRY(directory_for(options.value("image-path", "checkpoint")));
    std::string work = options.has("work-path") ? TRY(directory_for(options.value("work-path"))) : images;
    std::string bundle = TRY(JsonReader(known.state.at("container").as_object(), "state").string_or("bundle", ""));
    oci::Spec spec = TRY(spec_of(bundle));
    pid_t pid = known.container->pid();

    bool before = options.has("pre-dump");
    bool leave = options.has("leave-running") || before;
    CriuRun run;
    run.log = work + "/dump.log";
    run.arguments = {before ? "pre-dump" : "dump", "--tree", std::to_string(pid), "--log-file", "dump.log"};
    for (std::string& word : TRY(common_arguments(options, images, work))) run.arguments.push_back(std::move(word));
    if (before) run.arguments.emplace_back("--track-mem");
    if (options.has("parent-path")) {
        // Relative to the images, as CRIU wants it.
        run.arguments.insert(run.arguments.end(), {"--prev-images-dir", options.value("parent-path"), "--track-mem"});
    }
    if (leave && !before) run.arguments.emplace_back("--leave-running");
    run.arguments.insert(run.arguments.end(),
                         {"--root", TRY(JsonReader(known.state, "state").string_or("rootfs", "/"))});
    external_mounts(spec, bundle, false, run.arguments);
    TRY(external_runtime_mounts(spec, TRY(JsonReader(known.state, "state").string_or("cgroup", "")), false,
                                run.arguments));
    std::vector<Fd> kept;
    external_namespaces(spec, false, run.arguments, run, kept);
    if (!before) {
        json::array descriptors;
        for (int fd = 0; fd < 3; ++fd)
            descriptors.emplace_back(read_link("/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd)));
        TRY(write_file_atomic(images + "/" + descriptors_file, to_json(json::value(std::move(descriptors))), 0600,
                              Durability::none));
    }
    TRY(run_criu(run), "checkpoint");
    if (leave) return 0;
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
    TRY(find_criu());
    if (is_rootless(line)) return fail(Code::unimplemented, "restore: not for rootless containers");
    if (options.has("lazy-pages")) return fail(Code::unimplemented, "--lazy-pages is not supported");
    std::string bundle = TRY(absolute(options.value("bundle", ".")));
    oci::Spec spec = TRY(spec_of(bundle));
    if (spec.process && spec.process->terminal)
        return fail(Code::unimplemented, "restore: a container with a terminal cannot be restored");
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
        std::optional<confine::ResctrlJoin> resctrl;
        if (intel_rdt) resctrl = TRY(intel_rdt->prepare_join(), "linux.intelRdt");
        CriuRun run;
        if (resctrl) run.resctrl = &*resctrl;
        run.log = work + "/restore.log";
        run.root_source = spec.root.path.starts_with('/') ? spec.root.path : bundle + "/" + spec.root.path;
        run.root_mount = directory.path() + "/root";
        if (::mkdir(run.root_mount.c_str(), 0700) < 0) return fail_errno(run.root_mount);
        std::string pid_file = directory.path() + "/criu.pid";
        run.arguments = {"restore",   "--log-file", "restore.log", "--restore-detached",
                         "--pidfile", pid_file,     "--root",      run.root_mount};
        for (std::string& word : TRY(common_arguments(options, images, work))) run.arguments.push_back(std::move(word));
        if (placement->cgroup() != nullptr)
            run.arguments.insert(run.arguments.end(), {"--cgroup-root", placement->cgroup()->path()});
        if (options.has("lsm-profile"))
            run.arguments.insert(run.arguments.end(), {"--lsm-profile", options.value("lsm-profile")});
        if (options.has("lsm-mount-context"))
            run.arguments.insert(run.arguments.end(), {"--lsm-mount-context", options.value("lsm-mount-context")});
        external_mounts(spec, bundle, true, run.arguments);
        TRY(external_runtime_mounts(spec, placement->cgroup() != nullptr ? placement->cgroup()->path() : std::string(),
                                    true, run.arguments));
        std::vector<Fd> kept;
        external_namespaces(spec, true, run.arguments, run, kept);
        // Our standard streams in place of what the container had.
        if (auto text = read_file(images + "/" + descriptors_file, 1U << 16U)) {
            json::value names = TRY(parse_json(*text), descriptors_file);
            for (int fd = 0; names.is_array() && fd < 3 && static_cast<std::size_t>(fd) < names.get_array().size();
                 ++fd) {
                const json::value& name = names.get_array()[static_cast<std::size_t>(fd)];
                if (!name.is_string() || name.get_string().find("pipe:") == json::string::npos) continue;
                int number = 10 + fd;
                run.descriptors.emplace_back(fd, number);
                run.arguments.insert(run.arguments.end(), {"--inherit-fd", "fd[" + std::to_string(number) +
                                                                               "]:" + std::string(name.get_string())});
            }
        }
        TRY(run_criu(run), "restore");
        placement->settle();
        std::string text = TRY(read_file(pid_file, 64));
        int pid = 0;
        std::from_chars(text.data(), text.data() + text.size(), pid);
        if (pid <= 0) return fail(Code::internal, "criu left no pid");
        json::object state;
        state["id"] = id;
        state["pid"] = pid;
        state["startTicks"] = TRY(oci::process_start_time(pid));
        state["bundle"] = bundle;
        state["started"] = true;
        state["startSocket"] = "";
        json::array kinds;
        for (const oci::Namespace& entry : spec.linux_spec.namespaces) kinds.emplace_back(entry.type);
        state["namespaces"] = std::move(kinds);
        state["hooks"] = oci::to_json(spec.hooks);
        json::object annotations;
        for (const auto& [name, value] : spec.annotations) annotations[name] = value;
        state["annotations"] = std::move(annotations);
        if (intel_rdt) state["intelRdt"] = intel_rdt->state();
        return oci::Container::restore(state);
    }();
    if (!restored) {
        if (placement) placement->remove();
        if (intel_rdt) {
            if (auto removed = intel_rdt->remove(); !removed)
                log_warn("resctrl.not_removed", {{"error", removed.error()}});
        }
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
