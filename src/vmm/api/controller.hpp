// What the API acts on: the configuration before the start, the machine after it. Lives on the device thread; every
// function either does the whole thing or nothing, and says why.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "base/json.hpp"
#include "base/result.hpp"
#include "vmm/api/snapshot.hpp"
#include "vmm/core/event_loop.hpp"
#include "vmm/core/exit_code.hpp"
#include "vmm/core/logger.hpp"
#include "vmm/core/metrics.hpp"
#include "vmm/machine/config.hpp"
#include "vmm/machine/machine.hpp"
#include "vmm/mmds/service.hpp"

namespace wherry::vmm::api {

// Partial changes: what is not there stays.
struct MachinePatch {
    std::optional<std::uint32_t> vcpu_count;
    std::optional<std::uint64_t> mem_size_mib;
    std::optional<bool> smt;
    std::optional<bool> track_dirty_pages;
    std::optional<HugePages> huge_pages;
    std::optional<x86_64::StaticTemplate> cpu_template;
};

struct DrivePatch {
    std::string id;
    std::optional<std::string> path;
    RateLimiterConfig limits;
};

struct NetworkPatch {
    std::string id;
    RateLimiterConfig rx_limits;
    RateLimiterConfig tx_limits;
};

struct PmemPatch {
    std::string id;
    RateLimiterConfig limits;
};

struct MmdsConfig {
    mmds::Version version = mmds::Version::v1;
    std::vector<std::string> network_interfaces;
    std::optional<mmds::Ipv4> address;
    bool imds_compatible = false;
};

struct InstanceInfo {
    std::string id = "anonymous-instance";
    StartInfo start;
    bool has_pci = false;  // --enable-pci
    // Called before the machine runs, on the device thread and on each processor's.
    std::function<Result<>()> confine_device_thread;
    std::function<Result<>()> confine_vcpu;
};

class Controller {
  public:
    // `ended` gets the exit code when the guest is over.
    Controller(EventLoop& loop, InstanceInfo info, std::size_t mmds_limit_bytes, std::function<void(ExitCode)> ended);
    ~Controller();

    bool started() const { return machine_ != nullptr; }
    // Whether the machine's devices are on PCI. From any thread.
    bool has_pci() const { return has_pci_.load(); }
    json::value describe_instance() const;
    json::value full_configuration();

    Result<> set_boot_source(BootSource source);
    Result<> set_machine(const MachineConfig& config);
    Result<> patch_machine(const MachinePatch& patch);
    json::value machine_configuration() const;
    Result<> set_cpu_template(x86_64::CpuTemplate cpu_template);
    // Drives and interfaces: before the start part of the configuration, after it plugged in (with PCI). remove_...()
    // unplugs, which ends when the guest has let go.
    Result<> set_drive(block::Config config);
    Result<> remove_drive(const std::string& id);
    Result<> patch_drive(const DrivePatch& patch);
    Result<> set_network(net::Config config);
    Result<> remove_network(const std::string& id);
    Result<> patch_network(const NetworkPatch& patch);
    Result<> set_vsock(vsock::Config config);
    Result<> set_pmem(pmem::Config config);
    Result<> patch_pmem(const PmemPatch& patch);
    Result<> delete_pmem(const std::string& id);
    Result<> set_memory_hotplug(const mem::Config& config);
    Result<> patch_memory_hotplug(std::uint64_t requested_size_mib);
    Result<json::value> memory_hotplug();
    Result<> set_entropy(const entropy::Config& config);
    Result<> set_folder(fs::Config config);
    Result<> set_serial(SerialConfig config);
    Result<> set_balloon(const balloon::Config& config);
    Result<json::value> balloon_configuration();
    Result<> patch_balloon(std::uint32_t amount_mib);
    Result<json::value> balloon_statistics();
    Result<> patch_balloon_statistics(std::uint16_t interval_s);
    Result<> start_hinting(bool acknowledge_on_stop);
    Result<> stop_hinting();
    Result<json::value> hinting_status();
    Result<> set_logger(const LoggerConfig& config);
    Result<> set_metrics(const std::string& path);
    Result<> configure_mmds(const MmdsConfig& config);
    mmds::Service& mmds() { return *mmds_; }

    Result<> start();
    Result<> pause();
    Result<> resume();
    // Of a paused machine; leaves no half-written files.
    Result<> create_snapshot(const CreateSnapshot& request);
    // Instead of a configuration and a start.
    Result<> load_snapshot(const LoadSnapshot& request);
    Result<> send_ctrl_alt_del();
    Result<> flush_metrics();
    ApiMetrics& api_metrics() { return metrics_.api; }
    // Writes what is due; used by the end of the process as well.
    void write_metrics();
    // The guest is over: last metrics, and the machine's devices let go of what they hold on the host.
    void shut_down();

  private:
    // What a start will need is made as soon as kernel and memory are known, while the client is at the rest.
    void prepare_soon();
    void prepare();
    Result<> before_start() const;
    Result<> before_start_or_pluggable() const;
    Result<> plug_drive(block::Config config);
    Result<> check_network(const net::Config& config) const;
    void unplugged(DeviceType type, const std::string& id);
    bool has_configuration() const;
    Machine::Callbacks callbacks();
    Result<> write_snapshot(Machine& machine, const CreateSnapshot& request);
    Result<> restore(const LoadSnapshot& request);
    Result<Machine*> running() const;
    json::array pmem_configuration() const;
    Result<> check_machine(const MachineConfig& config) const;
    std::unique_ptr<MetricsLine> make_metrics_line();
    // For an end by a signal; whenever there are other devices.
    void prepare_last_metrics();

    EventLoop& loop_;
    InstanceInfo info_;
    std::function<void(ExitCode)> ended_;
    Resources resources_;
    bool has_machine_configuration_ = false;  // was said, instead of the defaults
    std::optional<Preparation> prepared_;
    std::optional<MmdsConfig> mmds_config_;
    std::shared_ptr<mmds::Service> mmds_;
    MetricsWriter metrics_;
    std::unique_ptr<Timer> metrics_timer_;
    std::unique_ptr<Machine> machine_;
    bool paused_ = false;
    Fd fault_handler_;  // the socket of whoever provides the guest's memory
    std::atomic<bool> has_pci_ = false;
    LastMetrics last_metrics_;  // refers to what is above
};

}  // namespace wherry::vmm::api
