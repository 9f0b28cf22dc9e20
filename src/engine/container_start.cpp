// The hot path: from "start" to a running process. What does not depend on each other happens at the same time: the
// record of the intention, the shim, the network and the files.
#include <fcntl.h>

#include <algorithm>

#include "base/id.hpp"
#include "base/log.hpp"
#include "confine/seccomp_profile.hpp"
#include "engine/container_service.hpp"
#include "engine/crash_point.hpp"
#include "engine/network_files.hpp"
#include "engine/root_helper.hpp"
#include "engine/security.hpp"
#include "engine/validate.hpp"
#include "net/files.hpp"
#include "oci/container.hpp"

namespace wherry::engine {

// What has to be there before the shim can run the container.
struct ContainerService::Prepared {
    supervisor::CreateRequest request;
    Fd netns;
    std::optional<net::Endpoint> endpoint;
    std::vector<net::PublishedPort> ports;
};

namespace {

std::string process_namespace(int pid, const char* name) {
    return "/proc/" + std::to_string(pid) + "/ns/" + name;
}

// Measures phases of a start against one beginning.
class Waterfall {
  public:
    explicit Waterfall(std::vector<Timing>& timings) : timings_(timings) { timings_.clear(); }

    std::int64_t now() const { return monotonic_ns() - begin_; }
    void record(std::string phase, std::int64_t start_ns) {
        timings_.push_back({.phase = std::move(phase), .start_ns = start_ns, .duration_ns = now() - start_ns});
    }
    void append(const std::vector<supervisor::Timing>& inside, std::int64_t start_ns) {
        std::int64_t last = 0;
        for (const supervisor::Timing& one : inside) {
            timings_.push_back({.phase = "shim." + one.phase,
                                .start_ns = start_ns + last,
                                .duration_ns = std::max<std::int64_t>(one.at_ns - last, 0)});
            last = std::max(one.at_ns, last);
        }
    }

  private:
    std::vector<Timing>& timings_;
    std::int64_t begin_ = monotonic_ns();
};

template <class T>
asio::awaitable<Result<T>> timed(Waterfall& waterfall, std::string phase, asio::awaitable<Result<T>> work) {
    const std::int64_t start = waterfall.now();
    Result<T> result = co_await std::move(work);
    waterfall.record(std::move(phase), start);
    co_return result;
}

}  // namespace

NetworkKind ContainerService::network_kind(const Container& container) const {
    const std::string& mode = container.host_config().network_mode;
    if (mode == "host") return NetworkKind::host;
    if (mode == "none") return NetworkKind::none;
    if (is_sandbox_mode(mode)) return NetworkKind::sandbox;
    return mode.starts_with("container:") ? NetworkKind::container : NetworkKind::bridge;
}

std::string ContainerService::network_files_of(const Container& container) const {
    if (const SandboxPtr sandbox = sandbox_of(container))
        return sandbox_paths(core_.options.data_root, core_.options.exec_root, sandbox->id).directory;
    // Whom it joined has joined somebody earlier: no circle.
    if (network_kind(container) == NetworkKind::container) {
        if (const auto other = shared_container(container.host_config().network_mode);
            other && other->get() != &container)
            return network_files_of(**other);
    }
    return paths(container).directory;
}

std::string ContainerService::hostname_of(const Container& container) const {
    if (!container.config().hostname.empty()) return container.config().hostname;
    if (const SandboxPtr sandbox = sandbox_of(container)) return sandbox_hostname(*sandbox);
    const HostConfig& host = container.host_config();
    if (host.network_mode == "host" || host.uts_mode == "host") {
        if (const auto name = read_file("/proc/sys/kernel/hostname")) return name->substr(0, name->find('\n'));
    }
    return container.id.substr(0, short_id_length);
}

SpecInput ContainerService::spec_input(const Container& container) const {
    const ContainerPaths where = paths(container);
    const HostConfig& host = container.host_config();
    SpecInput input{.id = container.id,
                    .config = container.config(),
                    .host_config = host,
                    .path = container.path,
                    .args = container.args,
                    .mounts = container.mounts,
                    .hostname = hostname_of(container),
                    .hostname_file = where.hostname,
                    .hosts_file = where.hosts,
                    .resolv_conf_file = where.resolv_conf,
                    .cgroup_parent = host.resources.cgroup_parent.empty() ? core_.options.cgroup_parent
                                                                          : host.resources.cgroup_parent,
                    .default_ulimits = core_.options.default_ulimits,
                    .network = network_kind(container),
                    .unified_cgroups = core_.unified_cgroups};
    const auto joined = [&](const std::string& mode, const char* name) -> std::string {
        if (!mode.starts_with("container:")) return {};
        const auto other = shared_container(mode);
        return other && (*other)->pid > 0 ? process_namespace((*other)->pid, name) : std::string{};
    };
    if (const SandboxPtr sandbox = sandbox_of(container)) {
        input.in_sandbox = true;
        input.shared_memory =
            sandbox_paths(core_.options.data_root, core_.options.exec_root, sandbox->id).shared_memory;
        if (sandbox->spec.network_mode == "host") input.network = NetworkKind::host;
    }
    if (input.in_sandbox || input.network == NetworkKind::container) {
        const std::string directory = network_files_of(container);
        input.hosts_file = directory + "/hosts";
        input.resolv_conf_file = directory + "/resolv.conf";
        input.hostname_file = directory + "/hostname";
    }
    input.pid_namespace = joined(host.pid_mode, "pid");
    input.ipc_namespace = joined(host.ipc_mode, "ipc");
    input.uts_namespace = joined(host.uts_mode, "uts");
    return input;
}

// The compiled filter of a container; empty when it runs without one. Called on the pool.
Result<std::string> ContainerService::seccomp_path(const Container& container) {
    const SecurityOptions security = TRY(parse_security_options(container.host_config()));
    if (security.seccomp_unconfined) return std::string{};
    if (container.host_config().privileged && security.seccomp_profile.empty()) return std::string{};
    const confine::CapabilitySet capabilities = TRY(container_capability_set(container.host_config()));
    confine::SeccompConditions conditions;
    conditions.capabilities = capabilities;
    conditions.kernel = TRY(confine::running_kernel_version());
    confine::SeccompProfile profile =
        security.seccomp_profile.empty()
            ? confine::default_seccomp_profile(conditions)
            : TRY(confine::resolve_seccomp_profile(security.seccomp_profile, conditions), "seccomp profile");
    // Denied calls are logged, so that `why` can name them.
    if (std::ranges::find(profile.flags, "SECCOMP_FILTER_FLAG_LOG") == profile.flags.end()) {
        profile.flags.emplace_back("SECCOMP_FILTER_FLAG_LOG");
    }
    const confine::SeccompCache::Entry entry = TRY(core_.seccomp->get(profile), "seccomp profile");
    if (entry.path.empty()) return fail(Code::internal, "the compiled seccomp filter could not be written");
    return entry.path;
}

asio::awaitable<Result<std::shared_ptr<supervisor::ShimClient>>> ContainerService::spawn_shim(ContainerPtr container) {
    if (const SandboxPtr sandbox = sandbox_of(*container)) co_return co_await sandboxes_.enter(sandbox);
    const std::string directory = paths(*container).sandbox;
    CO_CHECK(make_directories(directory, 0700));
    co_return co_await supervisor::ShimClient::spawn(core_.executor, {.binary = core_.options.shim_path,
                                                                      .sandbox_id = container->sandbox_id,
                                                                      .directory = directory,
                                                                      .log_path = directory + "/shim.log"});
}

asio::awaitable<Result<ContainerService::Prepared>> ContainerService::prepare(ContainerPtr container) {
    // Looked up on the loop; the rest happens on the pool and touches the container's endpoint and ports only.
    int network_pid = 0;
    const HostConfig& host = container->host_config();
    for (const std::string* mode : {&host.network_mode, &host.pid_mode, &host.ipc_mode, &host.uts_mode}) {
        if (!mode->starts_with("container:")) continue;
        CO_TRY(const ContainerPtr other, shared_container(*mode));
        if (!other->is_running() || other->pid == 0) {
            co_return fail(Code::conflict, "cannot join the namespaces of a non running container: container " +
                                               other->name + " is not running");
        }
        const std::string& theirs = other->host_config().ipc_mode;
        if (mode == &host.ipc_mode && (theirs == "private" || theirs == "none")) {
            co_return fail(Code::conflict, "can't join IPC of container " + other->id +
                                               ": non-shareable IPC (hint: use IpcMode:shareable for the donor "
                                               "container)");
        }
        if (mode == &host.network_mode) network_pid = other->pid;
    }
    auto input = std::make_shared<SpecInput>(spec_input(*container));
    co_return co_await core_.pool.run([this, container, input, network_pid]() -> Result<Prepared> {
        Prepared prepared;
        Result<> done = fill(*container, *input, network_pid, prepared);
        if (done) return prepared;
        let_go(container->id, prepared.endpoint, !prepared.ports.empty());
        return std::unexpected(std::move(done).error());
    });
}

// On the pool: touches nothing of the container that the loop may change meanwhile.
Result<> ContainerService::fill(const Container& container, SpecInput& input, int network_pid, Prepared& prepared) {
    const ContainerPaths where = paths(container);
    const HostConfig& host_config = container.host_config();

    net::HostsFile hosts{
        .hostname = input.hostname, .domainname = container.config().domainname, .addresses = {}, .extra = {}};
    net::ResolverNetwork resolver_network = net::ResolverNetwork::own;
    net::IpAddress gateway;
    switch (input.network) {
        case NetworkKind::bridge: {
            net::EndpointOptions options;
            options.sandbox_id = container.id;
            std::string mac = container.config().mac_address;
            for (const auto& [name, settings] : container.spec.networking.endpoints) {
                if (!settings.mac_address.empty()) mac = settings.mac_address;
            }
            if (!mac.empty()) options.mac = TRY(net::MacAddress::parse(mac));
            net::Attachment attachment = TRY(core_.network->attach(core_.options.bridge_name, options), "network");
            prepared.endpoint = attachment.endpoint;
            prepared.netns = std::move(attachment.netns);
            hosts.addresses.push_back(attachment.endpoint.address);
            if (attachment.endpoint.address6.is_set()) hosts.addresses.push_back(attachment.endpoint.address6);
            gateway = attachment.endpoint.gateway;
            std::vector<net::PortRequest> requests = TRY(wished_ports(host_config.port_bindings));
            if (host_config.publish_all_ports) {
                for (const std::string& port : container.config().exposed_ports) {
                    if (!host_config.port_bindings.contains(port))
                        requests.push_back(TRY(net::parse_binding(port, "", "")));
                }
            }
            if (!requests.empty()) prepared.ports = TRY(core_.network->publish(attachment.endpoint, requests));
            break;
        }
        case NetworkKind::host:
            resolver_network = net::ResolverNetwork::host;
            break;
        case NetworkKind::container:
            prepared.netns = TRY(open_file(process_namespace(network_pid, "net"), O_RDONLY));
            break;
        case NetworkKind::none:
        case NetworkKind::sandbox:  // its shim has the namespace
            break;
    }

    // Who shares a network has the other's files: the same names for the same addresses.
    if (input.network != NetworkKind::container && !input.in_sandbox) {
        TRY(write_network_files(core_.options, {.hostname_path = where.hostname,
                                                .hosts_path = where.hosts,
                                                .resolv_conf_path = where.resolv_conf,
                                                .hosts = std::move(hosts),
                                                .gateway = gateway,
                                                .resolver = resolver_network,
                                                .extra_hosts = host_config.extra_hosts,
                                                .dns = host_config.dns,
                                                .dns_search = host_config.dns_search,
                                                .dns_options = host_config.dns_options}));
    }
    for (const MountPoint& point : container.mounts) {
        if (point.type == "bind" && !path_exists(point.source)) {
            const bool by_mount = std::ranges::none_of(
                host_config.binds, [&](const std::string& bind) { return bind.starts_with(point.source + ":"); });
            if (by_mount)
                return fail(Code::invalid_argument,
                            "invalid mount config for type \"bind\": bind source path does not exist: " + point.source);
            TRY(make_directories(point.source, 0755));
        }
    }

    supervisor::CreateRequest& request = prepared.request;
    request.container_id = container.id;
    const oci::Spec spec = TRY(build_spec(input));
    request.spec = oci::to_json(spec);
    request.bundle = where.directory;
    image::RootFilesystem root = TRY(core_.images->layers().root_filesystem(container.id, container.diff_ids));
    request.root = {.lower_directories = std::move(root.lowers),
                    .upper_directory = std::move(root.upper),
                    .work_directory = std::move(root.work),
                    .volatile_writes = host_config.auto_remove};
    request.seccomp_path = TRY(seccomp_path(container));
    request.exit_record_path = where.exit_record;
    request.log = TRY(log_options(host_config.log_config, container.config(), where.log));
    request.stdin_open = container.config().open_stdin;
    request.stdin_once = container.config().stdin_once;
    request.init = host_config.init.value_or(false);
    for (const std::string& of_earlier_run : {where.exit_record, where.started}) ::unlink(of_earlier_run.c_str());
    return {};
}

void ContainerService::let_go(const std::string& sandbox_id, const std::optional<net::Endpoint>& endpoint,
                              bool published) {
    if (published) {
        if (auto closed = core_.network->unpublish(sandbox_id); !closed) {
            log_warn("ports.unpublish_failed", {{"id", sandbox_id}, {"error", closed.error()}});
        }
    }
    if (endpoint) core_.network->release(*endpoint);
}

asio::awaitable<void> ContainerService::undo_launch(ContainerPtr container,
                                                    std::shared_ptr<supervisor::ShimClient> shim,
                                                    std::shared_ptr<Prepared> prepared) {
    if (sandbox_of(*container)) {  // others may live in it
        if (shim) {
            std::ignore = co_await shim->remove({.container_id = container->id, .force = true});
            shim->close();
        }
        co_return;
    }
    if (shim) {
        std::ignore = co_await shim->shutdown();
        shim->close();
    }
    const std::string directory = paths(*container).sandbox;
    std::ignore = co_await core_.pool.run([this, directory, id = container->id, prepared]() -> Result<> {
        if (prepared) let_go(id, prepared->endpoint, !prepared->ports.empty());
        return remove_tree(directory);
    });
}

asio::awaitable<Result<>> ContainerService::launch(ContainerPtr container) {
    while (container->exit_pending) co_await container->changed.wait();  // the last run's leftovers
    // A copy that outlived the last run still has its mounts: the start is more important.
    if (container->copying > 0) co_await end_copies(container);
    const Phase before = container->phase;
    if (container->phase != Phase::restarting) container->phase = Phase::starting;
    container->error.clear();
    Result<> launched = co_await launch_steps(container);
    if (!launched) {
        const bool ran_before = container->started_at != WallTime{};
        container->phase = before == Phase::created && !ran_before ? Phase::created : Phase::exited;
        container->wanted = container->restart_count > 0 && container->wanted;
        container->pid = 0;
        container->exit_code = oci::failure_exit_code(launched.error());
        container->error = launched.error().describe();
        if (ran_before) container->finished_at = wall_now();
        save(*container);
        container->changed.notify_all();
        sandboxes_.settle_later(container->sandbox_id);
        log_warn("container.start_failed", {{"id", container->id}, {"error", launched.error()}});
    }
    co_return launched;
}

asio::awaitable<Result<>> ContainerService::launch_steps(ContainerPtr container) {
    std::vector<Timing> timings;
    Waterfall waterfall(timings);
    container->wanted = true;
    container->manually_stopped = false;
    container->denied_syscall.clear();
    crash_point("start.begin");
    // The preparation first: it runs on the pool while the loop is busy starting the shim.
    Task<Prepared> preparing(core_.executor, timed(waterfall, "network+files", prepare(container)));
    Task<std::shared_ptr<supervisor::ShimClient>> spawning(core_.executor,
                                                           timed(waterfall, "shim.spawn", spawn_shim(container)));

    Result<Prepared> prepared = co_await preparing.result();
    Result<store::Revision> intended = fail(Code::internal, "not prepared");
    if (prepared) {
        // Written before it runs, with its address and ports: a daemon that dies from here on leaves a container that
        // the next one can take over whole.
        container->endpoint = prepared->endpoint;
        container->ports = prepared->ports;
        const std::int64_t start = waterfall.now();
        intended = co_await core_.journal->commit({store::Put{to_record(*container)}});
        waterfall.record("store.intent", start);
        crash_point("start.written");
    }
    Result<std::shared_ptr<supervisor::ShimClient>> spawned = co_await spawning.result();
    crash_point("start.prepared");
    std::shared_ptr<supervisor::ShimClient> shim = spawned ? *spawned : nullptr;
    Result<supervisor::ContainerState> running = fail(Code::internal, "not started");
    if (!prepared) {
        running = std::unexpected(std::move(prepared).error());
    } else if (!intended) {
        running = std::unexpected(std::move(intended).error());
    } else if (!spawned) {
        running = std::unexpected(std::move(spawned).error().context("starting the supervisor"));
    } else {
        const std::int64_t start = waterfall.now();
        running = co_await shim->run(std::move(prepared->request), std::move(prepared->netns));
        waterfall.record("run", start);
        if (running) waterfall.append(running->timings, start);
    }
    crash_point("start.running");
    if (!running) {
        container->endpoint.reset();
        container->ports.clear();
        // NOLINTNEXTLINE(bugprone-use-after-move): what was moved is its error, which it has no more than a value
        co_await undo_launch(container, shim, prepared ? std::make_shared<Prepared>(std::move(*prepared)) : nullptr);
        Code code = running.error().code();
        if (oci::failure_kind(running.error()) != oci::FailureKind::other) code = Code::invalid_argument;
        co_return std::unexpected(std::move(running).error().context("failed to start container").with_code(code));
    }
    // Nobody waits for the record that says so; whoever was told of the start is right even when shim and daemon die
    // now.
    std::ignore = open_file(paths(*container).started, O_WRONLY | O_CREAT, 0600);
    container->pid = running->pid;
    container->started_at = running->started_at;
    container->finished_at = WallTime{};
    container->oom_killed = false;
    container->exit_code = 0;
    container->exit_signal = 0;
    container->phase = Phase::running;
    container->health.reset();
    for (const auto& [pid, syscall] : core_.recent_denials) {
        if (pid == container->pid) container->denied_syscall = syscall;
    }
    std::ranges::sort(timings, {}, &Timing::start_ns);
    container->timings = std::move(timings);
    container->timings.shrink_to_fit();
    adopt_running(container, shim);
    save(*container);
    crash_point("start.saved");
    if (network_kind(*container) == NetworkKind::bridge) {
        core_.publish("network", "connect", network_id(core_, "bridge"),
                      {{"container", container->id}, {"name", "bridge"}, {"type", "bridge"}});
    }
    core_.publish(*container, "start");
    if (container->attached == 0 && container->host_config().log_config.type == "none") {
        core_.gate.spawn(discard_output(container, shim));
    }
    container->changed.notify_all();
    log_debug("container.start", {{"id", container->id}, {"pid", container->pid}});
    co_return Result<>{};
}

// Output that nobody keeps and nobody reads must not stop the process when the shim's buffer is full.
asio::awaitable<void> ContainerService::discard_output(ContainerPtr container,
                                                       std::shared_ptr<supervisor::ShimClient> shim) {
    std::ignore = co_await shim->discard_output(container->id);
}

asio::awaitable<Result<Outcome>> ContainerService::start(std::string reference) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    const Mutex::Guard guard = co_await container->operations.lock();
    if (container->removed) co_return fail(Code::not_found, "No such container: " + reference);
    if (container->phase == Phase::paused)
        co_return fail(Code::conflict, "cannot start a paused container, try unpause instead");
    if (container->is_alive()) co_return Outcome::unchanged;
    if (core_.gate.closing()) co_return fail(Code::unavailable, "the daemon is shutting down");
    container->restart_count = 0;
    container->restart_delay = {};
    Result<> launched = co_await launch(container);
    if (!launched) {
        // A container that was to remove itself does so when it cannot even start.
        if (container->host_config().auto_remove) std::ignore = co_await remove_record(container, true, Keep::nothing);
        co_return std::unexpected(std::move(launched).error());
    }
    co_return Outcome::changed;
}

void ContainerService::save(const Container& container) {
    ++core_.revision;
    if (!container.removed) core_.journal->post({store::Put{to_record(container)}});
}

asio::awaitable<Result<>> ContainerService::save_durably(const Container& container) {
    if (container.removed) co_return Result<>{};
    ++core_.revision;
    auto written = co_await core_.journal->commit({store::Put{to_record(container)}});
    ++core_.revision;  // the caller may take back what was not written
    CO_CHECK(std::move(written));
    co_return Result<>{};
}

}  // namespace wherry::engine
