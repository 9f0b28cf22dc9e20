// Looking at containers: inspect, list, top, stats, timings, prune.
#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "base/log.hpp"
#include "engine/container_service.hpp"
#include "engine/names.hpp"
#include "engine/network_views.hpp"
#include "engine/process_table.hpp"
#include "engine/times.hpp"
#include "net/network.hpp"
#include "oci/default_spec.hpp"

namespace wherry::engine {
namespace {

std::map<std::string, EndpointView> network_views(const Core& core, const Container& container) {
    const SandboxPtr sandbox = core.sandboxes.by_id(container.sandbox_id);
    const std::string& mode = sandbox ? sandbox->spec.network_mode : container.host_config().network_mode;
    std::map<std::string, EndpointView> views;
    if (mode.starts_with("container:")) return views;
    const std::optional<net::Endpoint>& endpoint = sandbox ? sandbox->endpoint : container.endpoint;
    EndpointView view;
    if (endpoint) view = endpoint_view(*endpoint);
    view.network_id = network_id(core, mode);
    if (container.is_running()) view.endpoint_id = network_id(core, mode + "/" + container.sandbox_id);
    for (const auto& [name, settings] : container.spec.networking.endpoints) {
        if (name == mode || name == "default") view.settings = settings;
    }
    view.aliases = view.settings.aliases;
    views.emplace(mode, std::move(view));
    return views;
}

std::vector<PublishedPort> shown_ports(const Core& core, const Container& container) {
    const SandboxPtr sandbox = core.sandboxes.by_id(container.sandbox_id);
    const std::vector<net::PublishedPort>& open = sandbox ? sandbox->ports : container.ports;
    std::vector<PublishedPort> ports;
    if (!sandbox || container.is_running()) ports = port_views(open);
    if (!container.is_running() || container.host_config().network_mode == "host") return ports;
    for (const std::string& exposed : container.config().exposed_ports) {
        const auto parsed = net::ContainerPort::parse(exposed);
        if (!parsed) continue;
        const bool published =
            std::ranges::any_of(open, [&](const net::PublishedPort& port) { return port.container == *parsed; });
        if (!published) {
            ports.push_back({.container_port = parsed->port,
                             .protocol = std::string(net::to_string(parsed->protocol)),
                             .host_ip = {},
                             .host_port = 0});
        }
    }
    return ports;
}

std::string status_text(const Container& container, WallTime now) {
    const auto ago = [&](WallTime since) {
        return human_duration(std::chrono::duration_cast<std::chrono::seconds>(now - since).count());
    };
    std::string text;
    switch (container.phase) {
        case Phase::running:
        case Phase::paused:
            text = "Up " + ago(container.started_at);
            if (container.phase == Phase::paused) return text + " (Paused)";
            if (container.health && container.health->status != "none") {
                text += container.health->status == "starting" ? " (health: starting)"
                                                               : " (" + container.health->status + ")";
            }
            return text;
        case Phase::restarting:
            return "Restarting (" + std::to_string(container.exit_code) + ") " + ago(container.finished_at) + " ago";
        case Phase::removing:
            return "Removal In Progress";
        case Phase::dead:
            return "Dead";
        case Phase::created:
        case Phase::starting:
            return "Created";
        case Phase::exited:
            break;
    }
    if (container.finished_at == WallTime{}) return "Created";
    return "Exited (" + std::to_string(container.exit_code) + ") " + ago(container.finished_at) + " ago";
}

std::string shown_state(const Container& container) {
    return std::string(to_string(container.phase == Phase::starting ? Phase::created : container.phase));
}

std::string command_text(const Container& container) {
    std::string text = container.path;
    for (const std::string& argument : container.args) text += " " + argument;
    return text;
}

struct Sizes {
    std::int64_t upper = 0;
    std::int64_t root = 0;
};

bool contains_any(const std::vector<std::string>& values, auto&& test) {
    return std::ranges::any_of(values, test);
}

}  // namespace

ContainerSummary ContainerService::summarize(const Container& container, WallTime now) const {
    ContainerSummary summary;
    summary.id = container.id;
    summary.name = container.name;
    summary.image = container.config().image;
    // A name that has moved on to another image no longer says what runs here. Many containers have the same image:
    // what was looked up last is remembered as long as nothing changes.
    if (resolved_revision_ != core_.revision || resolved_name_ != summary.image) {
        const auto resolved = core_.resolve_image(summary.image);
        resolved_name_ = summary.image;
        resolved_id_ = resolved ? *resolved : std::string();
        resolved_revision_ = core_.revision;
    }
    if (resolved_id_ != container.image_id) summary.image = container.image_id;
    summary.image_id = container.image_id;
    summary.command = command_text(container);
    summary.created = container.created;
    summary.state = shown_state(container);
    summary.status = status_text(container, now);
    summary.ports = shown_ports(core_, container);
    summary.labels = container.config().labels;
    summary.network_mode = container.host_config().network_mode;
    if (const SandboxPtr sandbox = sandbox_of(container)) summary.sandbox = sandbox->name;
    summary.networks = network_views(core_, container);
    summary.mounts = container.mounts;
    return summary;
}

asio::awaitable<Result<ContainerView>> ContainerService::inspect(std::string reference, bool with_size) {
    CO_TRY(const ContainerPtr found, core_.containers.find(reference));
    const Container& container = *found;
    ContainerView view;
    const ContainerPaths where = paths(container);
    view.id = container.id;
    view.name = container.name;
    view.created = container.created;
    view.path = container.path;
    view.args = container.args;
    view.state = {.status = shown_state(container),
                  .running = container.is_running() || container.phase == Phase::restarting,
                  .paused = container.phase == Phase::paused,
                  .restarting = container.phase == Phase::restarting,
                  .oom_killed = container.oom_killed,
                  .dead = container.phase == Phase::dead,
                  .pid = container.pid,
                  .exit_code = container.exit_code,
                  .error = container.error,
                  .started_at = container.started_at,
                  .finished_at = container.finished_at};
    view.health = container.health;
    view.image_id = container.image_id;
    view.resolv_conf_path = path_exists(where.resolv_conf) ? where.resolv_conf : "";
    view.hostname_path = view.resolv_conf_path.empty() ? "" : where.hostname;
    view.hosts_path = view.resolv_conf_path.empty() ? "" : where.hosts;
    view.log_path = container.host_config().log_config.type == "none" ? "" : where.log;
    view.restart_count = container.restart_count;
    view.platform = "linux";
    for (const auto& [id, exec] : container.execs) {
        if (exec->running) view.exec_ids.push_back(id);
    }
    view.config = container.config();
    view.host_config = container.host_config();
    if (!view.host_config.masked_paths) {
        view.host_config.masked_paths.emplace();
        view.host_config.readonly_paths.emplace();
        if (!container.host_config().privileged) {
            for (const std::string_view path : oci::default_masked_paths())
                view.host_config.masked_paths->emplace_back(path);
            for (const std::string_view path : oci::default_readonly_paths())
                view.host_config.readonly_paths->emplace_back(path);
        }
    }
    view.mounts = container.mounts;
    view.sandbox_id = container.sandbox_id;
    if (const SandboxPtr sandbox = sandbox_of(container)) view.sandbox = sandbox->name;
    view.networks = network_views(core_, container);
    view.ports = shown_ports(core_, container);
    if (auto root = core_.images->layers().root_filesystem(container.id, container.diff_ids)) {
        view.lower_directories = std::move(root->lowers);
        view.upper_directory = std::move(root->upper);
        view.work_directory = std::move(root->work);
    }
    if (with_size) {
        CO_TRY(const Sizes sizes, co_await core_.pool.run([this, found]() -> Result<Sizes> {
            Sizes result;
            result.upper = static_cast<std::int64_t>(TRY(core_.images->layers().upper_size(found->id)));
            result.root = result.upper;
            for (const std::string& layer : found->diff_ids)
                result.root += static_cast<std::int64_t>(TRY(core_.images->layers().info(layer)).size_bytes);
            return result;
        }));
        view.size_rw_bytes = sizes.upper;
        view.size_root_fs_bytes = sizes.root;
    }
    co_return view;
}

asio::awaitable<Result<std::vector<ContainerSummary>>> ContainerService::list(ListOptions options) {
    const Filters& filters = options.filters;
    CO_CHECK(check_filters(filters, {"ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation",
                                     "label", "name", "network", "publish", "sandbox", "since", "status", "volume"}));
    const auto values = [&](const char* key) -> const std::vector<std::string>* {
        const auto found = filters.find(key);
        return found == filters.end() || found->second.empty() ? nullptr : &found->second;
    };
    ContainerPtr before;
    ContainerPtr since;
    if (const auto* names = values("before")) {
        CO_TRY(before, core_.containers.find(names->back()));
    }
    if (const auto* names = values("since")) {
        CO_TRY(since, core_.containers.find(names->back()));
    }
    if (const auto* states = values("status")) {
        for (const std::string& state : *states) {
            if (!parse_phase(state) || state == "starting")
                co_return fail(Code::invalid_argument, "invalid filter 'status=" + state + "'");
        }
    }
    if (const auto* codes = values("exited")) {
        for (const std::string& code : *codes) {
            int number = 0;
            const auto [end, error] = std::from_chars(code.data(), code.data() + code.size(), number);
            if (error != std::errc{} || end != code.data() + code.size())
                co_return fail(Code::invalid_argument, "invalid filter 'exited=" + code + "'");
        }
    }
    std::vector<std::string> ancestors;
    if (const auto* images = values("ancestor")) {
        for (const std::string& image : *images) {
            if (auto id = core_.resolve_image(image)) ancestors.push_back(*id);
        }
    }
    const WallTime now = wall_now();
    const bool every_state =
        options.all || options.limit > 0 || values("status") != nullptr || values("exited") != nullptr;
    std::vector<ContainerSummary> result;
    std::vector<ContainerPtr> containers = core_.containers.all();
    std::ranges::reverse(containers);  // the newest first
    for (const ContainerPtr& container : containers) {
        if (!every_state && !container->is_running() && container->phase != Phase::restarting) continue;
        if (before && std::tie(container->created, container->id) >= std::tie(before->created, before->id)) continue;
        if (since && std::tie(container->created, container->id) <= std::tie(since->created, since->id)) continue;
        bool good = true;
        if (const auto* wanted = values("status"))
            good =
                good && contains_any(*wanted, [&](const std::string& one) { return one == shown_state(*container); });
        if (const auto* wanted = values("id"))
            good =
                good && contains_any(*wanted, [&](const std::string& one) { return container->id.starts_with(one); });
        if (const auto* wanted = values("name"))
            good = good &&
                   contains_any(*wanted, [&](const std::string& one) { return name_matches(container->name, one); });
        if (const auto* wanted = values("label")) good = good && labels_match(container->config().labels, *wanted);
        if (const auto* wanted = values("exited"))
            good = good && container->phase == Phase::exited && contains_any(*wanted, [&](const std::string& one) {
                       return one == std::to_string(container->exit_code);
                   });
        if (values("ancestor") != nullptr)
            good = good && contains_any(ancestors, [&](const std::string& one) { return one == container->image_id; });
        if (const auto* wanted = values("volume")) {
            good = good && contains_any(*wanted, [&](const std::string& one) {
                       return std::ranges::any_of(container->mounts, [&](const MountPoint& mount) {
                           return mount.name == one || mount.destination == one;
                       });
                   });
        }
        if (const auto* wanted = values("network")) {
            good = good && contains_any(*wanted, [&](const std::string& one) {
                       const std::string& mode = container->host_config().network_mode;
                       return one == mode || network_id(core_, mode) == one;
                   });
        }
        if (const auto* wanted = values("sandbox")) {
            const SandboxPtr sandbox = sandbox_of(*container);
            good = good && sandbox && contains_any(*wanted, [&](const std::string& one) {
                       return one == sandbox->name || (!one.empty() && sandbox->id.starts_with(one));
                   });
        }
        if (const auto* wanted = values("health")) {
            good = good && contains_any(*wanted, [&](const std::string& one) {
                       return container->health ? container->health->status == one : one == "none";
                   });
        }
        if (const auto* wanted = values("expose")) {
            good = good && contains_any(*wanted, [&](const std::string& one) {
                       return container->config().exposed_ports.contains(one.contains('/') ? one : one + "/tcp");
                   });
        }
        if (const auto* wanted = values("publish")) {
            good = good && contains_any(*wanted, [&](const std::string& one) {
                       const auto port = net::ContainerPort::parse(one);
                       return port && std::ranges::any_of(container->ports, [&](const net::PublishedPort& published) {
                                  return published.container == *port;
                              });
                   });
        }
        if (!good) continue;
        result.push_back(summarize(*container, now));
        if (options.limit > 0 && result.size() >= static_cast<std::size_t>(options.limit)) break;
    }
    if (options.size) {
        for (ContainerSummary& summary : result) {
            if (auto view = co_await inspect(summary.id, true)) {
                summary.size_rw_bytes = view->size_rw_bytes;
                summary.size_root_fs_bytes = view->size_root_fs_bytes;
            }
        }
    }
    co_return result;
}

asio::awaitable<Result<TopResult>> ContainerService::top(std::string reference, std::string ps_arguments) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    const auto not_running = [&] { return fail(Code::conflict, "container " + container->id + " is not running"); };
    if (!container->is_running() || container->pid == 0) co_return not_running();
    if (container->phase == Phase::restarting)
        co_return fail(Code::conflict,
                       "container " + reference + " is restarting, wait until the container is running");
    const std::string cgroup = spec_input(*container).cgroup_parent + "/" + container->id;
    auto listed = co_await core_.pool.run(
        [cgroup, arguments = std::move(ps_arguments)] { return list_processes(cgroup, arguments); });
    // It can have ended, and the news be on its way.
    if (listed ? listed->processes.empty() : listed.error().code() == Code::not_found) co_return not_running();
    co_return listed;
}

asio::awaitable<Result<std::vector<Timing>>> ContainerService::timings(std::string reference) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    co_return container->timings;
}

}  // namespace wherry::engine
