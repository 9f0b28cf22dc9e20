// A machine put together from its resources, and run. Belongs to the device thread but for what its parts say of
// themselves.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "kvm/system.hpp"
#include "vmm/arch/x86_64/tables.hpp"
#include "vmm/core/bus.hpp"
#include "vmm/core/event_loop.hpp"
#include "vmm/devices/generation_id/device.hpp"
#include "vmm/devices/i8042/device.hpp"
#include "vmm/devices/serial/device.hpp"
#include "vmm/machine/config.hpp"
#include "vmm/machine/pci_topology.hpp"
#include "vmm/machine/preparation.hpp"
#include "vmm/machine/vcpu_thread.hpp"
#include "vmm/virtio/mmio.hpp"

namespace wherry::vmm {

struct MachineState;

class Machine {
  public:
    struct Callbacks {
        std::function<void(ExitCode)> ended;  // from any thread
        std::function<Result<>()> confine_vcpu;
        // On the device thread: a device that was to be unplugged goes, and is gone.
        std::function<void()> unplugging;
        std::function<void(DeviceType, const std::string& id)> unplugged;
    };
    // Builds everything, on a preparation that fits the resources; the processors stand still. Errors say what of the
    // configuration cannot be had.
    static Result<std::unique_ptr<Machine>> create(EventLoop& loop, const Resources& resources, const StartInfo& start,
                                                   const std::shared_ptr<mmds::Service>& mmds,
                                                   const Callbacks& callbacks, Preparation prepared);
    // The same from a state, with the memory that belongs to it. `resources` are those of the state (state.hpp), or
    // what is to take their place. The guest is told that it is another one now (generation id, vsock).
    enum class Clocks : unsigned char { go_on, follow_the_host };
    static Result<std::unique_ptr<Machine>> restore(EventLoop& loop, const Resources& resources,
                                                    const MachineState& state, std::shared_ptr<GuestMemory> memory,
                                                    Clocks clocks, const StartInfo& start,
                                                    const std::shared_ptr<mmds::Service>& mmds,
                                                    const Callbacks& callbacks);
    ~Machine();

    void resume();
    void pause();
    // While paused. The state goes with the memory as it is after save(). collect_dirty() takes KVM's log, so that
    // GuestMemory knows all that was written since the last snapshot.
    Result<MachineState> save();
    Result<> collect_dirty();
    Result<> send_ctrl_alt_del() { return keyboard_->press_ctrl_alt_del(); }

    Result<> check_hotplug() const;  // conflict: without PCI nothing can be plugged or unplugged
    // Disks, interfaces and windows while the machine runs. unplug() answers at once;
    // the guest may take its time, and Callbacks::unplugged tells when the device is gone, which may be before it
    // returns.
    Result<> plug(EventLoop& loop, const block::Config& config);
    Result<> plug(EventLoop& loop, const net::Config& config, std::shared_ptr<mmds::Service> mmds);
    Result<> plug(EventLoop& loop, const pmem::Config& config);
    Result<> unplug(DeviceType type, const std::string& id);

    GuestMemory& memory() { return *memory_; }
    serial::SerialDevice& serial() { return *serial_; }
    i8042::I8042Device& keyboard() { return *keyboard_; }
    VcpuThreads& vcpus() { return *vcpus_; }
    const std::vector<std::shared_ptr<block::BlockDevice>>& drives() const { return drives_; }
    const std::vector<std::shared_ptr<net::NetDevice>>& networks() const { return networks_; }
    vsock::VsockDevice* vsock() { return vsock_.get(); }
    balloon::BalloonDevice* balloon() { return balloon_.get(); }
    const std::vector<std::shared_ptr<pmem::PmemDevice>>& pmems() const { return pmems_; }
    mem::MemDevice* memory_hotplug() { return memory_hotplug_.get(); }
    entropy::EntropyDevice* entropy() { return entropy_.get(); }
    const std::vector<std::shared_ptr<fs::FsDevice>>& folders() const { return folders_; }

  private:
    Machine() = default;
    Result<> add_platform_devices(EventLoop& loop, const Resources& resources, const StartInfo& start,
                                  const Callbacks& callbacks);
    Result<> add_virtio_devices(EventLoop& loop, const Resources& resources,
                                const std::shared_ptr<mmds::Service>& mmds);
    Result<> attach(EventLoop& loop, const std::shared_ptr<Device>& device);
    Result<> add_pci(EventLoop& loop, const Callbacks& callbacks);
    static bool can_be_unplugged(const Device& device);
    template <class Devices>
    Result<> plug_into(Devices& devices, typename Devices::value_type device);
    void forget(Device& device);
    Result<> watch_input(EventLoop& loop);
    Result<Fd> make_interrupt(std::uint32_t irq);
    void remember(const Resources& resources, const StartInfo& start);
    Result<> restore_devices(const MachineState& state);
    // Those of the devices in the order of add_virtio_devices(), whenever they came.
    std::vector<Transport*> ordered_transports() const;
    std::string command_line(const Resources& resources) const;
    Result<> boot(const Resources& resources, const x86_64::LoadedKernel& kernel,
                  const std::optional<GuestRange>& initrd, const Callbacks& callbacks);

    // What a snapshot says of the machine beside its devices.
    MachineConfig config_;
    std::optional<BootSource> boot_;
    std::optional<SerialConfig> serial_config_;
    bool has_boot_timer_ = false;
    std::vector<std::vector<kvm_cpuid_entry2>> cpuid_;  // by processor
    bool was_paused_ = false;

    // In the order of construction: memory outlives the machine of KVM, that the devices, those the processors.
    std::optional<kvm::System> system_;
    std::shared_ptr<GuestMemory> memory_;
    std::unique_ptr<kvm::Vm> vm_;
    Bus ports_;
    Bus registers_;
    std::vector<x86_64::VirtioSlot> slots_;
    std::vector<std::shared_ptr<Transport>> transports_;
    std::shared_ptr<serial::SerialDevice> serial_;
    std::shared_ptr<i8042::I8042Device> keyboard_;
    std::vector<std::shared_ptr<block::BlockDevice>> drives_;
    std::vector<std::shared_ptr<net::NetDevice>> networks_;
    std::shared_ptr<vsock::VsockDevice> vsock_;
    std::shared_ptr<balloon::BalloonDevice> balloon_;
    std::shared_ptr<entropy::EntropyDevice> entropy_;
    std::vector<std::shared_ptr<pmem::PmemDevice>> pmems_;
    std::shared_ptr<mem::MemDevice> memory_hotplug_;
    std::vector<std::shared_ptr<fs::FsDevice>> folders_;
    std::unique_ptr<generation_id::GenerationIdDevice> generation_id_;
    std::unique_ptr<PciTopology> pci_;  // none: devices are on virtio-mmio
    std::function<void()> unplugging_;
    std::function<void(DeviceType, const std::string& id)> unplugged_;
    Watch input_watch_;
    std::unique_ptr<VcpuThreads> vcpus_;
};

}  // namespace wherry::vmm
