#include "engine/engine.hpp"

#include <fcntl.h>
#include <malloc.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>
#include <utility>

#include "base/id.hpp"
#include "base/log.hpp"
#include "confine/cgroup.hpp"
#include "engine/container_service.hpp"
#include "engine/core.hpp"
#include "engine/denials.hpp"
#include "engine/image_service.hpp"
#include "engine/name_publisher.hpp"
#include "engine/network_service.hpp"
#include "engine/sandbox_service.hpp"
#include "engine/volume_service.hpp"
#include "store/sqlite_store.hpp"

namespace wherry::engine {
namespace {

constexpr unsigned pool_threads = 6;
constexpr std::chrono::seconds firewall_check_interval{5};

std::string own_directory() {
    std::error_code ignored;
    return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path().string();
}

// Beside the daemon, or where an installation puts helpers.
std::string find_helper(const std::string& given, const std::string& name) {
    if (!given.empty()) return given;
    const std::string directory = own_directory();
    for (const std::string& candidate : {directory + "/" + name, directory + "/../libexec/wherry/" + name}) {
        if (::access(candidate.c_str(), X_OK) == 0) return candidate;
    }
    return directory + "/" + name;
}

// "PRETTY_NAME" of os-release(5).
std::string os_release(std::string_view key) {
    for (const char* path : {"/etc/os-release", "/usr/lib/os-release"}) {
        const auto text = read_file(path);
        if (!text) continue;
        std::istringstream lines(*text);
        for (std::string line; std::getline(lines, line);) {
            if (!line.starts_with(std::string(key) + "=")) continue;
            std::string value = line.substr(key.size() + 1);
            if (value.size() >= 2 && value.front() == '"') value = value.substr(1, value.size() - 2);
            return value;
        }
    }
    return "Linux";
}

bool flag_file(const char* path) {
    const auto text = read_file(path);
    return text && text->starts_with('1');
}

class EngineImpl final : public Engine {
  public:
    explicit EngineImpl(EngineOptions options)
        : core_(std::move(options), pool_threads),
          volumes_(core_),
          sandboxes_(core_),
          containers_(core_, volumes_, sandboxes_),
          images_(core_),
          networks_(core_),
          denials_(core_) {
        sandboxes_.use(containers_);
    }

    ~EngineImpl() override { core_.pool.join(); }

    asio::awaitable<Result<>> open();

    Containers& containers() override { return containers_; }
    Images& images() override { return images_; }
    Volumes& volumes() override { return volumes_; }
    Networks& networks() override { return networks_; }
    Sandboxes& sandboxes() override { return sandboxes_; }
    EventBus& events() override { return core_.events; }
    asio::awaitable<Result<SystemInfo>> info() override;
    SystemVersion version() const override;
    asio::awaitable<Result<DiskUsage>> disk_usage() override;
    void reload(EngineOptions options) override;
    asio::awaitable<void> close() override;

  private:
    Result<> open_blocking();
    Result<> read_records();
    asio::awaitable<void> keep_firewall();

    Core core_;
    VolumeService volumes_;
    SandboxService sandboxes_;
    ContainerService containers_;
    ImageService images_;
    NetworkService networks_;
    DenialLog denials_;
    std::unique_ptr<NamePublisher> names_;
    Signal closing_;
};

Result<> EngineImpl::open_blocking() {
    EngineOptions& options = core_.options;
    options.shim_path = find_helper(options.shim_path, "wherry-shim");
    options.unpack_path = find_helper(options.unpack_path, "wherry-unpack");
    for (const std::string& path : {options.data_root, options.data_root + "/containers",
                                    options.data_root + "/volumes", options.data_root + "/removed"})
        TRY(make_directories(path, 0711));
    for (const std::string& path : {options.exec_root, options.exec_root + "/sandboxes"})
        TRY(make_directories(path, 0711));
    core_.root_lock = TRY(open_file(options.data_root + "/lock", O_RDWR | O_CREAT, 0600));
    if (::flock(core_.root_lock.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
            return fail(Code::unavailable, "another daemon uses the data root " + options.data_root);
        return fail_errno("locking " + options.data_root);
    }
    core_.store = TRY(store::open_sqlite_store({.path = options.data_root + "/store.db"}));
    core_.images = TRY(image::ImageStore::open({.data_root = options.data_root,
                                                .unpack_program = options.unpack_path,
                                                .limits = {.max_bytes = options.max_layer_bytes}}));
    core_.seccomp =
        std::make_unique<confine::SeccompCache>(TRY(confine::SeccompCache::open(options.exec_root + "/seccomp")));
    const confine::CgroupSystem* cgroups = TRY(confine::CgroupSystem::of_this_host());
    core_.unified_cgroups = cgroups->mode() == confine::CgroupMode::v2;

    // One table of rules for each daemon on the host, told apart by the bridge.
    const std::string table = options.bridge_name == "wherry0" ? "wherry" : "wherry-" + options.bridge_name;
    core_.network = TRY(net::NetworkManager::open({.table = table}), "network");
    if (options.bridge_name == "none") return read_records();
    net::BridgeOptions bridge;
    bridge.name = options.bridge_name;
    bridge.mtu = static_cast<unsigned>(options.mtu);
    if (!options.bridge_address.empty()) {
        const net::IpPrefix given = TRY(net::IpPrefix::parse(options.bridge_address), "--bip");
        bridge.subnet = given.network();
        if (given.address != given.network().address) bridge.gateway = given.address;
    }
    core_.bridge = TRY(core_.network->ensure_bridge(bridge), "bridge " + bridge.name);
    return read_records();
}

Result<> EngineImpl::read_records() {
    const store::Listing listing = TRY(core_.store->list({}));
    for (const store::Record& record : listing.records) {
        if (record.kind == container_kind) {
            auto container = container_from_record(record);
            if (!container) {
                log_error("container.unreadable", {{"id", record.key}, {"error", container.error()}});
                continue;
            }
            if (!core_.containers.reserve_name((*container)->name, record.key)) {
                (*container)->name += "-" + record.key.substr(0, 12);
                std::ignore = core_.containers.reserve_name((*container)->name, record.key);
            }
            core_.containers.add(std::move(*container));
        } else if (record.kind == volume_kind) {
            auto volume = volume_from_record(record);
            if (volume) core_.volumes.emplace(record.key, std::move(*volume));
        } else if (record.kind == removed_kind) {
            auto one = kept_from_record(record);
            if (one)
                core_.kept.emplace(record.key, std::move(*one));
            else
                log_error("removed_container.unreadable", {{"id", record.key}, {"error", one.error()}});
        } else if (record.kind == sandbox_kind) {
            auto sandbox = sandbox_from_record(record);
            if (!sandbox) {
                log_error("sandbox.unreadable", {{"id", record.key}, {"error", sandbox.error()}});
                continue;
            }
            if (core_.sandboxes.reserve_name((*sandbox)->name, record.key)) core_.sandboxes.add(std::move(*sandbox));
        } else if (record.kind == image_name_kind) {
            const json::object spec = TRY(parse_json_object(record.spec));
            core_.image_names[record.key] = TRY(JsonReader(spec).string_or("id", ""));
        } else if (record.kind == image_kind) {
            core_.known_images.insert(record.key);
        } else if (record.kind == "daemon") {
            core_.id = record.key;
        }
    }
    if (core_.id.empty()) {
        core_.id = make_id();
        store::Record record;
        record.kind = "daemon";
        record.key = core_.id;
        record.spec = record.status = "{}";
        TRY(core_.store->create(std::move(record)));
    }
    return {};
}

asio::awaitable<Result<>> EngineImpl::open() {
    CO_CHECK(co_await core_.pool.run([this] { return open_blocking(); }));
    core_.journal = std::make_unique<Journal>(core_.executor, *core_.store);
    CO_CHECK(co_await images_.reconcile(), "images");
    CO_CHECK(co_await containers_.reconcile(), "reconciling");
    co_await volumes_.sweep();
    containers_.apply_restart_policies();
    core_.gate.spawn(keep_firewall());
    core_.gate.spawn(containers_.expire_kept());
    if (!core_.options.names.server.empty()) {
        CO_TRY(names_, NamePublisher::create(core_, core_.options.names), "names of workloads");
        core_.gate.spawn(names_->run());
    }
    denials_.start();
    ::malloc_trim(0);
    co_return Result<>{};
}

asio::awaitable<void> EngineImpl::keep_firewall() {
    std::uint64_t seen = 0;
    while (!core_.gate.closing()) {
        co_await closing_.wait(Signal::Clock::now() + firewall_check_interval);
        if (core_.gate.closing()) co_return;
        if (std::exchange(seen, core_.activity) != core_.activity) {
            // What a burst of work took is given back: the daemon idles most of its life.
            core_.pool.post([] { ::malloc_trim(0); });
        }
        if (auto checked = co_await core_.pool.run([this] { return core_.network->recheck(); }); !checked) {
            log_warn("network.recheck_failed", {{"error", checked.error()}});
        }
    }
}

asio::awaitable<Result<SystemInfo>> EngineImpl::info() {
    SystemInfo info;
    const EngineOptions& options = core_.options;
    info.id = core_.id;
    utsname names{};
    ::uname(&names);
    info.name = names.nodename;
    info.kernel_version = names.release;
    info.architecture = names.machine;
    for (const ContainerPtr& container : core_.containers.all()) {
        ++info.containers;
        if (container->phase == Phase::paused)
            ++info.containers_paused;
        else if (container->phase == Phase::running)
            ++info.containers_running;
        else
            ++info.containers_stopped;
    }
    CO_TRY(const std::vector<ImageSummary> images, co_await images_.list({}));
    info.images = static_cast<std::int64_t>(images.size());
    info.driver = "overlayfs";
    info.docker_root_dir = options.data_root;
    info.operating_system = os_release("PRETTY_NAME");
    info.os_version = os_release("VERSION_ID");
    info.cpus = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
    info.memory_bytes = ::sysconf(_SC_PHYS_PAGES) * ::sysconf(_SC_PAGESIZE);
    info.cgroup_driver = "cgroupfs";
    info.cgroup_version = core_.unified_cgroups ? "2" : "1";
    info.security_options = {"name=seccomp,profile=builtin"};
    if (core_.unified_cgroups) info.security_options.emplace_back("name=cgroupns");
    info.labels = options.labels;
    info.insecure_registries = options.registry.insecure_registries;
    if (const auto hub = options.registry.mirrors.find("docker.io"); hub != options.registry.mirrors.end())
        info.registry_mirrors = hub->second;
    info.logging_driver = options.log_config.type;
    info.runtimes = {"wherry"};
    info.default_runtime = "wherry";
    info.log_drivers = {"json-file", "local", "none"};
    info.network_drivers = {"bridge", "host", "null"};
    info.volume_drivers = {"local"};
    info.ipv4_forwarding = flag_file("/proc/sys/net/ipv4/ip_forward");
    info.bridge_nf_iptables = flag_file("/proc/sys/net/bridge/bridge-nf-call-iptables");
    info.bridge_nf_ip6tables = flag_file("/proc/sys/net/bridge/bridge-nf-call-ip6tables");
    info.debug = options.debug;
    std::error_code ignored;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", ignored))
        ++info.file_descriptors;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/task", ignored))
        ++info.threads;
    info.event_listeners = static_cast<int>(core_.events.subscribers());
    info.system_time = wall_now();
    co_return info;
}

SystemVersion EngineImpl::version() const {
    utsname names{};
    ::uname(&names);
    return {.version = WHERRY_VERSION,
            .api_version = "1.47",
            .minimum_api_version = "1.24",
            .git_commit = {},
            .build_time = {},
            .os = "linux",
            .architecture = std::string_view(names.machine) == "aarch64" ? "arm64" : "amd64",
            .kernel_version = names.release};
}

asio::awaitable<Result<DiskUsage>> EngineImpl::disk_usage() {
    DiskUsage usage;
    CO_TRY(usage.images, co_await images_.usage());
    CO_TRY(usage.removed, co_await containers_.list_removed(true));
    CO_TRY(usage.containers, co_await containers_.list({.all = true, .size = true, .filters = {}}));
    CO_TRY(usage.volumes, co_await volumes_.list({}));
    for (VolumeView& volume : usage.volumes) {
        if (auto size = co_await core_.pool.run([path = volume.mountpoint] { return tree_size(path); }))
            volume.size_bytes = *size;
    }
    CO_TRY(const std::vector<image::LayerInfo> layers,
           co_await core_.pool.run([this] { return core_.images->layers().list(); }));
    for (const image::LayerInfo& layer : layers) usage.layers_bytes += static_cast<std::int64_t>(layer.size_bytes);
    co_return usage;
}

void EngineImpl::reload(EngineOptions options) {
    core_.options.labels = std::move(options.labels);
    core_.options.debug = options.debug;
    core_.options.undelete_period = options.undelete_period;
    core_.options.registry = std::move(options.registry);
    core_.options.max_concurrent_downloads = options.max_concurrent_downloads;
    core_.options.max_concurrent_uploads = options.max_concurrent_uploads;
    core_.options.max_download_attempts = options.max_download_attempts;
    core_.kept_changed.notify_all();  // some may have to go sooner
    utsname names{};
    ::uname(&names);
    json::array labels(core_.options.labels.begin(), core_.options.labels.end());
    core_.publish("daemon", "reload", core_.id,
                  {{"name", names.nodename},
                   {"debug", core_.options.debug ? "true" : "false"},
                   {"max-concurrent-downloads", std::to_string(core_.options.max_concurrent_downloads)},
                   {"max-concurrent-uploads", std::to_string(core_.options.max_concurrent_uploads)},
                   {"labels", to_json(json::value(std::move(labels)))},
                   {"undelete-period", std::to_string(core_.options.undelete_period.count()) + "s"}});
}

asio::awaitable<void> EngineImpl::close() {
    core_.events.close();
    images_.close();
    containers_.close();
    sandboxes_.close();
    denials_.stop();
    if (names_) names_->close();
    closing_.notify_all();
    co_await core_.gate.close();  // the journal writes what is queued when it is destroyed
}

}  // namespace

asio::awaitable<Result<std::unique_ptr<Engine>>> Engine::create(EngineOptions options) {
    auto engine = std::make_unique<EngineImpl>(std::move(options));
    if (auto opened = co_await engine->open(); !opened) {
        co_await engine->close();  // what it had started uses it
        co_return std::unexpected(std::move(opened).error());
    }
    co_return std::unique_ptr<Engine>(std::move(engine));
}

}  // namespace wherry::engine
