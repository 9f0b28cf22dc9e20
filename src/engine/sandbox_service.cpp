// Sandboxes as a user sees them: create, list, inspect, remove. Going up and down is in sandbox_life.cpp.
#include "engine/sandbox_service.hpp"

#include <algorithm>

#include "base/id.hpp"
#include "base/log.hpp"
#include "engine/crash_point.hpp"
#include "engine/names.hpp"
#include "engine/network_views.hpp"
#include "engine/process_table.hpp"
#include "net/files.hpp"

namespace wherry::engine {

std::string sandbox_hostname(const Sandbox& sandbox) {
    if (!sandbox.spec.hostname.empty()) return sandbox.spec.hostname;
    if (sandbox.name.size() < 64 && net::validate_hostname(sandbox.name)) return sandbox.name;
    return sandbox.id.substr(0, short_id_length);
}

Result<> check_sandbox_spec(SandboxSpec& spec, bool has_bridge) {
    if (spec.network_mode.empty() || spec.network_mode == "default") spec.network_mode = has_bridge ? "bridge" : "none";
    if (spec.network_mode != "bridge" && spec.network_mode != "none" && spec.network_mode != "host") {
        return fail(Code::invalid_argument,
                    "invalid network of a sandbox: " + spec.network_mode + " (there are bridge, none and host)");
    }
    if (spec.network_mode == "bridge" && !has_bridge)
        return fail(Code::invalid_argument, "network bridge not found: this daemon runs with --bridge none");
    if (!spec.hostname.empty()) {
        if (spec.network_mode == "host")
            return fail(Code::invalid_argument, "conflicting options: hostname and the network mode");
        if (spec.hostname.size() > 64) return fail(Code::invalid_argument, "invalid hostname: longer than 64 bytes");
        TRY(net::validate_hostname(spec.hostname));
    }
    if (spec.domainname.size() > 64) return fail(Code::invalid_argument, "invalid domain name: longer than 64 bytes");
    if (!spec.port_bindings.empty() && spec.network_mode != "bridge") {
        return fail(Code::invalid_argument,
                    "conflicting options: port publishing and the network mode " + spec.network_mode);
    }
    for (const auto& [port, bindings] : spec.port_bindings) {
        TRY(net::ContainerPort::parse(port));
        for (const PortBinding& binding : bindings) TRY(net::parse_binding(port, binding.host_ip, binding.host_port));
    }
    for (const std::string& entry : spec.extra_hosts)
        TRY(net::parse_extra_host(entry, net::IpAddress::ipv4(0x7f000001)));
    return net::validate({.servers = spec.dns, .search = spec.dns_search, .options = spec.dns_options});
}

std::vector<ContainerPtr> SandboxService::members(const Sandbox& sandbox) const {
    std::vector<ContainerPtr> found;
    for (const ContainerPtr& container : core_.containers.all()) {
        if (container->sandbox_id == sandbox.id) found.push_back(container);
    }
    return found;
}

SandboxView SandboxService::view(const Sandbox& sandbox) const {
    SandboxView shown;
    shown.id = sandbox.id;
    shown.name = sandbox.name;
    shown.created = sandbox.created;
    shown.spec = sandbox.spec;
    shown.spec.hostname = sandbox_hostname(sandbox);
    shown.state = sandbox.up ? "up" : sandbox.started_at == WallTime{} ? "created" : "down";
    shown.started_at = sandbox.started_at;
    if (sandbox.endpoint) {
        shown.endpoint = endpoint_view(*sandbox.endpoint);
        shown.endpoint->network_id = network_id(core_, "bridge");
        shown.endpoint->endpoint_id = network_id(core_, "bridge/" + sandbox.id);
    }
    shown.ports = port_views(sandbox.ports);
    for (const ContainerPtr& container : members(sandbox)) {
        shown.containers.push_back(
            {.id = container->id, .name = container->name, .state = std::string(to_string(container->phase))});
    }
    return shown;
}

void SandboxService::publish(const Sandbox& sandbox, std::string_view action) {
    StringMap attributes = sandbox.spec.labels;
    attributes["name"] = sandbox.name;
    core_.publish("sandbox", action, sandbox.id, std::move(attributes));
}

asio::awaitable<Result<std::string>> SandboxService::create_sandbox(SandboxCreate request) {
    if (core_.gate.closing()) co_return fail(Code::unavailable, "the daemon is shutting down");
    auto sandbox = std::make_shared<Sandbox>();
    sandbox->id = make_id();
    sandbox->created = wall_now();
    sandbox->spec = std::move(request.spec);
    CO_CHECK(check_sandbox_spec(sandbox->spec, core_.options.bridge_name != "none"));
    sandbox->name = request.name;
    if (!sandbox->name.empty()) {
        if (auto good = check_container_name(sandbox->name); !good)
            co_return fail(Code::invalid_argument,
                           "Invalid sandbox name (" + sandbox->name + "), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
        CO_CHECK(core_.sandboxes.reserve_name(sandbox->name, sandbox->id));
    } else {
        for (unsigned attempt = 0;; ++attempt) {
            sandbox->name = make_name(attempt);
            if (core_.sandboxes.reserve_name(sandbox->name, sandbox->id)) break;
        }
    }
    auto written = co_await core_.journal->commit({store::Create{to_record(*sandbox)}});
    crash_point("sandbox.created");
    if (!written) {
        core_.sandboxes.release_name(sandbox->name);
        co_return std::unexpected(std::move(written).error());
    }
    core_.sandboxes.add(sandbox);
    publish(*sandbox, "create");
    co_return sandbox->id;
}

asio::awaitable<Result<std::vector<SandboxView>>> SandboxService::list_sandboxes(Filters filters) {
    CO_CHECK(check_filters(filters, {"id", "label", "name", "state"}));
    std::vector<SandboxView> views;
    const auto any_of = [&](const char* key, auto&& test) {
        const auto found = filters.find(key);
        return found == filters.end() || found->second.empty() || std::ranges::any_of(found->second, test);
    };
    std::vector<SandboxPtr> sandboxes = core_.sandboxes.all();
    std::ranges::reverse(sandboxes);
    for (const SandboxPtr& sandbox : sandboxes) {
        SandboxView one = view(*sandbox);
        const bool good = any_of("id", [&](const std::string& value) { return one.id.starts_with(value); }) &&
                          any_of("name", [&](const std::string& value) { return name_matches(one.name, value); }) &&
                          any_of("state", [&](const std::string& value) { return one.state == value; }) &&
                          (!filters.contains("label") || labels_match(one.spec.labels, filters["label"]));
        if (good) views.push_back(std::move(one));
    }
    co_return views;
}

asio::awaitable<Result<SandboxView>> SandboxService::inspect_sandbox(std::string reference) {
    CO_TRY(const SandboxPtr sandbox, core_.sandboxes.find(reference));
    co_return view(*sandbox);
}

asio::awaitable<Result<>> SandboxService::remove_sandbox(std::string reference, SandboxRemove options) {
    CO_TRY(const SandboxPtr sandbox, core_.sandboxes.find(reference));
    if (options.force) {
        for (const ContainerPtr& container : members(*sandbox)) {
            auto gone = co_await containers_->remove(container->id, {.force = true, .volumes = options.volumes});
            if (!gone && gone.error().code() != Code::not_found && gone.error().code() != Code::conflict)
                co_return gone;
        }
    }
    const Mutex::Guard guard = co_await sandbox->operations.lock();
    if (sandbox->removed) co_return fail(Code::not_found, "No such sandbox: " + reference);
    if (const auto left = members(*sandbox); !left.empty()) {
        std::string names;
        for (const ContainerPtr& container : left) names += (names.empty() ? "" : ", ") + container->name;
        co_return fail(Code::conflict, "cannot remove sandbox " + sandbox->name + ": it has containers: " + names +
                                           ". Remove them first, or force the removal");
    }
    sandbox->removed = true;  // nobody joins any more
    if (sandbox->up) co_await take_down(sandbox);
    crash_point("sandbox.remove");
    if (auto done =
            co_await core_.journal->commit({store::Remove{.kind = std::string(sandbox_kind), .key = sandbox->id}});
        !done) {
        sandbox->removed = false;
        co_return std::unexpected(std::move(done).error());
    }
    crash_point("sandbox.removed");
    core_.sandboxes.remove(sandbox);
    publish(*sandbox, "destroy");
    std::ignore = co_await core_.pool.run([directory = paths(*sandbox).directory] { return remove_tree(directory); });
    co_return Result<>{};
}

}  // namespace wherry::engine
