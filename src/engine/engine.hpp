// The engine: everything a user can do with images, containers, volumes and networks of one host, behind plain
// asynchronous calls. Any protocol (Docker's API first) is a thin translation of these.
//
// Threading: the engine lives on one event loop, `EngineOptions::executor`, run by one thread; every call is made there
// and no call blocks it: disk, image and network work happens on the engine's own small pool. Operations on one
// container follow each other; operations on different ones run side by side.
//
//     Result<std::unique_ptr<Engine>> engine = co_await Engine::create(options);   // reconciles
//     CO_TRY(auto created, co_await engine->containers().create({.name = "web", .spec = spec}));
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "engine/containers.hpp"
#include "engine/events.hpp"
#include "engine/images.hpp"
#include "engine/networks.hpp"
#include "engine/sandboxes.hpp"
#include "engine/volumes.hpp"
#include "image/registry/location.hpp"

namespace wherry::engine {

// Where the names of workloads are published (label wherry.dns); nowhere without a server.
struct NameOptions {
    std::string server;  // "192.0.2.1:53"
    std::string zone;
    std::string key_file;  // with [ALGORITHM:]NAME:SECRET
    std::string address;   // published for every container; empty: each one's own
    std::uint32_t ttl = 5;
};

struct EngineOptions {
    asio::any_io_executor executor;
    std::string data_root = "/var/lib/wherry";
    std::string exec_root = "/run/wherry";
    std::string shim_path;    // empty: wherry-shim beside the running program, or in ../libexec/wherry
    std::string unpack_path;  // likewise wherry-unpack
    std::string bridge_name = "wherry0";
    std::string bridge_address;  // --bip, "10.88.0.1/16"; empty: a free private subnet
    int mtu = 1500;
    std::string cgroup_parent = "/wherry";
    LogConfig log_config{.type = "json-file", .config = {}};
    std::vector<Ulimit> default_ulimits;
    Strings dns;
    Strings dns_options;
    Strings dns_search;
    Strings labels;  // of the daemon
    bool debug = false;
    image::RegistryConfig registry;
    unsigned max_concurrent_downloads = 3;  // layers of one pull
    unsigned max_concurrent_uploads = 5;
    unsigned max_download_attempts = 5;
    std::uint64_t max_layer_bytes = 256ULL << 30U;  // of a layer once decompressed
    NameOptions names;
    // How long the writable layer of a removed container is kept; 0: not at all.
    std::chrono::seconds undelete_period{600};
};

struct SystemInfo {
    std::string id;
    std::string name;  // the host's
    std::int64_t containers = 0;
    std::int64_t containers_running = 0;
    std::int64_t containers_paused = 0;
    std::int64_t containers_stopped = 0;
    std::int64_t images = 0;
    std::string driver;  // "overlayfs"
    std::string docker_root_dir;
    std::string kernel_version;
    std::string operating_system;
    std::string os_version;
    std::string architecture;  // "x86_64"
    int cpus = 0;
    std::int64_t memory_bytes = 0;
    std::string cgroup_driver;   // "cgroupfs"
    std::string cgroup_version;  // "1" or "2"
    Strings security_options;
    Strings warnings;
    Strings labels;
    Strings insecure_registries;
    Strings registry_mirrors;  // of Docker Hub
    std::string logging_driver;
    Strings runtimes;
    std::string default_runtime;
    Strings log_drivers;
    Strings network_drivers;
    Strings volume_drivers;
    bool memory_limit = true;
    bool swap_limit = true;
    bool cpu_quota = true;
    bool cpu_set = true;
    bool cpu_shares = true;
    bool pids_limit = true;
    bool oom_kill_disable = true;
    bool ipv4_forwarding = true;
    bool bridge_nf_iptables = false;
    bool bridge_nf_ip6tables = false;
    bool debug = false;
    int file_descriptors = 0;
    int threads = 0;
    int event_listeners = 0;
    WallTime system_time;
    bool live_restore = true;  // always
};

struct SystemVersion {
    std::string version;      // wherry's
    std::string api_version;  // newest of Docker's API
    std::string minimum_api_version;
    std::string git_commit;
    std::string build_time;
    std::string os;            // "linux"
    std::string architecture;  // Go's name: "amd64"
    std::string kernel_version;
};

struct DiskUsage {
    std::int64_t layers_bytes = 0;
    std::vector<ImageSummary> images;
    std::vector<ContainerSummary> containers;
    std::vector<VolumeView> volumes;
    std::vector<RemovedContainer> removed;
};

class Engine {
  public:
    // Opens or makes the roots (unavailable when another daemon holds data_root), the store, the images and the
    // network, and reconciles: when this returns, what is written and what is there agree.
    static asio::awaitable<Result<std::unique_ptr<Engine>>> create(EngineOptions options);
    virtual ~Engine() = default;

    virtual Containers& containers() = 0;
    virtual Images& images() = 0;
    virtual Volumes& volumes() = 0;
    virtual Networks& networks() = 0;
    virtual Sandboxes& sandboxes() = 0;
    virtual EventBus& events() = 0;

    virtual asio::awaitable<Result<SystemInfo>> info() = 0;
    virtual SystemVersion version() const = 0;
    virtual asio::awaitable<Result<DiskUsage>> disk_usage() = 0;

    // What a running daemon takes over from its configuration when it is told to (SIGHUP): labels, debug,
    // undelete_period, and what concerns registries. The rest of the options is not looked at.
    virtual void reload(EngineOptions options) = 0;

    // Lets go: no new work, streams end, what is under way is finished. Containers go on under their shims.
    virtual asio::awaitable<void> close() = 0;
};

}  // namespace wherry::engine
