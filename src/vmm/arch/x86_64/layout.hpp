// Where things lie in a guest's physical memory on x86-64.
#pragma once

#include <cstdint>

#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm::x86_64 {

inline constexpr GuestAddress gdt_address{0x500};
inline constexpr GuestAddress idt_address{0x520};
inline constexpr GuestAddress pvh_info_address{0x6000};
inline constexpr GuestAddress pvh_modules_address{0x6040};
inline constexpr GuestAddress zero_page_address{0x7000};  // PVH: the memory map
inline constexpr GuestAddress boot_stack_address{0x8ff0};
inline constexpr GuestAddress page_tables_address{0x9000};  // three pages
inline constexpr GuestAddress command_line_address{0x20000};
inline constexpr std::uint64_t command_line_bytes = 2048;

// Memory of the platform: reserved in the guest's memory map. Starts at the last KiB of base memory, where kernels
// without ACPI look for the MP table.
inline constexpr GuestAddress system_start{0x9fc00};
inline constexpr GuestAddress mp_table_address{0x9fc00};
inline constexpr GuestAddress generation_id_address{0xa2000};  // a page
inline constexpr GuestAddress clock_page_address{0xa3000};     // a page
inline constexpr GuestAddress acpi_tables_address{0xa8000};
inline constexpr GuestAddress rsdp_address{0xe0000};
inline constexpr GuestAddress high_memory_start{0x100000};

// Memory-mapped registers live between 3 and 4 GiB; guest memory goes around.
inline constexpr std::uint64_t gap_start = 0xc0000000;
inline constexpr std::uint64_t gap_end = 0x100000000;
inline constexpr std::uint64_t boot_timer_address = gap_start;
inline constexpr std::uint64_t virtio_start = gap_start + 0x1000;
// PCI, where it is enabled: BARs of devices on bus 0 in the first MiB of the window, then a MiB a root port; and the
// configuration space, a MiB a bus.
inline constexpr std::uint64_t pci_window_start = 0xd0000000;
inline constexpr std::uint64_t pci_window_bytes = 0x10000000;
inline constexpr std::uint64_t pci_port_window_bytes = 0x100000;
inline constexpr std::uint64_t pci_configuration_address = 0xe0000000;
inline constexpr std::uint64_t pci_bus_bytes = 0x100000;
inline constexpr unsigned pci_buses = 64;  // bus 0 and one for each root port
// Memory that devices bring (pmem, memory hotplug) begins here, behind the guest's own, as far as the processor's
// physical addresses reach; see device_memory_space().
inline constexpr std::uint64_t device_memory_start = 512ULL << 30U;
inline constexpr std::uint64_t ioapic_address = 0xfec00000;
inline constexpr std::uint64_t local_apic_address = 0xfee00000;
inline constexpr std::uint64_t tss_address = 0xfffbd000;

inline constexpr std::uint32_t serial_irq = 4;
inline constexpr std::uint32_t keyboard_irq = 1;
inline constexpr std::uint32_t first_virtio_irq = 5;
inline constexpr std::uint32_t last_virtio_irq = 22;
inline constexpr std::uint32_t notification_irq = 23;  // of the generation id and the clock page, by ACPI's GED

inline constexpr std::uint16_t serial_port = 0x3f8;
inline constexpr std::uint16_t keyboard_port = 0x60;            // and 0x64
inline constexpr std::uint16_t pci_configuration_port = 0xcf8;  // address; 0xcfc: data
// ACPI's sleep control, sleep status and reset registers (hardware-reduced ACPI, section 4.8.3.7).
inline constexpr std::uint16_t power_port = 0x600;

}  // namespace wherry::vmm::x86_64
