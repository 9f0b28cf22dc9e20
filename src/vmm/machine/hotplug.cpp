// Devices that come and go while the machine runs.
#include <fmt/format.h>

#include <algorithm>

#include "base/log.hpp"
#include "vmm/machine/machine.hpp"

namespace wherry::vmm {
namespace {

std::string_view kind_of(DeviceType type) {
    switch (type) {
        case DeviceType::block:
            return "drive";
        case DeviceType::net:
            return "network interface";
        case DeviceType::pmem:
            return "pmem device";
        default:
            return "device";
    }
}

template <class Devices>
const Device* find(const Devices& devices, const std::string& id) {
    for (const auto& device : devices)
        if (device->id() == id) return device.get();
    return nullptr;
}

template <class Devices>
void remove_from(Devices& devices, const Device& device) {
    std::erase_if(devices, [&](const auto& other) { return other.get() == &device; });
}

}  // namespace

bool Machine::can_be_unplugged(const Device& device) {
    const DeviceType type = device.type();
    return type == DeviceType::block || type == DeviceType::net || type == DeviceType::pmem;
}

Result<> Machine::add_pci(EventLoop& loop, const Callbacks& callbacks) {
    unplugging_ = callbacks.unplugging;
    unplugged_ = callbacks.unplugged;
    pci_ = std::make_unique<PciTopology>(loop, *vm_, memory_, [this](Device& device) { forget(device); });
    return pci_->register_on(registers_, ports_);
}

Result<> Machine::check_hotplug() const {
    if (!pci_)
        return fail(Code::conflict,
                    "The requested operation is not supported after starting the microVM: devices come and go while it "
                    "runs with --enable-pci only.");
    return {};
}

template <class Devices>
Result<> Machine::plug_into(Devices& devices, typename Devices::value_type device) {
    const std::string_view kind = kind_of(device->type());
    transports_.push_back(TRY(pci_->plug(device), fmt::format("{} {}", kind, device->id())));
    log_info("device.plugged", {{"kind", kind}, {"id", device->id()}});
    devices.push_back(std::move(device));
    return {};
}

Result<> Machine::plug(EventLoop& loop, const block::Config& config) {
    TRY(check_hotplug());
    return plug_into(drives_, TRY(block::BlockDevice::create(loop, config), "drive " + config.id));
}

Result<> Machine::plug(EventLoop& loop, const net::Config& config, std::shared_ptr<mmds::Service> mmds) {
    TRY(check_hotplug());
    return plug_into(networks_,
                     TRY(net::NetDevice::create(loop, config, std::move(mmds)), "network interface " + config.id));
}

Result<> Machine::plug(EventLoop& loop, const pmem::Config& config) {
    TRY(check_hotplug());
    return plug_into(pmems_, TRY(pmem::PmemDevice::create(loop, config, memory_), "pmem " + config.id));
}

Result<> Machine::unplug(DeviceType type, const std::string& id) {
    TRY(check_hotplug());
    const Device* device = type == DeviceType::block ? find(drives_, id)
                           : type == DeviceType::net ? find(networks_, id)
                                                     : find(pmems_, id);
    if (device == nullptr)
        return fail(Code::not_found, fmt::format("there is no {} with the id {}", kind_of(type), id));
    if (TRY(pci_->unplug(*device), fmt::format("{} {}", kind_of(type), id)) == PciTopology::Removal::asked_for)
        log_info("device.unplug_asked", {{"kind", kind_of(type)}, {"id", id}});
    return {};
}

void Machine::forget(Device& device) {
    const DeviceType type = device.type();
    const std::string id = device.id();  // the device may end here
    if (unplugging_) unplugging_();
    std::erase_if(transports_, [&](const auto& transport) { return &transport->device() == &device; });
    remove_from(drives_, device);
    remove_from(networks_, device);
    remove_from(pmems_, device);
    log_info("device.unplugged", {{"kind", kind_of(type)}, {"id", id}});
    if (unplugged_) unplugged_(type, id);
}

}  // namespace wherry::vmm
