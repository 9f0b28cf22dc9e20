// The PCI of a machine: which devices are where, and how they come and go. Devices that stay are functions of bus 0;
// those that may be unplugged are each behind a root port, and so are the free slots.
//
//     00.0        host bridge
//     01.0-0f.0   balloon, vsock, entropy and the like
//     10.0-17.6   root ports, eight to a device: slot 0 is bus 1, slot 1 bus 2, ...
//
// Belongs to the device thread but for what the guest does to the functions.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "kvm/vm.hpp"
#include "vmm/core/bus.hpp"
#include "vmm/core/event_loop.hpp"
#include "vmm/pci/root_complex.hpp"
#include "vmm/virtio/pci.hpp"

namespace wherry::vmm {

// Without what the functions themselves keep (PciState).
struct PciTopologyState {
    struct Occupant {
        std::uint32_t slot = 0;
        std::uint32_t type = 0;  // DeviceType
        std::string id;

        void fields(this auto& self, auto&& f) { f(self.slot, self.type, self.id); }
    };
    std::vector<pci::RootPortState> ports;
    std::vector<Occupant> occupants;
    std::uint32_t configuration_address = 0;  // of port 0xcf8
    std::uint32_t next_slot = 0;

    void fields(this auto& self, auto&& f) {
        f(self.ports, self.occupants, self.configuration_address, self.next_slot);
    }
};

class PciTopology {
  public:
    // Free slots beside those that devices have at the start.
    static constexpr std::size_t spare_slots = 16;

    // `gone` is called on the device thread when a device has been unplugged.
    PciTopology(EventLoop& loop, const kvm::Vm& vm, std::shared_ptr<GuestMemory> memory,
                std::function<void(Device&)> gone);
    ~PciTopology();
    PciTopology(const PciTopology&) = delete;
    PciTopology& operator=(const PciTopology&) = delete;

    // Before the processors run: the ways in, devices in the order of their names, free slots last.
    Result<> register_on(Bus& registers, Bus& ports);
    Result<std::shared_ptr<PciTransport>> attach(std::shared_ptr<Device> device);
    Result<std::shared_ptr<PciTransport>> attach_to_slot(std::shared_ptr<Device> device);
    void add_spare_slots();

    // A snapshot's: expect() says before devices are attached which slots there are and who is where, restore() when
    // all are what the slots' registers say. invalid_argument when devices and state do not belong together.
    PciTopologyState save();
    Result<> expect(const PciTopologyState& state);
    Result<> restore(const PciTopologyState& state);

    // While they run. conflict when no slot is free.
    Result<std::shared_ptr<PciTransport>> plug(std::shared_ptr<Device> device);
    enum class Removal : unsigned char { done, asked_for };
    // A device that no driver has goes at once; otherwise the guest is asked to let it go. conflict when it does not
    // listen, not_found when the device is in no slot.
    Result<Removal> unplug(const Device& device);

  private:
    class KvmHost;
    struct Slot {
        std::shared_ptr<pci::RootPort> port;
        std::shared_ptr<PciTransport> transport;  // none: free
    };
    Slot& new_slot();
    void add_slots(std::size_t count);
    Result<std::shared_ptr<PciTransport>> attach_as_expected(std::shared_ptr<Device> device);
    Result<std::shared_ptr<PciTransport>> make_transport(std::shared_ptr<Device> device, std::uint64_t address);
    void take_out(Slot& slot);
    void released(std::size_t slot);

    EventLoop& loop_;
    std::shared_ptr<GuestMemory> memory_;
    std::function<void(Device&)> gone_;
    std::unique_ptr<KvmHost> host_;
    std::shared_ptr<pci::RootComplex> complex_;
    std::shared_ptr<pci::ConfigurationPorts> configuration_ports_;
    std::vector<std::shared_ptr<PciTransport>> fixed_;
    std::vector<Slot> slots_;
    bool is_restoring_ = false;
    std::vector<PciTopologyState::Occupant> expected_;
    std::size_t next_slot_ = 0;  // where the search for a free one begins
    // What is posted when the machine ends finds this gone.
    std::shared_ptr<PciTopology*> alive_;
};

}  // namespace wherry::vmm
