#include "vmm/pci/configuration_space.hpp"

#include <linux/pci_regs.h>

#include <algorithm>
#include <cassert>
#include <cstring>

namespace wherry::vmm::pci {
namespace {

template <class T>
void store(ConfigurationSpace::Registers& registers, std::size_t at, T value) {
    assert(at + sizeof value <= registers.size());
    std::memcpy(registers.data() + at, &value, sizeof value);
}

template <class T>
T load(const ConfigurationSpace::Registers& registers, std::size_t at) {
    assert(at + sizeof(T) <= registers.size());
    T value = 0;
    std::memcpy(&value, registers.data() + at, sizeof value);
    return value;
}

}  // namespace

ConfigurationSpace::ConfigurationSpace(const Identity& identity) {
    set16(PCI_VENDOR_ID, identity.vendor);
    set16(PCI_DEVICE_ID, identity.device);
    set32(PCI_CLASS_REVISION, (identity.class_code << 8U) | identity.revision);
    set8(PCI_HEADER_TYPE, identity.header_type);
    allow16(PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
    allow8(PCI_CACHE_LINE_SIZE, 0xff);
    allow8(PCI_INTERRUPT_LINE, 0xff);
    if ((identity.header_type & 0x7fU) == PCI_HEADER_TYPE_NORMAL) {
        set16(PCI_SUBSYSTEM_VENDOR_ID, identity.subsystem_vendor);
        set16(PCI_SUBSYSTEM_ID, identity.subsystem);
    }
}

std::uint16_t ConfigurationSpace::get16(std::size_t at) const {
    return load<std::uint16_t>(registers_, at);
}
std::uint32_t ConfigurationSpace::get32(std::size_t at) const {
    return load<std::uint32_t>(registers_, at);
}
void ConfigurationSpace::set16(std::size_t at, std::uint16_t value) {
    store(registers_, at, value);
}
void ConfigurationSpace::set32(std::size_t at, std::uint32_t value) {
    store(registers_, at, value);
}
void ConfigurationSpace::allow16(std::size_t at, std::uint16_t mask) {
    store(writable_, at, mask);
}
void ConfigurationSpace::allow32(std::size_t at, std::uint32_t mask) {
    store(writable_, at, mask);
}
void ConfigurationSpace::clear_by_ones16(std::size_t at, std::uint16_t mask) {
    store(cleared_by_ones_, at, mask);
}

void ConfigurationSpace::read(std::uint32_t offset, std::span<std::byte> out) const {
    std::ranges::fill(out, std::byte{0});
    if (offset >= size) return;
    const std::size_t there = std::min(out.size(), size - offset);
    std::memcpy(out.data(), registers_.data() + offset, there);
}

void ConfigurationSpace::write(std::uint32_t offset, std::span<const std::byte> data) {
    for (std::size_t i = 0; i < data.size() && offset + i < size; ++i) {
        std::byte& target = registers_[offset + i];
        const std::byte mask = writable_[offset + i];
        target = (target & ~mask) | (data[i] & mask);
        target &= ~(data[i] & cleared_by_ones_[offset + i]);
    }
}

void ConfigurationSpace::set_memory_bar(unsigned index, std::uint32_t bytes) {
    assert(bytes >= 16 && (bytes & (bytes - 1)) == 0);
    allow32(PCI_BASE_ADDRESS_0 + std::size_t{4} * index, ~(bytes - 1));
}

std::uint32_t ConfigurationSpace::bar_address(unsigned index) const {
    return get32(PCI_BASE_ADDRESS_0 + std::size_t{4} * index) & ~0xfU;
}

std::uint8_t ConfigurationSpace::add_capability(std::uint8_t id, std::span<const std::byte> body) {
    const std::size_t at = next_capability_;
    assert(at + 2 + body.size() <= size);
    set8(at, id);
    set8(at + 1, 0);
    std::ranges::copy(body, registers_.begin() + static_cast<std::ptrdiff_t>(at + 2));
    set8(last_link_, static_cast<std::uint8_t>(at));
    last_link_ = at + 1;
    next_capability_ = (at + 2 + body.size() + 3) / 4 * 4;
    set16(PCI_STATUS, get16(PCI_STATUS) | PCI_STATUS_CAP_LIST);
    return static_cast<std::uint8_t>(at);
}

void ConfigurationSpace::restore(const Registers& saved) {
    for (std::size_t i = 0; i < size; ++i) {
        const std::byte mask = writable_[i] | cleared_by_ones_[i];
        registers_[i] = (registers_[i] & ~mask) | (saved[i] & mask);
    }
}

}  // namespace wherry::vmm::pci
