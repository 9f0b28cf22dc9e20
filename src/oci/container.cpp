#include "oci/container.hpp"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "confine/id_map_helpers.hpp"
#include "confine/process_attributes.hpp"
#include "oci/channel.hpp"
#include "oci/container_impl.hpp"
#include "oci/hooks.hpp"
#include "oci/init_binary.hpp"
#include "oci/init_process.hpp"
#include "oci/intel_rdt.hpp"
#include "oci/seccomp_listener.hpp"
#include "oci/spawn.hpp"
#include "oci/sysctl.hpp"

namespace wherry::oci {

namespace {

// A name for the socket that fits into sockaddr_un however long the path is: by its folder's descriptor.
struct SocketAddress {
    sockaddr_un address{};
    Fd folder;  // to be kept open as long as the address is used

    // SAFETY: the sockets API takes every address family through sockaddr.
    const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
};

Result<SocketAddress> address_of(const std::string& path) {
    SocketAddress result;
    result.address.sun_family = AF_UNIX;
    std::string name = path;
    if (name.size() >= sizeof result.address.sun_path) {
        std::size_t slash = path.rfind('/');
        result.folder = TRY(open_file(path.substr(0, slash), O_PATH | O_DIRECTORY), "start socket");
        name = "/proc/self/fd/" + std::to_string(result.folder.get()) + path.substr(slash);
    }
    if (name.size() >= sizeof result.address.sun_path) return fail_errno(ENAMETOOLONG, "start socket " + path);
    std::memcpy(result.address.sun_path, name.data(), name.size());
    return result;
}

// A listening SOCK_SEQPACKET socket by which another process starts the container.
Result<Fd> listen_for_start(const std::string& path) {
    Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!socket) return fail_errno("start socket");
    SocketAddress address = TRY(address_of(path));
    if (::bind(socket.get(), address.get(), sizeof address.address) < 0 || ::listen(socket.get(), 1) < 0)
        return fail_errno("start socket " + path);
    return socket;
}

Result<Fd> connect_for_start(const std::string& path) {
    Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!socket) return fail_errno("start socket");
    SocketAddress address = TRY(address_of(path));
    if (::connect(socket.get(), address.get(), sizeof address.address) < 0) return fail_errno("start socket " + path);
    return socket;
}

// Which namespaces are new and which are joined, from the spec and the request.
struct NamespacePlan {
    SpawnRequest spawn;
    Fd user, pid;
    std::vector<std::string> kinds;  // those that differ from ours: exec joins them
};

Result<Fd> namespace_to_join(const CreateRequest& request, const Namespace& entry, confine::Namespace kind) {
    for (const NamespaceFd& given : request.namespaces) {
        if (given.type != entry.type) continue;
        TRY(confine::verify_namespace(given.fd, kind), entry.type + " namespace");
        Fd copy(::fcntl(given.fd, F_DUPFD_CLOEXEC, 0));
        if (!copy) return fail_errno(entry.type + " namespace");
        return copy;
    }
    if (entry.path.empty()) return Fd();
    return confine::open_namespace(entry.path, kind);
}

Result<NamespacePlan> plan_namespaces(const CreateRequest& request, InitPlan& init) {
    NamespacePlan plan;
    std::vector<Namespace> entries = request.spec.linux_spec.namespaces;
    for (const NamespaceFd& given : request.namespaces) {
        if (request.spec.linux_spec.find_namespace(given.type) == nullptr) entries.push_back({given.type, {}});
    }
    bool has_mount = false;
    for (const Namespace& entry : entries) {
        auto kind = confine::parse_namespace(entry.type);
        if (!kind) return fail(Code::invalid_argument, "unknown namespace " + entry.type);
        plan.kinds.push_back(entry.type);
        Fd joined = TRY(namespace_to_join(request, entry, *kind));
        bool is_new = !joined;
        switch (*kind) {
            case confine::Namespace::user:
                init.new_user_namespace = is_new;
                init.joined_user_namespace = !is_new;
                if (is_new) plan.spawn.flags |= CLONE_NEWUSER;
                plan.user = std::move(joined);
                continue;
            case confine::Namespace::pid:
                if (is_new) plan.spawn.flags |= CLONE_NEWPID;
                plan.pid = std::move(joined);
                continue;
            case confine::Namespace::mount:
                has_mount = true;
                if (is_new) plan.spawn.flags |= CLONE_NEWNS;
                init.mount_namespace = std::move(joined);
                init.rootfs.joined_mount_namespace = !is_new;
                continue;
            case confine::Namespace::cgroup:
                init.new_cgroup_namespace = is_new;
                break;
            case confine::Namespace::time:
                init.new_time_namespace = is_new;
                break;
            case confine::Namespace::network:
                init.new_network_namespace = is_new;
                if (is_new) plan.spawn.flags |= CLONE_NEWNET;
                break;
            case confine::Namespace::uts:
                init.own_uts_namespace = true;
                if (is_new) plan.spawn.flags |= CLONE_NEWUTS;
                break;
            case confine::Namespace::ipc:
                if (is_new) plan.spawn.flags |= CLONE_NEWIPC;
                break;
        }
        if (joined) init.join.emplace_back(std::move(joined), *kind);
    }
    if (!has_mount) return fail(Code::invalid_argument, "linux.namespaces: a mount namespace is required");
    const LinuxSpec& spec = request.spec.linux_spec;
    if (init.new_user_namespace && (spec.uid_mappings.empty() || spec.gid_mappings.empty()))
        return fail(Code::invalid_argument, "linux.uidMappings: a new user namespace needs uid and gid mappings");
    if (!spec.uid_mappings.empty()) TRY(confine::validate_id_mappings(spec.uid_mappings), "linux.uidMappings");
    if (!spec.gid_mappings.empty()) TRY(confine::validate_id_mappings(spec.gid_mappings), "linux.gidMappings");
    if (!spec.time_offsets.empty() && !init.new_time_namespace)
        return fail(Code::invalid_argument, "linux.timeOffsets: a new time namespace is needed");
    return plan;
}

// The container's own directory in every hierarchy, for its /sys/fs/cgroup.
Result<std::vector<CgroupDirectory>> cgroup_directories(const confine::Cgroup* cgroup) {
    std::vector<CgroupDirectory> directories;
    const confine::CgroupSystem* system = TRY(confine::CgroupSystem::of_this_host());
    bool only_v2 = system->mode() == confine::CgroupMode::v2;
    for (const confine::CgroupHierarchy& hierarchy : system->hierarchies()) {
        std::string own = cgroup != nullptr ? cgroup->path() : hierarchy.own_path;
        std::string name = only_v2 ? std::string() : hierarchy.mount_point.substr(hierarchy.mount_point.rfind('/') + 1);
        directories.push_back({std::move(name), hierarchy.mount_point + (own == "/" ? "" : own)});
    }
    return directories;
}

// A resctrl group made for a container goes again when that does not come to be.
struct NewGroup {
    explicit NewGroup(const std::optional<confine::ResctrlGroup>& made) : group(made) {}
    NewGroup(const NewGroup&) = delete;
    NewGroup& operator=(const NewGroup&) = delete;
    ~NewGroup() {
        if (!is_used) drop_intel_rdt(group);
    }

    const std::optional<confine::ResctrlGroup>& group;
    bool is_used = false;
};

}  // namespace

void kill_and_reap(const Spawned& child) {
    ::syscall(SYS_pidfd_send_signal, child.pidfd.get(), SIGKILL, nullptr, 0);
    siginfo_t info{};
    while (::waitid(P_PIDFD, static_cast<id_t>(child.pidfd.get()), &info, WEXITED) < 0 && errno == EINTR) {
    }
}

FailureKind failure_kind(const Error& error) {
    if (error.describe().find("exec: \"") == std::string::npos) return FailureKind::other;
    switch (error.os_errno()) {
        case ENOENT:
        case ENOTDIR:
        case ELOOP:
        case ENAMETOOLONG:
            return FailureKind::executable_not_found;
        default:
            return FailureKind::executable_not_runnable;
    }
}

int failure_exit_code(const Error& error) {
    switch (failure_kind(error)) {
        case FailureKind::executable_not_found:
            return 127;
        case FailureKind::executable_not_runnable:
            return 126;
        case FailureKind::other:
            return 128;
    }
    return 128;
}

std::vector<Timeline::Phase> Timeline::phases() const {
    std::vector<Phase> all{{"clone", cloned},          {"cgroup", cgroup_joined}, {"namespaces", namespaces_joined},
                           {"rootfs", rootfs_mounted}, {"mounts", mounts_done},   {"devices", devices_done},
                           {"masks", masks_done},      {"pivot", pivoted},        {"confine", confined},
                           {"ready", ready},           {"start", started},        {"exec", executed}};
    std::erase_if(all, [](const Phase& phase) { return phase.at_ns == 0; });
    std::ranges::sort(all, {}, &Phase::at_ns);
    return all;
}

Result<std::uint64_t> process_start_time(pid_t pid) {
    std::string stat = TRY(read_file("/proc/" + std::to_string(pid) + "/stat", 4096));
    // The name in field 2 may hold anything, also ") ": fields are counted from its last parenthesis.
    std::size_t at = stat.rfind(')');
    if (at == std::string::npos || at + 2 >= stat.size()) return fail(Code::data_loss, "/proc/<pid>/stat");
    if (char state = stat[at + 2]; state == 'Z' || state == 'X') return fail(Code::not_found, "the process has ended");
    constexpr int fields_after_name = 20;  // field 22
    for (int i = 0; i < fields_after_name; ++i) {
        at = stat.find(' ', at + 1);
        if (at == std::string::npos) return fail(Code::data_loss, "/proc/<pid>/stat");
    }
    std::uint64_t value = 0;
    auto [end, problem] = std::from_chars(stat.data() + at + 1, stat.data() + stat.size(), value);
    if (problem != std::errc() || *end != ' ') return fail(Code::data_loss, "/proc/<pid>/stat");
    return value;
}

Container::Container(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Container::Container(Container&&) noexcept = default;
Container& Container::operator=(Container&&) noexcept = default;
Container::~Container() = default;

HookState Container::Impl::hook_state(const char* status) const {
    HookState hook;
    hook.id = id;
    hook.status = status;
    hook.pid = pid;
    hook.bundle = bundle;
    hook.annotations = annotations;
    return hook;
}

// Talks with the child until it waits for start.
Result<> Container::Impl::bring_up(const CreateRequest& request, bool new_user_namespace, bool set_oom_score) {
    if (request.complete_cgroup) {
        TRY(request.complete_cgroup());
        // A child that has failed meanwhile has closed its end, and said why: that is read below.
        auto told = send_message(channel.get(), Message{.kind = MessageKind::proceed});
        if (!told && told.error().os_errno() != EPIPE && told.error().os_errno() != ECONNRESET) return told;
    }
    if (new_user_namespace) {
        const LinuxSpec& spec = request.spec.linux_spec;
        auto mapped = request.rootless && ::geteuid() != 0
                          ? confine::write_id_maps_as_user(pid, spec.uid_mappings, spec.gid_mappings)
                          : confine::write_id_maps(pid, spec.uid_mappings, spec.gid_mappings);
        TRY(std::move(mapped), "id maps");
    }
    if (set_oom_score) {
        auto set = confine::set_oom_score_adj(pid, *request.spec.process->oom_score_adj);
        // A user may not lower it: a container that the kernel prefers to kill is still a container.
        if (!set && !request.rootless)
            return std::unexpected<Error>(std::move(set).error().context("process.oomScoreAdj"));
        if (!set) log_warn("process.oom_score_adj", {{"id", id}, {"error", set.error()}});
    }
    if (new_user_namespace) {
        TRY(send_message(channel.get(), Message{.kind = MessageKind::proceed}));
    }
    for (;;) {
        auto message = TRY(receive_message(channel.get()));
        if (!message) return fail(Code::internal, "the first process ended while it was being set up");
        switch (message->kind) {
            case MessageKind::failed:
                return std::unexpected<Error>(error_of(*message));
            case MessageKind::terminal:
                terminal = std::move(message->descriptor);
                break;
            case MessageKind::listener:
                TRY(send_listener(request.seccomp_listener, std::move(message->descriptor), hook_state("creating"),
                                  pid));
                break;
            case MessageKind::wants_hooks:
                TRY(run_hooks(hooks.prestart, "prestart", hook_state("creating")));
                TRY(run_hooks(hooks.create_runtime, "createRuntime", hook_state("creating")));
                TRY(send_message(channel.get(), Message{.kind = MessageKind::proceed, .pid = pid}));
                break;
            case MessageKind::ready: {
                std::int64_t begin = timeline.begin;
                timeline = message->timeline;
                timeline.begin = begin;
                user = std::move(message->user);
                return {};
            }
            default:
                return fail(Code::internal, "unexpected message of the first process");
        }
    }
}

Result<Container> Container::create(const CreateRequest& request) {
    auto impl = std::make_unique<Impl>();
    impl->timeline.begin = monotonic_ns();
    if (request.id.empty()) return fail(Code::invalid_argument, "container id: missing");
    if (!request.spec.process) return fail(Code::invalid_argument, "process: missing");

    InitPlan plan;
    plan.request = &request;
    plan.rootfs = TRY(plan_rootfs(request.spec, request.bundle, request.overlay ? &*request.overlay : nullptr));
    plan.process = TRY(plan_process(*request.spec.process, request.seccomp, request.stdio));
    plan.process.extra_fds = request.extra_fds;
    plan.process.seccomp_notifies = request.seccomp_listener.has_value();
    plan.process.personality = request.spec.linux_spec.personality;
    plan.process.new_session_keyring = request.new_session_keyring;
    // "Not applicable to the container's init process" (config.md, "execCPUAffinity").
    plan.process.process.exec_cpu_affinity_initial.clear();
    plan.process.process.exec_cpu_affinity_final.clear();
    plan.process.create_cwd = true;
    plan.process.name = request.id;
    plan.process.rows = request.rows;
    plan.process.columns = request.columns;
    if (request.spec.process->console_size && request.rows == 0 && request.columns == 0) {
        plan.process.rows = request.spec.process->console_size->height;
        plan.process.columns = request.spec.process->console_size->width;
    }
    plan.process.init = request.init;
    if (request.init) plan.process.init_binary = TRY(open_init_binary());
    plan.rootfs.no_pivot = request.no_pivot;

    NamespacePlan namespaces = TRY(plan_namespaces(request, plan));
    TRY(check_sysctls(request.spec.linux_spec, namespaces.kinds));
    plan.rootfs.user_namespace = plan.new_user_namespace || plan.joined_user_namespace;
    for (const Mount& mount : request.spec.mounts) {
        if (mount.type != "cgroup" && mount.type != "cgroup2") continue;
        plan.rootfs.cgroups = TRY(cgroup_directories(request.cgroup));
        break;
    }
    // A user has the right to clone mounts only inside of his namespaces; root has it only outside of the container's.
    plan.rootfs.sources_in_child = !plan.rootfs.user_namespace || request.rootless;
    TRY(open_bind_sources(plan.rootfs, plan.rootfs.sources_in_child ? BindSources::idmapped : BindSources::all));
    plan.process.parent_sets_oom_score = plan.rootfs.user_namespace;
    if (request.complete_cgroup) {
        if (request.cgroup == nullptr || plan.rootfs.user_namespace)
            return fail(Code::invalid_argument, "a cgroup can be completed late only outside of user namespaces");
        plan.cgroup_is_late = true;
        plan.late_tasks = request.cgroup->task_paths();
        namespaces.spawn.flags &= ~std::uint64_t{CLONE_NEWNET};  // the child's own time, not ours
    }
    if (request.cgroup != nullptr) plan.cgroup = TRY(request.cgroup->prepare_join(), "cgroup");
    if (!request.start_socket_path.empty()) plan.listener = TRY(listen_for_start(request.start_socket_path));
    impl->intel_rdt = TRY(make_intel_rdt(request.spec, request.id, request.resctrl));
    NewGroup group{impl->intel_rdt};
    if (impl->intel_rdt) plan.resctrl = TRY(impl->intel_rdt->prepare_join(), "linux.intelRdt");

    auto [ours, theirs] = TRY(make_socket_pair(SOCK_SEQPACKET));
    plan.channel = std::move(theirs);
    namespaces.spawn.user_namespace = namespaces.user.get();
    namespaces.spawn.pid_namespace = namespaces.pid.get();
    if (plan.cgroup && plan.cgroup->unified_directory() >= 0) {
        namespaces.spawn.cgroup = plan.cgroup->unified_directory();
        plan.born_in_unified = true;
    }
    // The files in /proc of a process that is not dumpable are root's: a user could not write the maps.
    bool dumpable = request.rootless && plan.new_user_namespace;
    if (dumpable) ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    auto spawned = spawn(namespaces.spawn, run_init, &plan);
    if (!spawned && request.rootless && spawned.error().os_errno() == EACCES && namespaces.spawn.cgroup >= 0 &&
        !plan.cgroup->task_files().empty()) {
        // On v2 a user moves processes only below what was delegated to him. Where the limits are on v1 the container
        // does without its place there.
        namespaces.spawn.cgroup = -1;
        spawned = spawn(namespaces.spawn, run_init, &plan);
    }
    if (dumpable) ::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    Spawned child = TRY(std::move(spawned), "create container");
    plan.channel.reset();
    plan.listener.reset();

    impl->id = request.id;
    impl->bundle = request.bundle;
    impl->pid = child.pid;
    impl->hooks = request.spec.hooks;
    impl->annotations = request.spec.annotations;
    impl->namespaces = std::move(namespaces.kinds);
    impl->start_socket_path = request.start_socket_path;
    impl->channel = std::move(ours);
    auto up = impl->bring_up(request, plan.new_user_namespace,
                             plan.process.parent_sets_oom_score && request.spec.process->oom_score_adj.has_value());
    if (up) {
        auto start_time = process_start_time(child.pid);
        if (start_time) {
            impl->start_time = *start_time;
        } else {
            up = std::unexpected<Error>(std::move(start_time).error());
        }
    }
    if (!up) {
        kill_and_reap(child);
        if (!request.start_socket_path.empty()) ::unlink(request.start_socket_path.c_str());
        // Hooks that have run may have something to take back.
        if (auto after = run_hooks(impl->hooks.poststop, "poststop", impl->hook_state("stopped"), HookFailure::go_on);
            !after)
            log_warn("container.poststop", {{"id", impl->id}, {"error", after.error()}});
        return std::unexpected<Error>(std::move(up).error());
    }
    group.is_used = true;
    impl->pidfd = std::move(child.pidfd);
    if (!request.start_socket_path.empty()) impl->channel.reset();
    return Container(std::move(impl));
}

Result<> Container::start() {
    if (impl_->started) return fail(Code::conflict, "container " + impl_->id + " has already been started");
    if (!impl_->channel) {
        auto socket = connect_for_start(impl_->start_socket_path);
        if (!socket)
            return std::unexpected<Error>(
                std::move(socket).error().context("cannot start " + impl_->id).with_code(Code::conflict));
        impl_->channel = std::move(*socket);
        ::unlink(impl_->start_socket_path.c_str());
    }
    impl_->timeline.started = monotonic_ns();
    Message start{.kind = MessageKind::start};
    start.pid = impl_->pid;
    auto outcome = [&]() -> Result<> {
        TRY(send_message(impl_->channel.get(), start));
        auto message = TRY(receive_message(impl_->channel.get()));
        if (message) return std::unexpected<Error>(error_of(*message));
        return {};
    }();
    impl_->timeline.executed = monotonic_ns();
    impl_->channel.reset();
    if (!outcome) {
        Spawned child;
        child.pid = impl_->pid;
        child.pidfd = std::move(impl_->pidfd);
        kill_and_reap(child);
        impl_->pidfd = std::move(child.pidfd);
        return outcome;
    }
    impl_->started = true;
    // The container runs: a failing poststart hook is told, and that is all (runtime.md "Lifecycle", step 10).
    if (auto hooks = run_hooks(impl_->hooks.poststart, "poststart", impl_->hook_state("running"), HookFailure::go_on);
        !hooks)
        log_warn("container.poststart", {{"id", impl_->id}, {"error", hooks.error()}});
    return {};
}

Result<> Container::signal(int signal_number) const {
    // SAFETY: pidfd_send_signal(2) without siginfo.
    if (::syscall(SYS_pidfd_send_signal, impl_->pidfd.get(), signal_number, nullptr, 0) < 0)
        return fail_errno("signal");
    return {};
}

Result<> run_poststop_hooks(const json::object& state) {
    JsonReader reader(state, "state");
    auto hooks = TRY(reader.child("hooks"));
    if (!hooks) return {};
    HookState hook;
    hook.id = TRY(reader.required_string("id"));
    hook.status = "stopped";
    hook.bundle = TRY(reader.string_or("bundle", ""));
    hook.annotations = TRY(reader.string_map("annotations"));
    return run_hooks(TRY(hooks_from_json(hooks->object())).poststop, "poststop", hook, HookFailure::go_on);
}

const std::string& Container::id() const {
    return impl_->id;
}
pid_t Container::pid() const {
    return impl_->pid;
}
int Container::pidfd() const {
    return impl_->pidfd.get();
}
Fd Container::take_terminal() {
    return std::move(impl_->terminal);
}
const std::optional<confine::ResctrlGroup>& Container::intel_rdt() const {
    return impl_->intel_rdt;
}

const ResolvedUser& Container::user() const {
    return impl_->user;
}
const Timeline& Container::timeline() const {
    return impl_->timeline;
}
bool Container::started() const {
    return impl_->started;
}

Result<Fd> Container::open_root() const {
    Fd root = TRY(open_file("/proc/" + std::to_string(impl_->pid) + "/root", O_PATH | O_DIRECTORY));
    // The pid was still ours when the root was opened.
    if (::syscall(SYS_pidfd_send_signal, impl_->pidfd.get(), 0, nullptr, 0) < 0) return fail_errno("container");
    return root;
}

json::object Container::state() const {
    json::object object;
    object["id"] = impl_->id;
    object["pid"] = impl_->pid;
    object["startTicks"] = impl_->start_time;
    object["bundle"] = impl_->bundle;
    object["started"] = impl_->started;
    object["startSocket"] = impl_->start_socket_path;
    json::array kinds;
    for (const std::string& kind : impl_->namespaces) kinds.emplace_back(kind);
    object["namespaces"] = std::move(kinds);
    object["hooks"] = oci::to_json(impl_->hooks);
    json::object annotations;
    for (const auto& [name, value] : impl_->annotations) annotations[name] = value;
    object["annotations"] = std::move(annotations);
    if (impl_->intel_rdt) object["intelRdt"] = impl_->intel_rdt->state();
    return object;
}

Result<Container> Container::restore(const json::object& state) {
    JsonReader reader(state, "state");
    auto impl = std::make_unique<Impl>();
    impl->id = TRY(reader.required_string("id"));
    impl->pid = static_cast<pid_t>(TRY(reader.integer_or("pid", 0)));
    impl->start_time = static_cast<std::uint64_t>(TRY(reader.integer_or("startTicks", 0)));
    impl->bundle = TRY(reader.string_or("bundle", ""));
    impl->started = TRY(reader.boolean_or("started", false));
    impl->start_socket_path = TRY(reader.string_or("startSocket", ""));
    impl->namespaces = TRY(reader.strings("namespaces"));
    impl->annotations = TRY(reader.string_map("annotations"));
    if (auto hooks = TRY(reader.child("hooks"))) impl->hooks = TRY(hooks_from_json(hooks->object()));
    if (auto group = TRY(reader.child("intelRdt")))
        impl->intel_rdt = TRY(confine::ResctrlGroup::restore(group->object()));
    if (impl->pid <= 0) return fail(Code::invalid_argument, "state.pid: missing");
    impl->pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, impl->pid, 0)));
    if (!impl->pidfd) return fail_errno(errno, "container " + impl->id);
    // With the pidfd in hand the pid can't be reused any more: is it the one of then?
    auto now = process_start_time(impl->pid);
    if (!now || *now != impl->start_time) return fail(Code::not_found, "container " + impl->id + " has ended");
    return Container(std::move(impl));
}

}  // namespace wherry::oci
