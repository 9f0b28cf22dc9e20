#include "vmm/machine/pci_topology.hpp"

#include <linux/kvm.h>

#include <algorithm>

#include "base/log.hpp"
#include "vmm/arch/x86_64/layout.hpp"

namespace wherry::vmm {
namespace {

constexpr unsigned first_port_device = 16, last_fixed_device = 15;
constexpr std::size_t most_slots = x86_64::pci_buses - 1;

// A processor's thread may be in one of the function's registers, and must not be the one that destroys it.
void end_here(EventLoop& loop, std::shared_ptr<PciTransport> transport) {
    if (transport.use_count() > 1)
        loop.post([&loop, transport = std::move(transport)]() mutable { end_here(loop, std::move(transport)); });
}

}  // namespace

class PciTopology::KvmHost final : public pci::Host {
  public:
    explicit KvmHost(const kvm::Vm& vm)
        : vm_(vm), doorbell_bytes_(vm.check_extension(KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0 ? 0 : 2) {}

    void send(const pci::Message& message) override {
        // A guest may have put an address there that no interrupt controller has: nobody hears of it then.
        if (auto sent = vm_.signal_message(message.address, message.data); !sent)
            log_debug("pci.message", {{"error", sent.error()}});
    }
    Result<> map_doorbell(std::uint64_t address, int eventfd) override {
        return vm_.add_io_event({.address = address, .bytes = doorbell_bytes_, .value = {}}, eventfd);
    }
    void unmap_doorbell(std::uint64_t address, int eventfd) override {
        if (auto gone = vm_.remove_io_event({.address = address, .bytes = doorbell_bytes_, .value = {}}, eventfd);
            !gone)
            log_error("pci.doorbell_stays", {{"error", gone.error()}});
    }

  private:
    const kvm::Vm& vm_;
    const std::uint32_t doorbell_bytes_;
};

PciTopology::PciTopology(EventLoop& loop, const kvm::Vm& vm, std::shared_ptr<GuestMemory> memory,
                         std::function<void(Device&)> gone)
    : loop_(loop),
      memory_(std::move(memory)),
      gone_(std::move(gone)),
      host_(std::make_unique<KvmHost>(vm)),
      complex_(std::make_shared<pci::RootComplex>(pci::Window{x86_64::pci_window_start, x86_64::pci_window_bytes})),
      configuration_ports_(std::make_shared<pci::ConfigurationPorts>(complex_)),
      alive_(std::make_shared<PciTopology*>(this)) {}

PciTopology::~PciTopology() {
    for (auto& transport : fixed_) transport->detach();
    for (Slot& slot : slots_)
        if (slot.transport) slot.transport->detach();
}

Result<> PciTopology::register_on(Bus& registers, Bus& ports) {
    TRY(registers.add(x86_64::pci_window_start, x86_64::pci_window_bytes,
                      std::make_shared<pci::MemoryWindow>(complex_)));
    TRY(registers.add(x86_64::pci_configuration_address, x86_64::pci_buses * x86_64::pci_bus_bytes,
                      std::make_shared<pci::EnhancedConfiguration>(complex_)));
    return ports.add(x86_64::pci_configuration_port, 8, configuration_ports_);
}

Result<std::shared_ptr<PciTransport>> PciTopology::make_transport(std::shared_ptr<Device> device,
                                                                  std::uint64_t address) {
    return PciTransport::create(loop_, std::move(device), memory_, *host_, complex_->window(),
                                static_cast<std::uint32_t>(address));
}

Result<std::shared_ptr<PciTransport>> PciTopology::attach(std::shared_ptr<Device> device) {
    const auto number = static_cast<unsigned>(fixed_.size() + 1);
    if (number > last_fixed_device) return fail(Code::resource_exhausted, "more devices than PCI bus 0 has room for");
    const std::uint64_t address = x86_64::pci_window_start + fixed_.size() * std::uint64_t{PciTransport::bar_bytes};
    fixed_.push_back(TRY(make_transport(std::move(device), address)));
    complex_->add(number, 0, fixed_.back());
    return fixed_.back();
}

PciTopology::Slot& PciTopology::new_slot() {
    const std::size_t index = slots_.size();
    const auto number = static_cast<std::uint8_t>(index + 1);
    const pci::RootPort::Place place{
        .number = number,
        .secondary_bus = number,
        .memory = {x86_64::pci_window_start + x86_64::pci_port_window_bytes * number, x86_64::pci_port_window_bytes}};
    auto port = std::make_shared<pci::RootPort>(*host_, place, [this, index] { released(index); });
    complex_->add_port(first_port_device + static_cast<unsigned>(index / 8), static_cast<unsigned>(index % 8), port);
    return slots_.emplace_back(std::move(port), nullptr);
}

Result<std::shared_ptr<PciTransport>> PciTopology::attach_to_slot(std::shared_ptr<Device> device) {
    if (is_restoring_) return attach_as_expected(std::move(device));
    if (slots_.size() == most_slots)
        return fail(Code::resource_exhausted, "more devices than PCI slots: at most " + std::to_string(most_slots));
    Slot& slot = new_slot();
    slot.transport = TRY(make_transport(std::move(device), slot.port->place().memory.start));
    slot.port->insert(slot.transport);
    return slot.transport;
}

Result<std::shared_ptr<PciTransport>> PciTopology::attach_as_expected(std::shared_ptr<Device> device) {
    const auto type = static_cast<std::uint32_t>(device->type());
    const auto found = std::ranges::find_if(expected_, [&](const PciTopologyState::Occupant& occupant) {
        return occupant.type == type && occupant.id == device->id();
    });
    if (found == expected_.end() || slots_[found->slot].transport)
        return fail(Code::invalid_argument, "the state has no PCI slot for " + device->id());
    Slot& slot = slots_[found->slot];
    slot.transport = TRY(make_transport(std::move(device), 0));
    slot.port->insert(slot.transport);
    return slot.transport;
}

PciTopologyState PciTopology::save() {
    PciTopologyState state;
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        state.ports.push_back(slots_[i].port->save());
        if (!slots_[i].transport) continue;
        const Device& device = slots_[i].transport->device();
        state.occupants.push_back({.slot = static_cast<std::uint32_t>(i),
                                   .type = static_cast<std::uint32_t>(device.type()),
                                   .id = device.id()});
    }
    state.configuration_address = configuration_ports_->save();
    state.next_slot = static_cast<std::uint32_t>(next_slot_);
    return state;
}

Result<> PciTopology::expect(const PciTopologyState& state) {
    if (state.ports.size() > most_slots) return fail(Code::invalid_argument, "the state has too many PCI slots");
    for (const auto& occupant : state.occupants)
        if (occupant.slot >= state.ports.size())
            return fail(Code::invalid_argument, "the state has a device in a PCI slot that is not there");
    add_slots(state.ports.size());
    expected_ = state.occupants;
    is_restoring_ = true;
    return {};
}

Result<> PciTopology::restore(const PciTopologyState& state) {
    for (const auto& occupant : expected_)
        if (!slots_[occupant.slot].transport)
            return fail(Code::invalid_argument, "the state has no device for a PCI slot that has one");
    if (slots_.size() != state.ports.size()) return fail(Code::invalid_argument, "the state has other PCI slots");
    for (std::size_t i = 0; i < slots_.size(); ++i) slots_[i].port->restore(state.ports[i]);
    configuration_ports_->restore(state.configuration_address);
    next_slot_ = state.next_slot;
    expected_.clear();
    is_restoring_ = false;
    return {};
}

void PciTopology::add_spare_slots() {
    if (!is_restoring_) add_slots(spare_slots);
}

void PciTopology::add_slots(std::size_t count) {
    while (count > 0 && slots_.size() < most_slots) {
        new_slot();
        --count;
    }
}

Result<std::shared_ptr<PciTransport>> PciTopology::plug(std::shared_ptr<Device> device) {
    // The slot that has been free for longest: a guest may still be busy with the last one.
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        const std::size_t index = (next_slot_ + i) % slots_.size();
        Slot& slot = slots_[index];
        if (slot.transport) continue;
        slot.transport = TRY(make_transport(std::move(device), 0));
        slot.port->plug(slot.transport);
        next_slot_ = index + 1;
        return slot.transport;
    }
    return fail(Code::conflict, "no PCI slot is free");
}

Result<PciTopology::Removal> PciTopology::unplug(const Device& device) {
    for (Slot& slot : slots_) {
        if (!slot.transport || &slot.transport->device() != &device) continue;
        if (slot.transport->is_driven()) {
            TRY(slot.port->request_removal());
            return Removal::asked_for;
        }
        take_out(slot);
        return Removal::done;
    }
    return fail(Code::not_found, "the device is in no PCI slot");
}

void PciTopology::take_out(Slot& slot) {
    slot.port->unplug();
    auto transport = std::exchange(slot.transport, nullptr);
    transport->detach();
    gone_(transport->device());
    end_here(loop_, std::move(transport));
}

// On a processor's thread.
void PciTopology::released(std::size_t index) {
    loop_.post([alive = std::weak_ptr(alive_), index] {
        const auto topology = alive.lock();
        if (!topology) return;
        Slot& slot = (*topology)->slots_[index];
        // Unless another function has come there meanwhile.
        if (slot.transport && slot.port->is_released()) (*topology)->take_out(slot);
    });
}

}  // namespace wherry::vmm
