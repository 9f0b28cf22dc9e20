// How a sandbox goes up with its first container, goes down with its last, and is found again by the next daemon.
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "base/log.hpp"
#include "engine/crash_point.hpp"
#include "engine/network_files.hpp"
#include "engine/sandbox_service.hpp"

namespace wherry::engine {

struct SandboxService::Prepared {
    Fd netns;
    std::optional<net::Endpoint> endpoint;
    std::vector<net::PublishedPort> ports;
};

bool SandboxService::lives(const Sandbox& sandbox) const {
    return std::ranges::any_of(core_.containers.all(), [&](const ContainerPtr& container) {
        return container->sandbox_id == sandbox.id && container->is_alive();
    });
}

Result<> SandboxService::let_go(const std::string& id, const std::optional<net::Endpoint>& endpoint, bool published) {
    if (published) TRY(core_.network->unpublish(id));
    if (endpoint) core_.network->release(*endpoint);
    return {};
}

Result<> SandboxService::prepare(const Sandbox& sandbox, Prepared& prepared) {
    const SandboxPaths where = paths(sandbox);
    const SandboxSpec& spec = sandbox.spec;
    TRY(make_directories(where.directory, 0711));
    TRY(make_directories(where.runtime, 0711));
    TRY(make_directories(where.shared_memory, 0777));
    if (::chmod(where.shared_memory.c_str(), 01777) < 0) return fail_errno("shared memory of the sandbox");
    NetworkFiles files{
        .hostname_path = where.hostname,
        .hosts_path = where.hosts,
        .resolv_conf_path = where.resolv_conf,
        .hosts = {.hostname = sandbox_hostname(sandbox), .domainname = spec.domainname, .addresses = {}, .extra = {}},
        .gateway = {},
        .resolver = net::ResolverNetwork::own,
        .extra_hosts = spec.extra_hosts,
        .dns = spec.dns,
        .dns_search = spec.dns_search,
        .dns_options = spec.dns_options};
    if (spec.network_mode == "bridge") {
        net::EndpointOptions options;
        options.sandbox_id = sandbox.id;
        net::Attachment attachment = TRY(core_.network->attach(core_.options.bridge_name, options), "network");
        prepared.endpoint = attachment.endpoint;
        prepared.netns = std::move(attachment.netns);
        files.hosts.addresses.push_back(attachment.endpoint.address);
        if (attachment.endpoint.address6.is_set()) files.hosts.addresses.push_back(attachment.endpoint.address6);
        files.gateway = attachment.endpoint.gateway;
        const std::vector<net::PortRequest> requests = TRY(wished_ports(spec.port_bindings));
        if (!requests.empty()) prepared.ports = TRY(core_.network->publish(attachment.endpoint, requests));
    } else if (spec.network_mode == "none") {
        prepared.netns = TRY(core_.network->isolated_namespace());
    } else {
        files.resolver = net::ResolverNetwork::host;
    }
    return write_network_files(core_.options, std::move(files));
}

asio::awaitable<Result<>> SandboxService::bring_up(SandboxPtr sandbox) {
    const SandboxPaths where = paths(*sandbox);
    auto prepared = std::make_shared<Prepared>();
    std::shared_ptr<supervisor::ShimClient> shim;
    Result<> done = co_await core_.pool.run([this, sandbox, prepared] { return prepare(*sandbox, *prepared); });
    crash_point("sandbox.prepared");
    if (done) {
        auto spawned =
            co_await supervisor::ShimClient::spawn(core_.executor, {.binary = core_.options.shim_path,
                                                                    .sandbox_id = sandbox->id,
                                                                    .directory = where.runtime,
                                                                    .log_path = where.runtime + "/shim.log"});
        if (spawned)
            shim = *spawned;
        else
            done = std::unexpected(std::move(spawned).error().context("starting the supervisor"));
    }
    if (done) {
        supervisor::SandboxRequest request;
        request.namespaces = {"ipc"};
        if (sandbox->spec.network_mode != "host") request.namespaces.emplace_back("uts");
        if (sandbox->spec.share_pid) request.namespaces.emplace_back("pid");
        request.hostname = sandbox_hostname(*sandbox);
        request.domainname = sandbox->spec.domainname;
        if (auto made = co_await shim->make_sandbox(std::move(request), std::move(prepared->netns)); !made)
            done = std::unexpected(std::move(made).error().context("making the sandbox's namespaces"));
    }
    crash_point("sandbox.made");
    if (done) {
        sandbox->up = true;
        sandbox->started_at = wall_now();
        sandbox->endpoint = prepared->endpoint;
        sandbox->ports = prepared->ports;
        auto written = co_await core_.journal->commit({store::Put{to_record(*sandbox)}});
        if (!written) done = std::unexpected(std::move(written).error());
    }
    crash_point("sandbox.up");
    if (!done) {
        sandbox->up = false;
        sandbox->endpoint.reset();
        sandbox->ports.clear();
        if (shim) {
            std::ignore = co_await shim->shutdown();
            shim->close();
        }
        std::ignore = co_await core_.pool.run([this, sandbox, prepared, runtime = where.runtime]() -> Result<> {
            std::ignore = let_go(sandbox->id, prepared->endpoint, !prepared->ports.empty());
            return remove_tree(runtime);
        });
        co_return std::unexpected(std::move(done).error().context("sandbox " + sandbox->name));
    }
    sandbox->shim = std::move(shim);
    publish(*sandbox, "start");
    co_return done;
}

asio::awaitable<void> SandboxService::take_down(SandboxPtr sandbox) {
    sandbox->up = false;
    const std::optional<net::Endpoint> endpoint = std::exchange(sandbox->endpoint, std::nullopt);
    const bool published = !std::exchange(sandbox->ports, {}).empty();
    if (auto shim = std::exchange(sandbox->shim, nullptr)) {
        std::ignore = co_await shim->shutdown();
        shim->close();
    }
    crash_point("sandbox.down");
    std::ignore = co_await core_.pool.run(
        [this, id = sandbox->id, endpoint, published, runtime = paths(*sandbox).runtime]() -> Result<> {
            if (auto gone = let_go(id, endpoint, published); !gone)
                log_warn("ports.unpublish_failed", {{"id", id}, {"error", gone.error()}});
            return remove_tree(runtime);
        });
    ++core_.revision;
    // Not waited for: a daemon that does not find it written sees that the shim is gone.
    core_.journal->post({store::Put{to_record(*sandbox)}});
    publish(*sandbox, "stop");
}

asio::awaitable<Result<std::shared_ptr<supervisor::ShimClient>>> SandboxService::enter(SandboxPtr sandbox) {
    const Mutex::Guard guard = co_await sandbox->operations.lock();
    if (sandbox->removed) co_return fail(Code::conflict, "the sandbox " + sandbox->name + " is being removed");
    if (sandbox->up && (!sandbox->shim || !sandbox->shim->alive())) co_await take_down(sandbox);
    if (!sandbox->up) CO_CHECK(co_await bring_up(sandbox));
    co_return co_await supervisor::ShimClient::connect(core_.executor, paths(*sandbox).runtime);
}

asio::awaitable<void> SandboxService::settle(SandboxPtr sandbox) {
    const Mutex::Guard guard = co_await sandbox->operations.lock();
    if (sandbox->up && !closing_ && !lives(*sandbox)) co_await take_down(sandbox);
}

void SandboxService::settle_later(const std::string& sandbox_id) {
    if (const SandboxPtr sandbox = core_.sandboxes.by_id(sandbox_id)) core_.gate.spawn(settle(sandbox));
}

asio::awaitable<void> SandboxService::adopt(std::vector<net::LiveEndpoint>& live,
                                            std::set<std::string>& live_sandboxes) {
    for (const SandboxPtr& sandbox : core_.sandboxes.all()) {
        if (!sandbox->up) continue;
        auto shim = co_await supervisor::ShimClient::connect(core_.executor, paths(*sandbox).runtime);
        if (!shim) {
            sandbox->up = false;
            sandbox->endpoint.reset();  // the network's reconciliation lets go of them
            sandbox->ports.clear();
            core_.journal->post({store::Put{to_record(*sandbox)}});
            continue;
        }
        sandbox->shim = *shim;
        live_sandboxes.insert(sandbox->id);
        if (sandbox->endpoint) live.push_back({.endpoint = *sandbox->endpoint, .ports = sandbox->ports});
        log_info("sandbox.adopted", {{"id", sandbox->id}, {"name", sandbox->name}});
    }
}

asio::awaitable<void> SandboxService::finish_reconciling() {
    std::set<std::string> known;
    for (const SandboxPtr& sandbox : core_.sandboxes.all()) {
        known.insert(sandbox->id);
        co_await settle(sandbox);
    }
    std::ignore = co_await core_.pool.run([root = core_.options.data_root + "/sandboxes", known]() -> Result<> {
        std::error_code ignored;
        for (const auto& entry : std::filesystem::directory_iterator(root, ignored)) {
            if (!known.contains(entry.path().filename().string())) std::ignore = remove_tree(entry.path().string());
        }
        return {};
    });
}

void SandboxService::close() {
    closing_ = true;
    for (const SandboxPtr& sandbox : core_.sandboxes.all()) {
        if (sandbox->shim) sandbox->shim->close();
    }
}

}  // namespace wherry::engine
