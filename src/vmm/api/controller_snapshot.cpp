// The controller's part in snapshots: which are allowed when, files, and what takes the place of what.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vmm/api/controller.hpp"
#include "vmm/arch/x86_64/platform.hpp"
#include "vmm/machine/state.hpp"
#include "vmm/memory/device_memory.hpp"

namespace wherry::vmm::api {
namespace {

// A file being written; gone again unless it is kept.
class Output {
  public:
    // A new file in the place of another. Whoever has that one open or mapped keeps it as it was.
    static Result<Output> replace(const std::string& path) {
        struct stat status = {};
        if (stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode))
            return invalid(path + " is there, and no regular file");
        if (unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno(path);
        return Output(TRY(open_file(path, O_RDWR | O_CREAT | O_EXCL, 0600)), path);
    }
    // An image of memory to write some pages into: one of that size that is there, otherwise a new one.
    static Result<Output> merge(const std::string& path, std::uint64_t bytes) {
        struct stat status = {};
        if (stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
            static_cast<std::uint64_t>(status.st_size) == bytes)
            return Output(TRY(open_file(path, O_RDWR)), {});
        return replace(path);
    }
    Output(Output&& other) noexcept : file_(std::move(other.file_)), path_(std::exchange(other.path_, {})) {}
    Output& operator=(Output&&) = delete;
    Output(const Output&) = delete;
    Output& operator=(const Output&) = delete;
    ~Output() {
        if (!path_.empty()) unlink(path_.c_str());
    }

    int descriptor() const { return file_.get(); }
    Result<> finish() {
        if (fdatasync(file_.get()) < 0) return fail_errno("snapshot");
        return {};
    }
    void keep() { path_.clear(); }

  private:
    Output(Fd file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}
    Fd file_;
    std::string path_;  // what to remove; empty: nothing
};

Result<MachineState> read_state_file(const std::string& path) {
    const Fd file = TRY(open_file(path, O_RDONLY | O_NONBLOCK), "Cannot open the snapshot file");
    struct stat status = {};
    if (fstat(file.get(), &status) < 0) return fail_errno("snapshot file");
    if (!S_ISREG(status.st_mode)) return invalid("the snapshot file is no regular file");
    MachineState state = TRY(read_state(file.get()));
    if (lseek(file.get(), 0, SEEK_CUR) != status.st_size)
        return fail(Code::data_loss, "the snapshot file is damaged: it is longer than it says");
    return state;
}

// What the memory file has behind the memory that the machine booted with.
std::uint64_t pluggable_bytes(const MachineState& state) {
    constexpr std::uint64_t mib = 20;
    return state.memory_hotplug ? state.memory_hotplug->config.total_size_mib << mib : 0;
}

// Plugged memory is read at once, before the machine goes on: it is no private mapping of the file.
Result<> load_plugged(const LoadSnapshot& request, const MachineState& state, GuestMemory& memory) {
    if (!state.memory_hotplug || state.memory_hotplug->plugged.empty()) return {};
    const Fd file = TRY(open_file(request.backend_path, O_RDONLY | O_NONBLOCK), "Cannot open the memory file");
    return memory.device_memory().load_image(file.get(), memory.total_bytes());
}

Result<std::shared_ptr<GuestMemory>> open_memory(const LoadSnapshot& request, const MachineState& state,
                                                 HugePages huge_pages, Fd& handler) {
    if (request.backend == MemoryBackend::file) {
        if (huge_pages == HugePages::two_megabytes)
            return invalid("Cannot restore hugetlbfs backed snapshot by mapping the memory file. Please use uffd.");
        const Fd file = TRY(open_file(request.backend_path, O_RDONLY | O_NONBLOCK), "Cannot open the memory file");
        return GuestMemory::map_image(state.memory, file.get(), pluggable_bytes(state));
    }
    if (state.memory_hotplug && !state.memory_hotplug->plugged.empty())
        return invalid("Cannot restore plugged memory by uffd. Please use the memory file.");
    handler = TRY(connect_unix(request.backend_path), "Cannot connect to the UFFD socket");
    auto memory = TRY(GuestMemory::create_faulting(state.memory, huge_pages));
    const auto handover = memory->handover();
    const std::array<int, 1> descriptors = {handover.descriptor};
    TRY(send_with_fds(handler.get(), handover.mappings, descriptors), "Cannot send to the UFFD socket");
    return memory;
}

template <class States>
auto* find_by_id(States& states, const std::string& id) {
    const auto found = std::ranges::find_if(states, [&](const auto& state) { return state.config.id == id; });
    return found == states.end() ? nullptr : &*found;
}

Result<> apply_overrides(const LoadSnapshot& request, MachineState& state) {
    for (const NetworkOverride& item : request.networks) {
        auto* network = find_by_id(state.networks, item.id);
        if (network == nullptr) return invalid("Unknown Network Device: " + item.id);
        network->config.host_dev_name = item.host_dev_name;
    }
    for (const DriveOverride& item : request.drives) {
        auto* drive = find_by_id(state.drives, item.id);
        if (drive == nullptr) return invalid("Unknown drive: " + item.id);
        drive->config.path = item.path;
    }
    if (request.vsock_path) {
        if (!state.vsock) return invalid("There is no vsock device in the snapshot to override.");
        state.vsock->config.uds_path = *request.vsock_path;
    }
    return {};
}

// What no machine of ours ever had; what a device cannot be is its own to judge.
Result<> check_state(const MachineState& state) {
    constexpr std::uint64_t mib = 20;
    if (state.memory != x86_64::memory_ranges(state.config.mem_size_mib << mib))
        return invalid("the snapshot's memory is not laid out as that of a machine of its size");
    if (state.processors.size() != state.config.vcpu_count)
        return invalid("the snapshot has another number of processors than it describes");
    for (const net::State& network : state.networks)
        if (network.config.queue_pairs < 1 || network.config.queue_pairs > net::NetDevice::most_pairs)
            return invalid("the snapshot has a network interface with an impossible number of queues");
    if (state.memory_hotplug && state.memory_hotplug->config.total_size_mib > (1ULL << 26U))
        return invalid("the snapshot has more memory to plug than any machine");
    if (state.balloon && state.balloon->config.amount_mib > state.config.mem_size_mib)
        return invalid("the snapshot has a balloon larger than its memory");
    if (state.mmds && !mmds::is_link_local(state.mmds->address))
        return invalid("the snapshot's metadata service has an address that is not link local");
    return {};
}

}  // namespace

bool Controller::has_configuration() const {
    return resources_.boot || !resources_.drives.empty() || !resources_.networks.empty() || resources_.vsock ||
           resources_.balloon || resources_.entropy || resources_.serial || mmds_config_ || !resources_.pmems.empty() ||
           !resources_.folders.empty() || resources_.memory_hotplug || !resources_.cpu_template.empty() ||
           resources_.machine != MachineConfig{};
}

Result<> Controller::create_snapshot(const CreateSnapshot& request) {
    Machine* machine = TRY(running());
    constexpr const char* what = "Create snapshot error";
    if (!paused_)
        return fail(Code::conflict, std::string(what) +
                                        ": Cannot save the microVM state: Operation not allowed: the microVM is not "
                                        "paused");
    if (request.snapshot_path == request.memory_path)
        return invalid(std::string(what) + ": state and memory cannot be one file");
    TRY(write_snapshot(*machine, request), what);
    return {};
}

Result<> Controller::write_snapshot(Machine& machine, const CreateSnapshot& request) {
    MachineState state = TRY(machine.save(), "Cannot save the microVM state");
    if (mmds_config_)
        state.mmds = MmdsState{.version = mmds_config_->version,
                               .address = *mmds_config_->address,
                               .imds_compatible = mmds_config_->imds_compatible,
                               .network_interfaces = mmds_config_->network_interfaces};
    // From here on what KVM has logged is ours to remember, until a snapshot has it.
    TRY(machine.collect_dirty(), "Cannot get dirty bitmap");
    GuestMemory& memory = machine.memory();
    const bool is_diff = request.type == SnapshotType::diff;
    auto pages = GuestMemory::Pages::all;
    if (is_diff) pages = state.config.track_dirty_pages ? GuestMemory::Pages::dirty : GuestMemory::Pages::untracked;
    constexpr const char* memory_file = "Cannot write memory file";
    Output image =
        TRY(is_diff ? Output::merge(request.memory_path, memory.image_bytes()) : Output::replace(request.memory_path),
            memory_file);
    if (ftruncate(image.descriptor(), static_cast<off_t>(memory.image_bytes())) < 0) return fail_errno(memory_file);
    TRY(memory.write_image(image.descriptor(), pages), memory_file);
    TRY(image.finish(), memory_file);
    // The state last: where it is, the snapshot is whole.
    constexpr const char* state_file = "Cannot write the snapshot file";
    Output file = TRY(Output::replace(request.snapshot_path), state_file);
    TRY(write_state(file.descriptor(), state), state_file);
    TRY(file.finish(), state_file);
    image.keep();
    file.keep();
    memory.forget_dirty();
    return {};
}

Result<> Controller::load_snapshot(const LoadSnapshot& request) {
    TRY(before_start());
    constexpr const char* what = "Load snapshot error";
    if (has_configuration())
        return fail(Code::conflict, std::string(what) +
                                        ": Loading a microVM snapshot not allowed after configuring boot-specific "
                                        "resources.");
    if (auto restored = restore(request); !restored)
        return std::unexpected(
            std::move(restored).error().context("Failed to restore from snapshot").context(std::string(what)));
    paused_ = true;
    prepare_last_metrics();
    if (info_.confine_device_thread) TRY(info_.confine_device_thread());
    return request.resume ? resume() : Result<>{};
}

Result<> Controller::restore(const LoadSnapshot& request) {
    MachineState state = TRY(read_state_file(request.snapshot_path));
    TRY(check_machine(state.config));
    TRY(check_state(state));
    TRY(apply_overrides(request, state));
    Resources resources = resources_of(state);
    resources.machine.track_dirty_pages = request.track_dirty_pages;
    resources.machine.huge_pages = request.huge_pages.value_or(resources.machine.huge_pages);
    for (net::Config& network : resources.networks)
        network.tap = std::make_shared<net::Tap>(TRY(net::Tap::open(network.host_dev_name, network.queue_pairs)));
    Fd handler;
    auto memory = TRY(open_memory(request, state, resources.machine.huge_pages, handler));
    StartInfo start = info_.start;
    start.boot_timer = state.boot_timer;
    if (state.mmds) mmds_->configure(state.mmds->version, state.mmds->address, state.mmds->imds_compatible);
    has_pci_ = resources.has_pci;  // before the processors' threads choose their filters
    machine_ =
        TRY(Machine::restore(loop_, resources, state, std::move(memory),
                             request.clock_follows_host ? Machine::Clocks::follow_the_host : Machine::Clocks::go_on,
                             start, mmds_, callbacks()));
    if (auto loaded = load_plugged(request, state, machine_->memory()); !loaded) {
        machine_.reset();
        return loaded;
    }
    resources_ = std::move(resources);
    if (state.mmds)
        mmds_config_ = MmdsConfig{.version = state.mmds->version,
                                  .network_interfaces = state.mmds->network_interfaces,
                                  .address = state.mmds->address,
                                  .imds_compatible = state.mmds->imds_compatible};
    // Open for as long as the machine lives: its end is how the handler learns of ours.
    fault_handler_ = std::move(handler);
    return {};
}

}  // namespace wherry::vmm::api
