// A machine as a snapshot has it, without its memory. Plain values; a file's are hostile until restoring has judged
// them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "vmm/arch/x86_64/state.hpp"
#include "vmm/devices/balloon/state.hpp"
#include "vmm/devices/block/state.hpp"
#include "vmm/devices/entropy/state.hpp"
#include "vmm/devices/generation_id/device.hpp"
#include "vmm/devices/i8042/state.hpp"
#include "vmm/devices/mem/state.hpp"
#include "vmm/devices/net/state.hpp"
#include "vmm/devices/pmem/state.hpp"
#include "vmm/devices/serial/state.hpp"
#include "vmm/devices/vsock/state.hpp"
#include "vmm/machine/config.hpp"
#include "vmm/machine/pci_topology.hpp"
#include "vmm/mmds/service.hpp"
#include "vmm/virtio/slot_state.hpp"

namespace wherry::vmm {

// How the metadata service was set up. Its document and its tokens stay with the first machine.
struct MmdsState {
    mmds::Version version = mmds::Version::v1;
    mmds::Ipv4 address = {};
    bool imds_compatible = false;
    std::vector<std::string> network_interfaces;

    void fields(this auto& self, auto&& f) {
        f(self.version, self.address, self.imds_compatible, self.network_interfaces);
    }
};

struct MachineState {
    MachineConfig config;
    std::optional<BootSource> boot;
    std::optional<SerialConfig> serial_config;
    bool boot_timer = false;
    std::vector<GuestRange> memory;
    std::int64_t saved_at_ns = 0;  // CLOCK_REALTIME

    x86_64::PlatformState platform;
    std::vector<x86_64::ProcessorState> processors;

    serial::State serial;
    i8042::State keyboard;
    generation_id::State generation_id;
    std::vector<SlotState> transports;  // of the devices below, in the order of Machine::add_virtio_devices()
    std::optional<balloon::State> balloon;
    std::vector<block::State> drives;
    std::vector<net::State> networks;
    std::optional<vsock::State> vsock;
    std::optional<entropy::State> entropy;
    std::optional<mem::State> memory_hotplug;
    std::vector<pmem::State> pmems;
    std::optional<PciTopologyState> pci;  // none: virtio-mmio
    std::optional<MmdsState> mmds;

    void fields(this auto& self, auto&& f) {
        f(self.config, self.boot, self.serial_config, self.boot_timer, self.memory, self.saved_at_ns, self.platform,
          self.processors, self.serial, self.keyboard, self.generation_id, self.transports, self.balloon, self.drives,
          self.networks, self.vsock, self.entropy, self.memory_hotplug, self.pmems, self.pci, self.mmds);
    }
};

// To and from any descriptor (snapshot/file.hpp says what can be wrong with one).
Result<> write_state(int descriptor, const MachineState& state);
Result<MachineState> read_state(int descriptor);
// What the machine was built from.
Resources resources_of(const MachineState& state);

}  // namespace wherry::vmm
