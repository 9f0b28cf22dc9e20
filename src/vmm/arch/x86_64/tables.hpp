// The tables a guest finds its hardware by: ACPI (hardware-reduced) for those that have it, the MultiProcessor
// Specification's for those that don't.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.hpp"
#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm::x86_64 {

struct VirtioSlot {
    std::uint64_t address = 0;
    std::uint32_t irq = 0;
};

struct Hardware {
    unsigned vcpus = 1;
    std::span<const VirtioSlot> devices;
    bool has_pci = false;
};

// RSDP, XSDT, FADT, MADT, DSDT, and with PCI MCFG, at their places in layout.hpp.
Result<> write_acpi_tables(GuestMemory& memory, const Hardware& hardware);
// MP specification 1.4.
Result<> write_mp_table(GuestMemory& memory, unsigned vcpus);

}  // namespace wherry::vmm::x86_64
