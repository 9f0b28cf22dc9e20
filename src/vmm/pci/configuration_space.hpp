// The registers of one PCI function (PCI Local Bus 3.0, chapter 6): 256 bytes with a mask of what software may write
// and one of what it clears by writing ones, and a list of capabilities. Knows nothing of what the registers mean.
// Not thread-safe: its function has a lock.
//
//     ConfigurationSpace space({.vendor = 0x1af4, .device = 0x1042, .class_code = 0x018000});
//     space.set_memory_bar(0, 0x8000);
//     const std::uint8_t msix = space.add_capability(PCI_CAP_ID_MSIX, body);
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace wherry::vmm::pci {

struct Identity {
    std::uint16_t vendor = 0;
    std::uint16_t device = 0;
    std::uint32_t class_code = 0;  // class, subclass, interface: 24 bits
    std::uint8_t revision = 0;
    std::uint8_t header_type = 0;  // 0: device, 1: bridge; bit 7: several functions
    std::uint16_t subsystem_vendor = 0;
    std::uint16_t subsystem = 0;
};

class ConfigurationSpace {
  public:
    static constexpr std::size_t size = 256;
    using Registers = std::array<std::byte, size>;

    explicit ConfigurationSpace(const Identity& identity);

    // Any offset and width; what lies behind the end reads as zero, as a function without extended capabilities does.
    void read(std::uint32_t offset, std::span<std::byte> out) const;
    void write(std::uint32_t offset, std::span<const std::byte> data);

    // The function's own view, little-endian; offsets are the caller's constants.
    std::uint8_t get8(std::size_t at) const { return std::to_integer<std::uint8_t>(registers_[at]); }
    std::uint16_t get16(std::size_t at) const;
    std::uint32_t get32(std::size_t at) const;
    void set8(std::size_t at, std::uint8_t value) { registers_[at] = std::byte{value}; }
    void set16(std::size_t at, std::uint16_t value);
    void set32(std::size_t at, std::uint32_t value);
    void allow8(std::size_t at, std::uint8_t mask) { writable_[at] = std::byte{mask}; }
    void allow16(std::size_t at, std::uint16_t mask);
    void allow32(std::size_t at, std::uint32_t mask);
    void clear_by_ones16(std::size_t at, std::uint16_t mask);

    // A 32-bit memory BAR that is not prefetchable, of a power of two bytes (at least 16).
    void set_memory_bar(unsigned index, std::uint32_t bytes);
    // Where the BAR is; 0 when software has not placed it.
    std::uint32_t bar_address(unsigned index) const;
    // Places `body` (what follows the two bytes of the list) and links it; its offset.
    std::uint8_t add_capability(std::uint8_t id, std::span<const std::byte> body);

    const Registers& registers() const { return registers_; }
    // Only what software may have changed is taken over: the rest is what the function is.
    void restore(const Registers& saved);

  private:
    Registers registers_ = {};
    Registers writable_ = {};
    Registers cleared_by_ones_ = {};
    std::size_t next_capability_ = 0x40;
    std::size_t last_link_ = 0x34;
};

}  // namespace wherry::vmm::pci
