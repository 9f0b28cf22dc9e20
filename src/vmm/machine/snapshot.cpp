// A machine to its state and back.
#include <algorithm>
#include <chrono>
#include <utility>

#include "base/clock.hpp"
#include "vmm/arch/x86_64/platform.hpp"
#include "vmm/arch/x86_64/state.hpp"
#include "vmm/machine/machine.hpp"
#include "vmm/machine/state.hpp"
#include "vmm/memory/device_memory.hpp"

namespace wherry::vmm {

Result<MachineState> Machine::save() {
    // What they hold open for the guest is the other process'.
    if (!folders_.empty()) return fail(Code::unimplemented, "a machine with shared folders cannot be in a snapshot");
    MachineState state;
    state.config = config_;
    state.boot = boot_;
    state.serial_config = serial_config_;
    state.boot_timer = has_boot_timer_;
    state.memory = memory_->ranges();
    // Devices first: what is on its way arrives in memory, and interrupts the guest.
    if (balloon_) state.balloon = balloon_->save();
    for (const auto& drive : drives_) state.drives.push_back(TRY(drive->save(), "drive " + drive->id()));
    for (const auto& network : networks_) state.networks.push_back(network->save());
    if (vsock_) state.vsock = vsock_->save();
    if (entropy_) state.entropy = entropy_->save();
    if (memory_hotplug_) state.memory_hotplug = memory_hotplug_->save();
    for (const auto& pmem : pmems_) state.pmems.push_back(TRY(pmem->save(), "pmem " + pmem->id()));
    for (Transport* transport : ordered_transports()) TRY(transport->save_slot(state.transports.emplace_back()));
    if (pci_) state.pci = pci_->save();
    state.serial = serial_->save();
    state.keyboard = keyboard_->save();
    state.generation_id = generation_id_->save();
    const auto msrs = TRY(kvm::saved_msrs(*system_));
    const std::size_t extended_state_bytes = kvm::extended_state_bytes(*vm_);
    for (std::size_t i = 0; i < vcpus_->count(); ++i) {
        const std::string name = "vCPU " + std::to_string(i);
        state.processors.push_back(TRY(x86_64::save_processor(vcpus_->processor(i), msrs, extended_state_bytes), name));
        state.processors.back().cpuid = cpuid_[i];
    }
    state.platform = TRY(x86_64::save_platform(*vm_));
    state.saved_at_ns = wall_now().time_since_epoch().count();
    return state;
}

Result<std::unique_ptr<Machine>> Machine::restore(EventLoop& loop, const Resources& resources,
                                                  const MachineState& state, std::shared_ptr<GuestMemory> memory,
                                                  Clocks clocks, const StartInfo& start,
                                                  const std::shared_ptr<mmds::Service>& mmds,
                                                  const Callbacks& callbacks) {
    std::unique_ptr<Machine> machine(new Machine);
    Machine& self = *machine;
    self.remember(resources, start);
    self.system_.emplace(TRY(kvm::System::open()));
    self.memory_ = std::move(memory);
    self.vm_ = std::make_unique<kvm::Vm>(TRY(self.system_->create_vm()));
    TRY(self.memory_->attach(*self.vm_, 0, resources.machine.track_dirty_pages));
    TRY(x86_64::create_platform(*self.vm_));
    for (const auto& processor : state.processors) TRY(x86_64::check_processor(*self.system_, *self.vm_, processor));
    self.memory_->device_memory().set_space(
        x86_64::device_memory_space(resources.machine.mem_size_mib << 20U, state.processors[0].cpuid));
    TRY(self.add_platform_devices(loop, resources, start, callbacks));
    if (state.pci) {
        TRY(self.add_pci(loop, callbacks));
        TRY(self.pci_->expect(*state.pci), "Cannot restore devices");
    }
    TRY(self.add_virtio_devices(loop, resources, mmds));
    TRY(self.restore_devices(state), "Cannot restore devices");

    // What passed meanwhile; a clock that was set back passed nothing.
    std::chrono::nanoseconds skip{0};
    if (clocks == Clocks::follow_the_host)
        skip = std::max(skip, std::chrono::nanoseconds(wall_now().time_since_epoch().count() - state.saved_at_ns));
    std::vector<kvm::Vcpu> vcpus;
    for (std::uint32_t i = 0; i < state.processors.size(); ++i) {
        vcpus.push_back(TRY(self.vm_->create_vcpu(i)));
        self.cpuid_.push_back(state.processors[i].cpuid);
        TRY(x86_64::restore_processor(vcpus.back(), state.processors[i], skip),
            "Cannot restore vCPU " + std::to_string(i));
    }
    TRY(x86_64::restore_platform(*self.vm_, state.platform, skip), "Cannot restore the machine");
    // Interrupts that were on their way, and those of the devices' own news; the controllers are there now.
    self.serial_->raise_pending();
    self.keyboard_->raise_pending();
    for (const auto& transport : self.transports_) transport->raise_pending();
    TRY(self.generation_id_->change());
    self.was_paused_ = true;
    self.vcpus_ = std::make_unique<VcpuThreads>(VcpuThreads::Setup{.ports = &self.ports_,
                                                                   .registers = &self.registers_,
                                                                   .ended = callbacks.ended,
                                                                   .confine = callbacks.confine_vcpu});
    TRY(self.vcpus_->start(std::move(vcpus)));
    return machine;
}

std::vector<Transport*> Machine::ordered_transports() const {
    std::vector<const Device*> devices = {balloon_.get()};
    for (const auto& drive : drives_) devices.push_back(drive.get());
    for (const auto& network : networks_) devices.push_back(network.get());
    for (const Device* device : {static_cast<const Device*>(vsock_.get()), static_cast<const Device*>(entropy_.get()),
                                 static_cast<const Device*>(memory_hotplug_.get())})
        devices.push_back(device);
    for (const auto& pmem : pmems_) devices.push_back(pmem.get());
    std::vector<Transport*> transports;
    for (const Device* device : devices)
        for (const auto& transport : transports_)
            if (&transport->device() == device) transports.push_back(transport.get());
    return transports;
}

Result<> Machine::restore_devices(const MachineState& state) {
    const auto transports = ordered_transports();
    if (state.transports.size() != transports.size())
        return fail(Code::invalid_argument, "the state has another number of devices than it describes");
    std::size_t index = 0;
    const auto next = [&](auto& device, const auto& device_state) -> Result<> {
        Transport& transport = *transports[index];
        TRY(transport.restore_slot(state.transports[index++]), device->id());
        return device->restore(device_state, memory_, transport);
    };
    if (balloon_) TRY(next(balloon_, *state.balloon));
    for (std::size_t i = 0; i < drives_.size(); ++i) TRY(next(drives_[i], state.drives[i]));
    for (std::size_t i = 0; i < networks_.size(); ++i) TRY(next(networks_[i], state.networks[i]));
    if (vsock_) TRY(next(vsock_, *state.vsock));
    if (entropy_) TRY(next(entropy_, *state.entropy));
    if (memory_hotplug_) TRY(next(memory_hotplug_, *state.memory_hotplug));
    for (std::size_t i = 0; i < pmems_.size(); ++i) TRY(next(pmems_[i], state.pmems[i]));
    if (pci_) TRY(pci_->restore(*state.pci));
    TRY(serial_->restore(state.serial));
    TRY(keyboard_->restore(state.keyboard));
    generation_id_->restore(state.generation_id);
    return {};
}

Result<> Machine::collect_dirty() {
    return config_.track_dirty_pages ? memory_->collect_dirty(*vm_, 0) : Result<>{};
}

void Machine::resume() {
    // Watchdogs in the guest must not take the pause for a hang.
    if (was_paused_)
        for (std::size_t i = 0; i < vcpus_->count(); ++i) kvm::mark_clock_paused(vcpus_->processor(i));
    was_paused_ = false;
    vcpus_->resume();
    if (vsock_) vsock_->resumed();
}

void Machine::pause() {
    vcpus_->pause();
    was_paused_ = true;
}

}  // namespace wherry::vmm
