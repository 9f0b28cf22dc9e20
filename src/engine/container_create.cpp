#include <algorithm>

#include "base/id.hpp"
#include "base/log.hpp"
#include "engine/container_service.hpp"
#include "engine/crash_point.hpp"
#include "engine/mounts.hpp"
#include "engine/names.hpp"
#include "engine/validate.hpp"
#include "image/model.hpp"

namespace wherry::engine {
namespace {

Result<> check_platform(const std::string& platform) {
    if (platform.empty()) return {};
    const image::Platform host = image::host_platform();
    image::Platform wanted;
    const std::size_t slash = platform.find('/');
    wanted.os = platform.substr(0, slash);
    if (slash != std::string::npos) {
        const std::size_t second = platform.find('/', slash + 1);
        wanted.architecture = platform.substr(slash + 1, second == std::string::npos ? second : second - slash - 1);
        if (second != std::string::npos) wanted.variant = platform.substr(second + 1);
    } else {
        wanted.architecture = host.architecture;
    }
    if (wanted.os != host.os || wanted.architecture != host.architecture) {
        return fail(Code::invalid_argument, "image platform (" + platform + ") does not match the host's (" + host.os +
                                                "/" + host.architecture + ")");
    }
    return {};
}

}  // namespace

Result<ContainerPtr> ContainerService::shared_container(const std::string& mode) const {
    const std::string reference = mode.substr(std::string_view("container:").size());
    return core_.containers.find(reference);
}

// container:<name> becomes container:<id>, so that a rename does not matter.
Result<> ContainerService::resolve_shared_namespaces(ContainerSpec& spec) const {
    HostConfig& host = spec.host_config;
    for (std::string* mode : {&host.network_mode, &host.pid_mode, &host.ipc_mode, &host.uts_mode}) {
        if (!mode->starts_with("container:")) continue;
        const ContainerPtr other = TRY(shared_container(*mode));
        *mode = "container:" + other->id;
    }
    const std::string network = host.network_mode;
    if (is_sandbox_mode(network)) {
        const SandboxPtr sandbox = TRY(core_.sandboxes.find(network.substr(sandbox_mode_prefix.size())));
        host.network_mode = std::string(sandbox_mode_prefix) + sandbox->id;
    } else if (network == "bridge" && core_.options.bridge_name == "none") {
        return fail(Code::not_found, "network bridge not found: this daemon runs with --bridge none");
    }
    if (!is_sandbox_mode(network) && network != "bridge" && network != "host" && network != "none" &&
        !network.starts_with("container:")) {
        if (network == network_id(core_, "bridge") ||
            (network.size() >= 3 && network_id(core_, "bridge").starts_with(network))) {
            host.network_mode = "bridge";
        } else {
            return fail(Code::not_found, "network " + network + " not found");
        }
    }
    for (const auto& [name, endpoint] : spec.networking.endpoints) {
        if (name != host.network_mode && name != network && name != "default" &&
            !(name == network_id(core_, "bridge"))) {
            return fail(Code::invalid_argument,
                        "Container cannot be connected to network endpoints: " + host.network_mode + ", " + name);
        }
        if (!endpoint.ipv4_address.empty() || !endpoint.ipv6_address.empty()) {
            return fail(Code::invalid_argument, "user specified IP address is supported on user defined networks only");
        }
    }
    return {};
}

Result<std::vector<MountPoint>> ContainerService::inherited_mounts(const HostConfig& host_config) const {
    std::vector<MountPoint> inherited;
    for (const std::string& text : host_config.volumes_from) {
        const std::size_t colon = text.find(':');
        const std::string mode = colon == std::string::npos ? "" : text.substr(colon + 1);
        if (!mode.empty() && mode != "rw" && mode != "ro" && mode != "z" && mode != "Z") {
            return fail(Code::invalid_argument, "invalid volume specification: '" + text + "': invalid mode: " + mode);
        }
        const ContainerPtr other = TRY(core_.containers.find(text.substr(0, colon)));
        for (MountPoint point : other->mounts) {
            if (mode == "ro") point.read_write = false;
            inherited.push_back(std::move(point));
        }
    }
    return inherited;
}

asio::awaitable<Result<>> ContainerService::make_mounts(const ContainerPtr& container,
                                                        std::vector<std::string>& made_volumes) {
    CO_TRY(std::vector<MountPoint> inherited, inherited_mounts(container->host_config()));
    CO_TRY(std::vector<PlannedMount> planned, plan_mounts(container->config(), container->host_config(), inherited));
    struct Filling {
        std::string path;
        std::string target;
    };
    std::vector<Filling> to_fill;
    for (PlannedMount& mount : planned) {
        MountPoint point = mount.point;
        if (point.type == "bind") {
            if (mount.make_source) {
                CO_CHECK(make_directories(point.source, 0755), "creating mount source path '" + point.source + "'");
            } else if (!path_exists(point.source)) {
                co_return fail(
                    Code::invalid_argument,
                    "invalid mount config for type \"bind\": bind source path does not exist: " + point.source);
            }
        } else if (point.type == "volume") {
            Volume volume;
            volume.anonymous = mount.anonymous;
            volume.name = mount.anonymous ? make_id() : point.name;
            volume.created = wall_now();
            volume.labels = mount.volume_options.labels;
            volume.options = mount.volume_options.driver_options;
            point.name = volume.name;
            point.source = core_.volume_data(volume.name);
            if (mount.anonymous) container->anonymous_volumes.push_back(volume.name);
            CO_TRY(const VolumeService::Made made, co_await volumes_.ensure(volume));
            if (made == VolumeService::Made::now) made_volumes.push_back(volume.name);
            if (mount.populate && made == VolumeService::Made::now) {
                to_fill.push_back({.path = point.destination, .target = point.source});
            }
            const std::string& subpath = mount.volume_options.subpath;
            if (!subpath.empty()) {
                // Resolved inside the volume: a symlink in it leads nowhere else.
                CO_TRY(const Fd volume_root, open_file(point.source, O_PATH | O_DIRECTORY));
                CO_TRY(const Fd inside, open_in_root(volume_root.get(), subpath, O_PATH),
                       "subpath " + subpath + " of volume " + volume.name);
                point.source += "/" + subpath;
            }
        }
        container->mounts.push_back(std::move(point));
    }
    if (!to_fill.empty()) {
        CO_CHECK(co_await core_.pool.run([this, container, to_fill]() -> Result<> {
            const Fd root =
                TRY(core_.images->layers().open_root(container->id, container->diff_ids, image::RootAccess::read_only));
            for (const Filling& one : to_fill)
                TRY(populate_volume(root.get(), one.path, one.target), "filling the volume at " + one.path);
            return {};
        }));
    }
    co_return Result<>{};
}

asio::awaitable<Result<CreateResult>> ContainerService::create(CreateRequest request) {
    if (core_.gate.closing()) co_return fail(Code::unavailable, "the daemon is shutting down");
    CO_CHECK(check_platform(request.platform));
    auto container = std::make_shared<Container>();
    container->id = make_id();
    container->sandbox_id = container->id;
    container->created = wall_now();
    container->spec = std::move(request.spec);
    Config& config = container->spec.config;

    if (!request.name.empty()) {
        container->name = request.name.starts_with('/') ? request.name.substr(1) : request.name;
        CO_CHECK(check_container_name(container->name));
        CO_CHECK(core_.containers.reserve_name(container->name, container->id));
    } else {
        for (unsigned attempt = 0;; ++attempt) {
            container->name = make_name(attempt);
            if (core_.containers.reserve_name(container->name, container->id)) break;
        }
    }
    // From here on the name is ours until the container is in the table.
    struct Reservation {
        ContainerTable* table;
        std::string name;
        ~Reservation() {
            if (table != nullptr) table->release_name(name);
        }
    } reservation{.table = &core_.containers, .name = container->name};

    CO_TRY(container->image_id, core_.resolve_image(config.image));
    CO_TRY(const image::Image image,
           co_await core_.pool.run([this, id = container->image_id] { return core_.images->image(id); }));
    CO_CHECK(merge_image_config(config, image.config.config));
    container->diff_ids = image.config.diff_ids;
    const Defaults defaults{.log_config = core_.options.log_config,
                            .ulimits = core_.options.default_ulimits,
                            .unified_cgroups = core_.unified_cgroups,
                            .network = core_.options.bridge_name == "none" ? "none" : "bridge"};
    CO_TRY(Strings warnings, check_and_complete(container->spec, defaults));
    // What is not found here is not the image: with 404 clients would go and pull it.
    if (auto resolved = resolve_shared_namespaces(container->spec); !resolved) {
        co_return std::unexpected(std::move(resolved).error().with_code(Code::invalid_argument));
    }
    if (auto inherited = inherited_mounts(container->host_config()); !inherited) {
        co_return std::unexpected(std::move(inherited).error().with_code(Code::invalid_argument));
    }
    if (is_sandbox_mode(container->host_config().network_mode))
        container->sandbox_id = container->host_config().network_mode.substr(sandbox_mode_prefix.size());
    if (config.hostname.empty()) config.hostname = hostname_of(*container);

    Strings command = config.entrypoint.value_or(Strings{});
    if (config.cmd) command.insert(command.end(), config.cmd->begin(), config.cmd->end());
    container->path = command.front();
    container->args.assign(command.begin() + 1, command.end());

    std::vector<std::string> made_volumes;
    Result<> made = co_await core_.pool.run([this, container]() -> Result<> {
        TRY(core_.images->layers().prepare(container->id, container->diff_ids));
        return {};
    });
    crash_point("create.prepared");
    if (made) made = co_await make_mounts(container, made_volumes);
    crash_point("create.mounts");
    if (made) {
        // With the records of the volumes that were made for it: both are there after a crash, or neither.
        store::Transaction transaction{store::Create{to_record(*container)}};
        std::vector<std::string> names;
        for (const MountPoint& mount : container->mounts) {
            if (mount.type == "volume") names.push_back(mount.name);
        }
        volumes_.take_unwritten(names, transaction);
        auto written = co_await core_.journal->commit(std::move(transaction));
        if (!written) made = std::unexpected(std::move(written).error());
    }
    crash_point("create.written");
    if (!made) {
        // Nothing of it stays: not the writable layer, not the volumes that were made for it.
        for (const std::string& name : made_volumes) co_await volumes_.forget(name);
        std::ignore =
            co_await core_.pool.run([this, id = container->id] { return core_.images->layers().remove_container(id); });
        co_return std::unexpected(std::move(made).error());
    }
    if (const SandboxPtr sandbox = sandbox_of(*container);
        container->sandbox_id != container->id && (!sandbox || sandbox->removed)) {
        // Removed while this was made.
        for (const std::string& name : made_volumes) co_await volumes_.forget(name);
        core_.journal->post({store::Remove{.kind = std::string(container_kind), .key = container->id}});
        std::ignore =
            co_await core_.pool.run([this, id = container->id] { return core_.images->layers().remove_container(id); });
        co_return fail(Code::conflict, "the sandbox was removed meanwhile");
    }
    core_.containers.add(container);
    reservation.table = nullptr;
    core_.publish(*container, "create");
    co_return CreateResult{.id = container->id, .warnings = std::move(warnings)};
}

}  // namespace wherry::engine
