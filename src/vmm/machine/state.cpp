#include "vmm/machine/state.hpp"

#include "base/fd.hpp"
#include "vmm/snapshot/codec.hpp"
#include "vmm/snapshot/file.hpp"

namespace wherry::vmm {

Result<> write_state(int descriptor, const MachineState& state) {
    snapshot::Writer writer;
    writer(state);
    return write_all(descriptor, snapshot::wrap(writer.bytes(), snapshot::shape_of<MachineState>()));
}

Result<MachineState> read_state(int descriptor) {
    const std::string bytes = TRY(snapshot::read_wrapped(descriptor, snapshot::shape_of<MachineState>()));
    MachineState state;
    snapshot::Reader reader(bytes);
    reader(state);
    TRY(reader.finish());
    return state;
}

Resources resources_of(const MachineState& state) {
    Resources resources;
    resources.machine = state.config;
    resources.has_pci = state.pci.has_value();
    resources.boot = state.boot;
    resources.serial = state.serial_config;
    for (const block::State& drive : state.drives) resources.drives.push_back(drive.config);
    for (const net::State& network : state.networks) resources.networks.push_back(network.config);
    if (state.vsock) resources.vsock = state.vsock->config;
    if (state.balloon) resources.balloon = state.balloon->config;
    if (state.entropy) resources.entropy = state.entropy->config;
    if (state.memory_hotplug) resources.memory_hotplug = state.memory_hotplug->config;
    for (const pmem::State& pmem : state.pmems) resources.pmems.push_back(pmem.config);
    return resources;
}

}  // namespace wherry::vmm
