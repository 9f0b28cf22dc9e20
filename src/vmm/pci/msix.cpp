#include "vmm/pci/msix.hpp"

#include <linux/pci_regs.h>

#include <algorithm>
#include <cstring>

namespace wherry::vmm::pci {
namespace {

constexpr std::size_t word = sizeof(std::uint32_t);

bool is_regular(std::uint64_t offset, std::size_t bytes) {
    return (bytes == word || bytes == 2 * word) && offset % bytes == 0;
}

}  // namespace

bool Msix::is_deaf(const MsixVector& vector) const {
    return vector.is_masked || (state_.control & PCI_MSIX_FLAGS_MASKALL) != 0;
}

void Msix::deliver_pending(MsixVector& vector) {
    if (!vector.is_pending || (state_.control & PCI_MSIX_FLAGS_ENABLE) == 0 || is_deaf(vector)) return;
    vector.is_pending = false;
    host_.send({vector.address, vector.data});
}

void Msix::set_control(std::uint16_t control) {
    const std::lock_guard lock(mutex_);
    if (state_.control == control) return;
    state_.control = control;
    for (MsixVector& vector : state_.vectors) deliver_pending(vector);
}

bool Msix::is_enabled() {
    const std::lock_guard lock(mutex_);
    return (state_.control & PCI_MSIX_FLAGS_ENABLE) != 0;
}

void Msix::signal(std::uint16_t number) {
    const std::lock_guard lock(mutex_);
    if (number >= state_.vectors.size() || (state_.control & PCI_MSIX_FLAGS_ENABLE) == 0) return;
    MsixVector& vector = state_.vectors[number];
    if (is_deaf(vector)) {
        vector.is_pending = true;
        return;
    }
    host_.send({vector.address, vector.data});
}

std::uint32_t Msix::read_word(std::uint64_t offset) const {
    const std::uint64_t index = offset / entry_bytes;
    if (index >= state_.vectors.size()) return 0;
    const MsixVector& vector = state_.vectors[index];
    switch (offset % entry_bytes) {
        case PCI_MSIX_ENTRY_LOWER_ADDR:
            return static_cast<std::uint32_t>(vector.address);
        case PCI_MSIX_ENTRY_UPPER_ADDR:
            return static_cast<std::uint32_t>(vector.address >> 32U);
        case PCI_MSIX_ENTRY_DATA:
            return vector.data;
        default:
            return vector.is_masked ? PCI_MSIX_ENTRY_CTRL_MASKBIT : 0;
    }
}

void Msix::write_word(std::uint64_t offset, std::uint32_t value) {
    const std::uint64_t index = offset / entry_bytes;
    if (index >= state_.vectors.size()) return;
    MsixVector& vector = state_.vectors[index];
    switch (offset % entry_bytes) {
        case PCI_MSIX_ENTRY_LOWER_ADDR:
            vector.address = (vector.address & ~0xffffffffULL) | (value & ~3U);
            return;
        case PCI_MSIX_ENTRY_UPPER_ADDR:
            vector.address = (vector.address & 0xffffffffULL) | (std::uint64_t{value} << 32U);
            return;
        case PCI_MSIX_ENTRY_DATA:
            vector.data = value;
            return;
        default:
            vector.is_masked = (value & PCI_MSIX_ENTRY_CTRL_MASKBIT) != 0;
            deliver_pending(vector);
    }
}

void Msix::read_table(std::uint64_t offset, std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0});
    if (!is_regular(offset, out.size())) return;
    const std::lock_guard lock(mutex_);
    for (std::size_t at = 0; at < out.size(); at += word) {
        const std::uint32_t value = read_word(offset + at);
        std::memcpy(out.data() + at, &value, word);
    }
}

void Msix::write_table(std::uint64_t offset, std::span<const std::byte> data) {
    if (!is_regular(offset, data.size())) return;
    const std::lock_guard lock(mutex_);
    for (std::size_t at = 0; at < data.size(); at += word) {
        std::uint32_t value = 0;
        std::memcpy(&value, data.data() + at, word);
        write_word(offset + at, value);
    }
}

void Msix::read_pending(std::uint64_t offset, std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0});
    if (!is_regular(offset, out.size())) return;
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < out.size(); ++i) {
        unsigned bits = 0;
        for (unsigned bit = 0; bit < 8; ++bit) {
            const std::uint64_t index = (offset + i) * 8 + bit;
            if (index < state_.vectors.size() && state_.vectors[index].is_pending) bits |= 1U << bit;
        }
        out[i] = static_cast<std::byte>(bits);
    }
}

MsixState Msix::save() {
    const std::lock_guard lock(mutex_);
    return state_;
}

Result<> Msix::restore(const MsixState& state) {
    const std::lock_guard lock(mutex_);
    if (state.vectors.size() != state_.vectors.size())
        return fail(Code::invalid_argument, "the state has another number of interrupt vectors");
    state_ = state;
    return {};
}

}  // namespace wherry::vmm::pci
