#include "checkpoint/images.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "checkpoint/descriptors.hpp"
#include "confine/cgroup.hpp"

namespace wherry::checkpoint {

namespace {

enum class Direction : unsigned char { dump, restore };

// Where descriptors are put that CRIU gives on: standard streams, then namespaces.
constexpr int first_stream_number = 10;
constexpr int first_namespace_number = 20;

void add_common(const Options& options, std::vector<std::string>& arguments) {
    arguments.insert(arguments.end(), {"--images-dir", options.images, "--work-dir", options.work, "-v4"});
    const std::pair<bool, const char*> flags[]{{options.tcp_established, "--tcp-established"},
                                               {options.external_unix_sockets, "--ext-unix-sk"},
                                               {options.file_locks, "--file-locks"},
                                               {options.auto_dedup, "--auto-dedup"},
                                               {options.shell_job, "--shell-job"}};
    for (const auto& [wanted, flag] : flags) {
        if (wanted) arguments.emplace_back(flag);
    }
    arguments.push_back("--manage-cgroups=" + options.cgroups_mode);
    for (std::size_t i = 0; i < options.empty_namespaces.size(); ++i)
        arguments.insert(arguments.end(), {"--empty-ns", "net"});
}

bool is_bind(const oci::Mount& mount) {
    if (mount.type == "bind") return true;
    for (const std::string& option : mount.options) {
        if (option == "bind" || option == "rbind") return true;
    }
    return false;
}

void add_mount(const std::string& destination, const std::string& source, Direction direction,
               std::vector<std::string>& arguments) {
    arguments.emplace_back("--external");
    arguments.push_back("mnt[" + destination + "]:" + (direction == Direction::restore ? source : destination));
}

// Mounts whose contents come from outside: CRIU is told their names, and on restore where they come from.
void add_binds(const Subject& subject, Direction direction, std::vector<std::string>& arguments) {
    for (const oci::Mount& mount : subject.spec.mounts) {
        if (!is_bind(mount)) continue;
        std::string source = mount.source.starts_with('/') ? mount.source : subject.bundle + "/" + mount.source;
        add_mount(mount.destination, source, direction, arguments);
    }
}

// What the runtime itself has bound from the host: files masked with its /dev/null, the container's own cgroups.
Result<> add_runtime_mounts(const Subject& subject, Direction direction, std::vector<std::string>& arguments) {
    for (const std::string& path : subject.spec.linux_spec.masked_paths) {
        struct stat info{};
        // Masked directories are small file systems of their own.
        if (::stat(path.c_str(), &info) == 0 && !S_ISDIR(info.st_mode))
            add_mount(path, "/dev/null", direction, arguments);
    }
    for (const oci::Mount& mount : subject.spec.mounts) {
        if ((mount.type != "cgroup" && mount.type != "cgroup2") || is_bind(mount)) continue;
        const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
        bool only_v2 = system->mode() == confine::CgroupMode::v2;
        for (const confine::CgroupHierarchy& hierarchy : system->hierarchies()) {
            std::string name = hierarchy.mount_point.substr(hierarchy.mount_point.rfind('/'));
            add_mount(only_v2 ? mount.destination : mount.destination + name, hierarchy.mount_point + subject.cgroup,
                      direction, arguments);
        }
    }
    return {};
}

// Network and pid namespaces given by path belong to somebody else, who gives them again.
void add_namespaces(const Subject& subject, Direction direction, CriuRun& run) {
    int number = first_namespace_number;
    for (const auto& [type, name] : {std::pair{"network", "net"}, std::pair{"pid", "pid"}}) {
        const oci::Namespace* entry = subject.spec.linux_spec.find_namespace(type);
        if (entry == nullptr || entry->path.empty()) continue;
        std::string key = std::string("extRoot") + name + "NS";
        struct stat info{};
        if (direction == Direction::dump) {
            if (::stat(entry->path.c_str(), &info) < 0) continue;
            run.arguments.insert(run.arguments.end(),
                                 {"--external", std::string(name) + "[" + std::to_string(info.st_ino) + "]:" + key});
            continue;
        }
        auto opened = open_file(entry->path, O_RDONLY);
        if (!opened) continue;
        run.descriptors.emplace_back(opened->get(), number);
        run.kept.push_back(std::move(*opened));
        run.arguments.insert(run.arguments.end(), {"--inherit-fd", "fd[" + std::to_string(number) + "]:" + key});
        ++number;
    }
}

Result<> add_outside(const Subject& subject, Direction direction, CriuRun& run) {
    add_binds(subject, direction, run.arguments);
    TRY(add_runtime_mounts(subject, direction, run.arguments));
    add_namespaces(subject, direction, run);
    return {};
}

// Where the cgroup is frozen: v2 where it is mounted, as the rest of the project does it.
Result<std::string> freezer_of(const std::string& cgroup) {
    const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
    const confine::CgroupHierarchy* hierarchy = system->unified();
    if (hierarchy == nullptr) hierarchy = system->v1_with("freezer");
    if (hierarchy == nullptr) return fail(Code::unimplemented, "this host freezes no cgroups");
    return hierarchy->mount_point + cgroup;
}

// Our standard streams in place of what the container had.
Result<> add_streams(const RestoreRequest& request, CriuRun& run) {
    auto text = read_file(request.options.images + "/" + descriptors_file, 1U << 16U);
    if (!text) return {};  // made by somebody else
    StandardStreams streams = TRY(parse_standard_streams(*text));
    int null = -1;
    for (std::size_t i = 0; i < streams.size(); ++i) {
        if (streams.at(i).empty()) continue;
        int given = request.stdio.at(i);
        if (given < 0 && null < 0) {
            run.kept.push_back(TRY(open_file("/dev/null", O_RDWR)));
            null = run.kept.back().get();
        }
        if (given < 0) given = null;
        int number = first_stream_number + static_cast<int>(i);
        run.descriptors.emplace_back(given, number);
        run.arguments.insert(run.arguments.end(),
                             {"--inherit-fd", "fd[" + std::to_string(number) + "]:" + streams.at(i)});
    }
    return {};
}

// CRIU hands over the other end of a terminal by its socket only.
Result<> refuse_terminal(const oci::Spec& spec, const std::string& done) {
    if (spec.process && spec.process->terminal)
        return fail(Code::unimplemented, "a container with a terminal cannot be " + done);
    return {};
}

}  // namespace

Result<> check_options(const Options& options) {
    const std::string& mode = options.cgroups_mode;
    if (mode != "soft" && mode != "full" && mode != "strict" && mode != "ignore")
        return fail(Code::invalid_argument, "invalid manage cgroups mode");
    for (const std::string& kind : options.empty_namespaces) {
        if (kind != "network") return fail(Code::invalid_argument, "empty namespaces: only network is supported");
    }
    return {};
}

Result<> check_dumpable(const oci::Spec& spec) {
    return refuse_terminal(spec, "checkpointed");
}

Result<CriuRun> prepare_dump(const DumpRequest& request) {
    TRY(check_options(request.options));
    TRY(check_dumpable(request.subject.spec));
    const Options& options = request.options;
    CriuRun run;
    run.log = options.work + "/dump.log";
    run.arguments = {request.pre_dump ? "pre-dump" : "dump", "--tree", std::to_string(request.pid), "--log-file",
                     "dump.log"};
    add_common(options, run.arguments);
    if (request.pre_dump) run.arguments.emplace_back("--track-mem");
    if (!request.parent.empty())
        run.arguments.insert(run.arguments.end(), {"--prev-images-dir", request.parent, "--track-mem"});
    if (request.leave_running && !request.pre_dump) run.arguments.emplace_back("--leave-running");
    // A frozen process does not hear the tracer: CRIU has to know what to thaw.
    if (request.frozen)
        run.arguments.insert(run.arguments.end(), {"--freeze-cgroup", TRY(freezer_of(request.subject.cgroup))});
    if (!request.subject.root.empty()) run.arguments.insert(run.arguments.end(), {"--root", request.subject.root});
    TRY(add_outside(request.subject, Direction::dump, run));
    StandardStreams streams = TRY(standard_streams_of(request.pid), "standard streams");
    for (const std::string& stream : streams) {
        if (is_file(stream)) run.arguments.insert(run.arguments.end(), {"--external", stream});
    }
    if (!request.pre_dump)
        TRY(write_file_atomic(options.images + "/" + descriptors_file, to_text(streams), 0600, Durability::none));
    return run;
}

Result<> check_images(const std::string& folder) {
    struct stat info{};
    if (::stat(folder.c_str(), &info) < 0) return fail_errno(folder);
    if (!S_ISDIR(info.st_mode)) return fail(Code::invalid_argument, folder + ": not a directory");
    if (!path_exists(folder + "/inventory.img"))
        return fail(Code::not_found, folder + ": no checkpoint (criu's inventory.img is missing)");
    return {};
}

Result<> check_restorable(const oci::Spec& spec) {
    return refuse_terminal(spec, "restored");
}

Result<CriuRun> prepare_restore(const RestoreRequest& request) {
    TRY(check_options(request.options));
    TRY(check_restorable(request.subject.spec));
    TRY(check_images(request.options.images));
    CriuRun run;
    run.log = request.options.work + "/restore.log";
    run.root_source = request.subject.root;
    run.root_mount = request.root_mount;
    if (request.intel_rdt) run.resctrl = TRY(request.intel_rdt->prepare_join(), "linux.intelRdt");
    // CRIU would not write over it.
    ::unlink(request.pid_file.c_str());
    run.arguments = {"restore",   "--log-file",     "restore.log", "--restore-detached",
                     "--pidfile", request.pid_file, "--root",      request.root_mount};
    add_common(request.options, run.arguments);
    if (!request.subject.cgroup.empty())
        run.arguments.insert(run.arguments.end(), {"--cgroup-root", request.subject.cgroup});
    if (!request.lsm_profile.empty()) run.arguments.insert(run.arguments.end(), {"--lsm-profile", request.lsm_profile});
    if (!request.lsm_mount_context.empty())
        run.arguments.insert(run.arguments.end(), {"--lsm-mount-context", request.lsm_mount_context});
    TRY(add_outside(request.subject, Direction::restore, run));
    TRY(add_streams(request, run));
    return run;
}

Result<oci::Container> restored_container(const RestoreRequest& request, const std::string& id) {
    auto text = read_file(request.pid_file, 64);
    int pid = 0;
    if (text) std::from_chars(text->data(), text->data() + text->size(), pid);
    if (pid <= 0) return fail(Code::internal, "criu left no pid");
    auto start_time = oci::process_start_time(pid);
    if (!start_time) return fail(Code::conflict, "the restored process has ended already");
    const oci::Spec& spec = request.subject.spec;
    json::object state;
    state["id"] = id;
    state["pid"] = pid;
    state["startTicks"] = *start_time;
    state["bundle"] = request.subject.bundle;
    state["started"] = true;
    state["startSocket"] = "";
    json::array kinds;
    for (const oci::Namespace& entry : spec.linux_spec.namespaces) kinds.emplace_back(entry.type);
    state["namespaces"] = std::move(kinds);
    state["hooks"] = oci::to_json(spec.hooks);
    json::object annotations;
    for (const auto& [name, value] : spec.annotations) annotations[name] = value;
    state["annotations"] = std::move(annotations);
    if (request.intel_rdt) state["intelRdt"] = request.intel_rdt->state();
    return oci::Container::restore(state);
}

}  // namespace wherry::checkpoint
