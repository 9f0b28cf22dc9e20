#include "vmm/api/controller.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "vmm/api/bodies.hpp"
#include "vmm/arch/x86_64/layout.hpp"

namespace wherry::vmm::api {
namespace {

constexpr std::uint32_t most_vcpus = 32;
constexpr std::chrono::seconds metrics_interval{60};

}  // namespace

Controller::Controller(EventLoop& loop, InstanceInfo info, std::size_t mmds_limit_bytes,
                       std::function<void(ExitCode)> ended)
    : loop_(loop),
      info_(std::move(info)),
      ended_(std::move(ended)),
      mmds_(std::make_shared<mmds::Service>(mmds_limit_bytes)) {
    resources_.has_pci = info_.has_pci;
    has_pci_ = info_.has_pci;
}

Controller::~Controller() = default;

Result<> Controller::before_start() const {
    if (started()) return fail(Code::conflict, "The requested operation is not supported after starting the microVM.");
    return {};
}

Result<> Controller::before_start_or_pluggable() const {
    return started() ? machine_->check_hotplug() : Result<>{};
}

Result<Machine*> Controller::running() const {
    if (!started())
        return fail(Code::conflict, "The requested operation is not supported before starting the microVM.");
    return machine_.get();
}

json::value Controller::describe_instance() const {
    return json::object{{"id", info_.id},
                        {"state", !started() ? "Not started"
                                  : paused_  ? "Paused"
                                             : "Running"},
                        {"vmm_version", WHERRY_VERSION},
                        {"app_name", "Firecracker"}};
}

json::value Controller::machine_configuration() const {
    const MachineConfig& config = resources_.machine;
    json::object out{{"vcpu_count", config.vcpu_count},
                     {"mem_size_mib", config.mem_size_mib},
                     {"smt", config.smt},
                     {"track_dirty_pages", config.track_dirty_pages},
                     {"huge_pages", to_string(config.huge_pages)}};
    if (config.cpu_template != x86_64::StaticTemplate::none)
        out["cpu_template"] = x86_64::to_string(config.cpu_template);
    return out;
}

Result<> Controller::set_boot_source(BootSource source) {
    TRY(before_start());
    struct stat status = {};
    if (stat(source.kernel_image_path.c_str(), &status) != 0)
        return invalid("The kernel file cannot be opened: " + std::string(strerror(errno)));
    if (source.initrd_path && stat(source.initrd_path->c_str(), &status) != 0)
        return invalid("The initrd file cannot be opened due to invalid path or invalid permissions. " +
                       std::string(strerror(errno)));
    if (source.boot_args && source.boot_args->size() >= x86_64::command_line_bytes)
        return invalid("The kernel command line is invalid: the command line string overflows the capacity.");
    resources_.boot = std::move(source);
    prepare_soon();
    return {};
}

Result<> Controller::check_machine(const MachineConfig& config) const {
    if (config.vcpu_count == 0 || config.vcpu_count > most_vcpus)
        return invalid(
            fmt::format("The vCPU number is invalid! The vCPU number must be between 1 and {} and an even number "
                        "when SMT is enabled (if greater than 1).",
                        most_vcpus));
    if (config.smt && config.vcpu_count > 1 && config.vcpu_count % 2 != 0)
        return invalid(
            "The vCPU number is invalid! The vCPU number can only be 1 or an even number when SMT is enabled.");
    constexpr std::uint64_t smallest_mib = 2, largest_mib = 1U << 20U;
    if (config.mem_size_mib < smallest_mib || config.mem_size_mib > largest_mib)
        return invalid("The memory size (MiB) is invalid.");
    if (config.huge_pages == HugePages::two_megabytes && config.mem_size_mib % 2 != 0)
        return invalid("The memory size (MiB) is either 0, or not a multiple of the configured page size.");
    if (resources_.balloon && resources_.balloon->amount_mib > config.mem_size_mib)
        return invalid("The memory size (MiB) is smaller than the previously set balloon device target size.");
    return {};
}

Result<> Controller::set_machine(const MachineConfig& config) {
    TRY(before_start());
    TRY(check_machine(config));
    resources_.machine = config;
    has_machine_configuration_ = true;
    prepare_soon();
    return {};
}

Result<> Controller::patch_machine(const MachinePatch& patch) {
    TRY(before_start());
    MachineConfig config = resources_.machine;
    config.vcpu_count = patch.vcpu_count.value_or(config.vcpu_count);
    config.mem_size_mib = patch.mem_size_mib.value_or(config.mem_size_mib);
    config.smt = patch.smt.value_or(config.smt);
    config.track_dirty_pages = patch.track_dirty_pages.value_or(config.track_dirty_pages);
    config.huge_pages = patch.huge_pages.value_or(config.huge_pages);
    config.cpu_template = patch.cpu_template.value_or(config.cpu_template);
    return set_machine(config);
}

Result<> Controller::set_cpu_template(x86_64::CpuTemplate cpu_template) {
    TRY(before_start());
    resources_.cpu_template = std::move(cpu_template);
    return {};
}

Result<> Controller::set_drive(block::Config config) {
    TRY(before_start_or_pluggable());
    struct stat status = {};
    if (stat(config.path.c_str(), &status) != 0)
        return invalid(fmt::format("Unable to create the virtio block device: {}: {}", config.path, strerror(errno)));
    if (started()) return plug_drive(std::move(config));
    const bool other_root = std::ranges::any_of(
        resources_.drives, [&](const block::Config& drive) { return drive.is_root && drive.id != config.id; });
    if (config.is_root && other_root) return invalid("A root block device already exists!");
    if (config.is_root && std::ranges::any_of(resources_.pmems, &pmem::Config::is_root))
        return invalid("A root pmem device already exists!");
    std::erase_if(resources_.drives,
                  [&](const block::Config& drive) { return drive.id == config.id && drive.is_root != config.is_root; });
    const auto same = std::ranges::find(resources_.drives, config.id, &block::Config::id);
    if (same != resources_.drives.end()) {
        *same = std::move(config);
    } else if (config.is_root) {  // it is /dev/vda, in whatever order it was named
        resources_.drives.insert(resources_.drives.begin(), std::move(config));
    } else {
        resources_.drives.push_back(std::move(config));
    }
    return {};
}

Result<> Controller::plug_drive(block::Config config) {
    if (config.is_root) return invalid("A root block device cannot be plugged while the microVM runs.");
    if (std::ranges::find(resources_.drives, config.id, &block::Config::id) != resources_.drives.end())
        return fail(Code::already_exists, "Unable to plug the block device: there is a drive with the id " + config.id);
    TRY(machine_->plug(loop_, config), "Unable to plug the block device");
    prepare_last_metrics();
    resources_.drives.push_back(std::move(config));
    return {};
}

Result<> Controller::remove_drive(const std::string& id) {
    Machine* machine = TRY(running());
    const auto drive = std::ranges::find(resources_.drives, id, &block::Config::id);
    if (drive != resources_.drives.end() && drive->is_root)
        return invalid("Unable to unplug the block device: it is the root device.");
    return machine->unplug(DeviceType::block, id);
}

void Controller::unplugged(DeviceType type, const std::string& id) {
    if (type == DeviceType::block)
        std::erase_if(resources_.drives, [&](const block::Config& drive) { return drive.id == id; });
    if (type == DeviceType::net)
        std::erase_if(resources_.networks, [&](const net::Config& network) { return network.id == id; });
    if (type == DeviceType::pmem)
        std::erase_if(resources_.pmems, [&](const pmem::Config& window) { return window.id == id; });
    prepare_last_metrics();
}

Result<> Controller::patch_drive(const DrivePatch& patch) {
    Machine* machine = TRY(running());
    for (const auto& drive : machine->drives()) {
        if (drive->id() != patch.id) continue;
        if (patch.path) TRY(drive->change_path(*patch.path), "Unable to patch the block device");
        drive->change_limits(patch.limits);
        return {};
    }
    return invalid("Unable to patch the block device: there is no drive with the id " + patch.id);
}

Result<> Controller::check_network(const net::Config& config) const {
    for (const net::Config& other : resources_.networks) {
        if (other.id == config.id) continue;
        if (config.guest_mac && other.guest_mac == config.guest_mac)
            return invalid(fmt::format("The MAC address is already in use: {}", net::to_string(*config.guest_mac)));
        if (other.host_dev_name == config.host_dev_name)
            return invalid("The host device name is already in use: " + config.host_dev_name);
    }
    return {};
}

Result<> Controller::set_network(net::Config config) {
    TRY(before_start_or_pluggable());
    TRY(check_network(config));
    const auto same = std::ranges::find(resources_.networks, config.id, &net::Config::id);
    if (started() && same != resources_.networks.end())
        return fail(Code::already_exists,
                    "Unable to plug the network interface: there is one with the id " + config.id);
    if (same != resources_.networks.end()) same->tap.reset();  // its queues may be wanted again
    config.tap = std::make_shared<net::Tap>(TRY(net::Tap::open(config.host_dev_name, config.queue_pairs)));
    if (started()) TRY(machine_->plug(loop_, config, nullptr), "Unable to plug the network interface");
    prepare_last_metrics();
    if (same != resources_.networks.end()) {
        config.has_mmds = same->has_mmds;
        *same = std::move(config);
    } else {
        resources_.networks.push_back(std::move(config));
    }
    return {};
}

Result<> Controller::remove_network(const std::string& id) {
    Machine* machine = TRY(running());
    return machine->unplug(DeviceType::net, id);
}

Result<> Controller::patch_network(const NetworkPatch& patch) {
    Machine* machine = TRY(running());
    for (const auto& network : machine->networks()) {
        if (network->id() != patch.id) continue;
        network->change_limits(patch.rx_limits, patch.tx_limits);
        return {};
    }
    return invalid("There is no network interface with the id " + patch.id);
}

Result<> Controller::set_vsock(vsock::Config config) {
    TRY(before_start());
    resources_.vsock = std::move(config);
    return {};
}

Result<> Controller::set_entropy(const entropy::Config& config) {
    TRY(before_start());
    resources_.entropy = config;
    return {};
}

Result<> Controller::set_folder(fs::Config config) {
    TRY(before_start());
    for (const fs::Config& other : resources_.folders)
        if (other.id != config.id && (other.tag == config.tag || other.socket == config.socket))
            return invalid("The tag or socket is another shared folder's: " + other.id);
    const auto same = std::ranges::find(resources_.folders, config.id, &fs::Config::id);
    if (same != resources_.folders.end()) {
        *same = std::move(config);
    } else {
        resources_.folders.push_back(std::move(config));
    }
    return {};
}

Result<> Controller::set_serial(SerialConfig config) {
    TRY(before_start());
    resources_.serial = std::move(config);
    return {};
}

Result<> Controller::set_balloon(const balloon::Config& config) {
    TRY(before_start());
    if (config.amount_mib > resources_.machine.mem_size_mib)
        return invalid("Amount of pages requested is too large: the target is larger than the guest's memory.");
    resources_.balloon = config;
    return {};
}

Result<json::value> Controller::balloon_configuration() {
    if (!resources_.balloon) return invalid("No balloon device found.");
    balloon::Config config = *resources_.balloon;
    if (machine_ && machine_->balloon() != nullptr) config = machine_->balloon()->config();
    return json::object{{"amount_mib", config.amount_mib},
                        {"deflate_on_oom", config.deflate_on_oom},
                        {"stats_polling_interval_s", config.stats_polling_interval_s},
                        {"free_page_hinting", config.free_page_hinting},
                        {"free_page_reporting", config.free_page_reporting}};
}

namespace {

Result<balloon::BalloonDevice*> balloon_of(Machine* machine) {
    if (machine->balloon() == nullptr) return invalid("No balloon device found.");
    return machine->balloon();
}

}  // namespace

Result<> Controller::patch_balloon(std::uint32_t amount_mib) {
    balloon::BalloonDevice* device = TRY(balloon_of(TRY(running())));
    if (amount_mib > resources_.machine.mem_size_mib)
        return invalid("Amount of pages requested is too large: the target is larger than the guest's memory.");
    return device->change_amount(amount_mib);
}

Result<json::value> Controller::balloon_statistics() {
    balloon::BalloonDevice* device = TRY(balloon_of(TRY(running())));
    const balloon::Statistics statistics = TRY(device->statistics());
    constexpr std::uint32_t pages_per_mib = 256;
    json::object out{{"target_pages", statistics.target_pages},
                     {"actual_pages", statistics.actual_pages},
                     {"target_mib", statistics.target_pages / pages_per_mib},
                     {"actual_mib", statistics.actual_pages / pages_per_mib}};
    for (std::size_t tag = 0; tag < statistics.values.size(); ++tag)
        if (statistics.values[tag]) out[balloon::statistic_name(tag)] = *statistics.values[tag];
    return out;
}

Result<> Controller::patch_balloon_statistics(std::uint16_t interval_s) {
    balloon::BalloonDevice* device = TRY(balloon_of(TRY(running())));
    return device->change_interval(interval_s);
}

Result<> Controller::start_hinting(bool acknowledge_on_stop) {
    balloon::BalloonDevice* device = TRY(balloon_of(TRY(running())));
    return device->start_hinting(acknowledge_on_stop);
}

Result<> Controller::stop_hinting() {
    balloon::BalloonDevice* device = TRY(balloon_of(TRY(running())));
    return device->stop_hinting();
}

Result<json::value> Controller::hinting_status() {
    balloon::BalloonDevice* device = TRY(balloon_of(TRY(running())));
    const auto status = TRY(device->hinting_status());
    return json::object{
        {"host_cmd", status.host_command},
        {"guest_cmd", status.guest_command ? json::value(*status.guest_command) : json::value(nullptr)}};
}

Result<> Controller::set_logger(const LoggerConfig& config) {
    TRY(before_start());
    return configure_logger(config);
}

Result<> Controller::set_metrics(const std::string& path) {
    TRY(before_start());
    TRY(metrics_.open(path));
    metrics_timer_ = TRY(Timer::create(loop_, [this] {
        write_metrics();
        metrics_timer_->arm(metrics_interval);
    }));
    metrics_timer_->arm(metrics_interval);
    prepare_last_metrics();
    return {};
}

Result<> Controller::configure_mmds(const MmdsConfig& config) {
    TRY(before_start());
    if (config.network_interfaces.empty())
        return invalid("The list of network interface IDs that allow forwarding MMDS requests is empty.");
    for (const std::string& id : config.network_interfaces)
        if (std::ranges::find(resources_.networks, id, &net::Config::id) == resources_.networks.end())
            return invalid(
                "The list of network interface IDs provided contains at least one ID that does not correspond "
                "to any existing network interface.");
    if (config.address && !mmds::is_link_local(*config.address))
        return invalid("The MMDS IPv4 address is not link local.");
    const mmds::Ipv4 address = config.address.value_or(mmds_->address());
    mmds_->configure(config.version, address, config.imds_compatible);
    for (net::Config& network : resources_.networks)
        network.has_mmds = std::ranges::find(config.network_interfaces, network.id) != config.network_interfaces.end();
    mmds_config_ = config;
    mmds_config_->address = address;
    return {};
}

json::value Controller::full_configuration() {
    json::array drives, networks;
    for (const block::Config& configured : resources_.drives) {
        block::Config drive = configured;
        if (machine_) {
            for (const auto& device : machine_->drives())
                if (device->id() == drive.id) drive = device->config();
        }
        drives.push_back(
            json::object{{"drive_id", drive.id},
                         {"partuuid", drive.partuuid ? json::value(*drive.partuuid) : json::value(nullptr)},
                         {"is_root_device", drive.is_root},
                         {"cache_type", drive.cache == block::CacheType::writeback ? "Writeback" : "Unsafe"},
                         {"is_read_only", drive.is_read_only},
                         {"path_on_host", drive.path},
                         {"rate_limiter", limits_to_json(drive.limits)},
                         {"io_engine", drive.engine == block::IoEngine::async ? "Async" : "Sync"},
                         {"socket", nullptr}});
    }
    for (const net::Config& configured : resources_.networks) {
        net::Config network = configured;
        if (machine_) {
            for (const auto& device : machine_->networks())
                if (device->id() == network.id) network = device->config();
        }
        networks.push_back(json::object{
            {"iface_id", network.id},
            {"host_dev_name", network.host_dev_name},
            {"guest_mac", network.guest_mac ? json::value(net::to_string(*network.guest_mac)) : json::value(nullptr)},
            {"mtu", network.mtu ? json::value(*network.mtu) : json::value(nullptr)},
            {"rx_rate_limiter", limits_to_json(network.rx_limits)},
            {"tx_rate_limiter", limits_to_json(network.tx_limits)}});
    }
    json::object out{{"drives", std::move(drives)},
                     {"network-interfaces", std::move(networks)},
                     {"pmem", pmem_configuration()},
                     {"memory-hotplug", nullptr},
                     {"machine-config", machine_configuration()},
                     {"balloon", nullptr},
                     {"boot-source", nullptr},
                     {"vsock", nullptr},
                     {"entropy", nullptr},
                     {"mmds-config", nullptr},
                     {"cpu-config", nullptr},
                     {"logger", nullptr},
                     {"metrics", nullptr}};
    if (const auto balloon = balloon_configuration()) out["balloon"] = *balloon;
    if (resources_.boot) {
        const BootSource& boot = *resources_.boot;
        out["boot-source"] =
            json::object{{"kernel_image_path", boot.kernel_image_path},
                         {"initrd_path", boot.initrd_path ? json::value(*boot.initrd_path) : json::value(nullptr)},
                         {"boot_args", boot.boot_args ? json::value(*boot.boot_args) : json::value(nullptr)}};
    }
    if (resources_.vsock)
        out["vsock"] =
            json::object{{"guest_cid", resources_.vsock->guest_cid}, {"uds_path", resources_.vsock->uds_path}};
    if (resources_.entropy) out["entropy"] = json::object{{"rate_limiter", limits_to_json(resources_.entropy->limits)}};
    if (resources_.memory_hotplug)
        out["memory-hotplug"] = json::object{{"total_size_mib", resources_.memory_hotplug->total_size_mib},
                                             {"block_size_mib", resources_.memory_hotplug->block_size_mib},
                                             {"slot_size_mib", resources_.memory_hotplug->slot_size_mib}};
    if (!resources_.folders.empty()) {  // a section that Firecracker's clients do not know
        json::array folders;
        for (const fs::Config& folder : resources_.folders)
            folders.push_back(json::object{{"id", folder.id}, {"tag", folder.tag}, {"socket", folder.socket}});
        out["fs"] = std::move(folders);
    }
    if (mmds_config_) {
        json::array interfaces;
        for (const std::string& id : mmds_config_->network_interfaces) interfaces.emplace_back(id);
        out["mmds-config"] = json::object{{"version", mmds_config_->version == mmds::Version::v2 ? "V2" : "V1"},
                                          {"network_interfaces", std::move(interfaces)},
                                          {"ipv4_address", mmds::to_string(*mmds_config_->address)},
                                          {"imds_compat", mmds_config_->imds_compatible}};
    }
    return out;
}

Machine::Callbacks Controller::callbacks() {
    Machine::Callbacks callbacks;
    callbacks.ended = ended_;
    callbacks.unplugging = [this] { last_metrics_.withdraw(); };
    callbacks.unplugged = [this](DeviceType type, const std::string& id) { unplugged(type, id); };
    callbacks.confine_vcpu = info_.confine_vcpu ? info_.confine_vcpu : [] { return Result<>{}; };
    return callbacks;
}

void Controller::prepare_soon() {
    // Clients that leave out either one are few, and what was made for the default memory may be of no use.
    if (!resources_.boot || !has_machine_configuration_) return;
    // After the answer to this request is on its way.
    loop_.post([this] { prepare(); });
}

void Controller::prepare() {
    if (started() || (prepared_ && prepared_->fits(resources_))) return;
    prepared_.reset();
    if (!Preparation::is_settled(*resources_.boot)) return;
    // An error comes again with the start, and is reported there.
    auto made = Preparation::make(resources_);
    if (!made) return;
    prepared_ = std::move(*made);
    log_line(LogLevel::debug, "The microVM's memory and kernel are prepared.");
}

Result<> Controller::start() {
    TRY(before_start());
    if (!resources_.boot) return fail(Code::conflict, "Cannot start microvm without kernel configuration.");
    // Used up, whatever comes of it: a start that fails may have changed it.
    std::optional<Preparation> prepared = std::exchange(prepared_, std::nullopt);
    const bool fits = prepared && prepared->fits(resources_);
    if (prepared && !fits) log_line(LogLevel::debug, "What was prepared does not fit any more and is made again.");
    if (!fits) {
        prepared.reset();  // first, so that the host need not have memory for both
        prepared = TRY(Preparation::make(resources_));
    }
    machine_ = TRY(Machine::create(loop_, resources_, info_.start, mmds_, callbacks(), std::move(*prepared)));
    prepare_last_metrics();
    if (info_.confine_device_thread) TRY(info_.confine_device_thread());
    machine_->resume();
    return {};
}

Result<> Controller::pause() {
    Machine* machine = TRY(running());
    machine->pause();
    paused_ = true;
    return {};
}

Result<> Controller::resume() {
    Machine* machine = TRY(running());
    machine->resume();
    paused_ = false;
    return {};
}

Result<> Controller::send_ctrl_alt_del() {
    Machine* machine = TRY(running());
    return machine->send_ctrl_alt_del();
}

void Controller::shut_down() {
    write_metrics();
    last_metrics_.withdraw();
    machine_.reset();
}

Result<> Controller::flush_metrics() {
    if (!metrics_.is_open()) return fail(Code::conflict, "The metrics are not configured.");
    write_metrics();
    return {};
}

}  // namespace wherry::vmm::api
