#include "vmm/pci/root_complex.hpp"

#include <linux/pci_regs.h>

#include <algorithm>
#include <cassert>

#include "vmm/pci/configuration_space.hpp"
#include "vmm/pci/identities.hpp"

namespace wherry::vmm::pci {
namespace {

constexpr std::uint32_t class_host_bridge = 0x060000;

class HostBridge final : public Function {
  public:
    // Its registers never change what it does, so guests may write them without a lock... and nothing is writable.
    void read_configuration(std::uint32_t offset, std::span<std::byte> out) override { space_.read(offset, out); }
    void write_configuration(std::uint32_t, std::span<const std::byte>) override {}

  private:
    const ConfigurationSpace space_{{.vendor = identities::red_hat,
                                     .device = identities::host_bridge,
                                     .class_code = class_host_bridge,
                                     .subsystem_vendor = identities::virtio_vendor,
                                     .subsystem = identities::virtio_subsystem}};
};

void nobody(std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0xff});
}

}  // namespace

RootComplex::RootComplex(const Window& window) : window_(window) {
    functions_[0] = std::make_shared<HostBridge>();
}

void RootComplex::add(unsigned device, unsigned function, std::shared_ptr<Function> what) {
    assert(device < 32 && function < 8);
    with_memory_.push_back(what);
    functions_[device * 8U + function] = std::move(what);
}

void RootComplex::add_port(unsigned device, unsigned function, std::shared_ptr<RootPort> port) {
    assert(device < 32 && function < 8);
    ports_.push_back(port);
    functions_[device * 8U + function] = std::move(port);
}

std::shared_ptr<Function> RootComplex::find(std::uint8_t bus, std::uint8_t device_and_function) const {
    if (bus == 0) return functions_[device_and_function];
    if (device_and_function != 0) return nullptr;
    for (const auto& port : ports_)
        if (auto function = port->on_bus(bus)) return function;
    return nullptr;
}

std::shared_ptr<Function> RootComplex::find_memory(std::uint64_t address, std::uint64_t bytes) const {
    const auto answers = [&](Function& function) {
        const auto window = function.window();
        return window && window->contains(address, bytes);
    };
    for (const auto& function : with_memory_)
        if (answers(*function)) return function;
    for (const auto& port : ports_)
        if (auto function = port->behind(address, bytes); function && answers(*function)) return function;
    return nullptr;
}

void EnhancedConfiguration::read(std::uint64_t offset, std::span<std::byte> out) {
    const auto function =
        complex_->find(static_cast<std::uint8_t>(offset >> 20U), static_cast<std::uint8_t>(offset >> 12U));
    if (!function) return nobody(out);
    function->read_configuration(static_cast<std::uint32_t>(offset & 0xfffU), out);
}

void EnhancedConfiguration::write(std::uint64_t offset, std::span<const std::byte> data) {
    const auto function =
        complex_->find(static_cast<std::uint8_t>(offset >> 20U), static_cast<std::uint8_t>(offset >> 12U));
    if (function) function->write_configuration(static_cast<std::uint32_t>(offset & 0xfffU), data);
}

std::shared_ptr<Function> ConfigurationPorts::selected() const {
    constexpr std::uint32_t enable = 1U << 31U;
    const std::uint32_t address = address_.load();
    if ((address & enable) == 0) return nullptr;
    return complex_->find(static_cast<std::uint8_t>(address >> 16U), static_cast<std::uint8_t>(address >> 8U));
}

void ConfigurationPorts::read(std::uint64_t offset, std::span<std::byte> out) {
    nobody(out);
    if (offset < 4) {
        if (offset != 0 || out.size() != 4) return;
        const std::uint32_t address = address_.load();
        for (std::size_t i = 0; i < 4; ++i) out[i] = static_cast<std::byte>(address >> (8 * i));
        return;
    }
    if (const auto function = selected())
        function->read_configuration((address_.load() & 0xfcU) + static_cast<std::uint32_t>(offset - 4), out);
}

void ConfigurationPorts::write(std::uint64_t offset, std::span<const std::byte> data) {
    if (offset < 4) {
        if (offset != 0 || data.size() != 4) return;
        std::uint32_t address = 0;
        for (std::size_t i = 0; i < 4; ++i) address |= std::to_integer<std::uint32_t>(data[i]) << (8 * i);
        address_ = address;
        return;
    }
    if (const auto function = selected())
        function->write_configuration((address_.load() & 0xfcU) + static_cast<std::uint32_t>(offset - 4), data);
}

void MemoryWindow::read(std::uint64_t offset, std::span<std::byte> out) {
    const std::uint64_t address = complex_->window().start + offset;
    const auto function = complex_->find_memory(address, out.size());
    // It may have moved since: its own window decides where in it this is.
    const auto window = function ? function->window() : std::nullopt;
    if (!window || !window->contains(address, out.size())) return nobody(out);
    function->read_memory(address - window->start, out);
}

void MemoryWindow::write(std::uint64_t offset, std::span<const std::byte> data) {
    const std::uint64_t address = complex_->window().start + offset;
    const auto function = complex_->find_memory(address, data.size());
    const auto window = function ? function->window() : std::nullopt;
    if (window && window->contains(address, data.size())) function->write_memory(address - window->start, data);
}

}  // namespace wherry::vmm::pci
