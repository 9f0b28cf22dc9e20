// Vendor and device numbers. Drivers go by class and capabilities but for virtio's; the numbers of the bridges are
// those that pci.ids has for generic ones of virtual machines.
#pragma once

#include <cstdint>

namespace wherry::vmm::pci::identities {

inline constexpr std::uint16_t red_hat = 0x1b36;
inline constexpr std::uint16_t host_bridge = 0x0008;
inline constexpr std::uint16_t root_port = 0x000c;

// Virtio 1.2, section 4.1.2.
inline constexpr std::uint16_t virtio_vendor = 0x1af4;
inline constexpr std::uint16_t virtio_first = 0x1040;  // plus the type of the device
inline constexpr std::uint16_t virtio_subsystem = 0x1100;

}  // namespace wherry::vmm::pci::identities
