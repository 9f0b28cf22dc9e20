#include "vmm/arch/x86_64/tables.hpp"

#include <fmt/format.h>

#include <numeric>
#include <string>
#include <vector>

#include "vmm/arch/x86_64/aml.hpp"
#include "vmm/arch/x86_64/layout.hpp"

// Run once or by requests: small, not fast.
#pragma clang attribute push([[clang::minsize]], apply_to = function)

namespace wherry::vmm::x86_64 {
namespace {

// Bytes of a table, little-endian. Not inline: tables are long and made once.
class Table {
  public:
    [[gnu::noinline]] Table& u8(std::uint64_t value) { return little(value, 1); }
    [[gnu::noinline]] Table& u16(std::uint64_t value) { return little(value, 2); }
    [[gnu::noinline]] Table& u32(std::uint64_t value) { return little(value, 4); }
    [[gnu::noinline]] Table& u64(std::uint64_t value) { return little(value, 8); }
    [[gnu::noinline]] Table& zeros(std::size_t count) {
        bytes_.append(count, '\0');
        return *this;
    }
    [[gnu::noinline]] Table& text(std::string_view value) {
        bytes_.append(value);
        return *this;
    }
    // Generic address structure (ACPI 6.5, section 5.2.3.2): a byte register in port space.
    [[gnu::noinline]] Table& port_register(std::uint16_t port) { return u8(1).u8(8).u8(0).u8(1).u64(port); }
    void set_u8(std::size_t at, std::uint8_t value) { bytes_[at] = static_cast<char>(value); }
    void set_u32(std::size_t at, std::uint32_t value) {
        for (unsigned i = 0; i < 4; ++i) bytes_[at + i] = static_cast<char>((value >> (8 * i)) & 0xffU);
    }
    void set_u16(std::size_t at, std::uint16_t value) {
        for (unsigned i = 0; i < 2; ++i) bytes_[at + i] = static_cast<char>((value >> (8 * i)) & 0xffU);
    }
    // Makes the sum of bytes [from, to) zero by the byte at `at`.
    [[gnu::noinline]] void checksum(std::size_t at, std::size_t from, std::size_t to) {
        unsigned sum = 0;
        bytes_[at] = 0;
        for (std::size_t i = from; i < to; ++i) sum += static_cast<unsigned char>(bytes_[i]);
        bytes_[at] = static_cast<char>(0U - sum);
    }
    std::size_t size() const { return bytes_.size(); }
    const std::string& bytes() const { return bytes_; }

  private:
    [[gnu::noinline]] Table& little(std::uint64_t value, unsigned count) {
        for (unsigned i = 0; i < count; ++i) bytes_.push_back(static_cast<char>((value >> (8 * i)) & 0xffU));
        return *this;
    }
    std::string bytes_;
};

constexpr std::size_t header_bytes = 36;

Table description(std::string_view signature, unsigned revision) {
    Table table;
    table.text(signature).u32(0).u8(revision).u8(0).text("WHERRY").text("WHERRYVM").u32(1).text("WHRY").u32(1);
    return table;
}

void finish(Table& table) {
    table.set_u32(4, static_cast<std::uint32_t>(table.size()));
    table.checksum(9, 0, table.size());
}

aml::Bytes described_page(std::string_view device_name, std::string_view hid, const aml::Bytes& cid,
                          const aml::Bytes& more) {
    return aml::device(device_name, aml::name("_HID", aml::text(hid)) + aml::name("_CID", cid) + more);
}

aml::Bytes pci_terms() {
    using namespace aml;
    // Of what _OSC can give: hotplug by the ports themselves, and the PCI Express capabilities, without which Linux
    // wants nothing. Not power events, error reports or latencies: there are none.
    constexpr std::uint32_t native_hotplug = 1U << 0U, capability_structure = 1U << 4U;
    const auto window =
        memory_window32(static_cast<std::uint32_t>(pci_window_start), static_cast<std::uint32_t>(pci_window_bytes));
    const auto configuration = memory32(static_cast<std::uint32_t>(pci_configuration_address),
                                        static_cast<std::uint32_t>(pci_buses * pci_bus_bytes));
    return device("PCI0",
                  name("_HID", eisa_id("PNP0A08")) + name("_CID", eisa_id("PNP0A03")) + name("_UID", integer(0)) +
                      name("_SEG", integer(0)) + name("_BBN", integer(0)) + name("_CCA", integer(1)) +
                      name("_CRS", resources({bus_numbers(0, pci_buses), io_port(pci_configuration_port, 8), window})) +
                      grant_control(native_hotplug | capability_structure)) +
           // The board's own: Linux believes in the memory-mapped configuration space when it is reserved.
           device("MBRD", name("_HID", eisa_id("PNP0C02")) + name("_UID", integer(0)) +
                              name("_CRS", resources({configuration})));
}

std::string dsdt_terms(const Hardware& hardware) {
    using namespace aml;
    const auto devices = hardware.devices;
    Bytes terms =
        device("COM1", name("_HID", eisa_id("PNP0501")) + name("_UID", integer(0)) + name("_DDN", text("COM1")) +
                           name("_CRS", resources({interrupt(serial_irq), io_port(serial_port, 8)})));
    terms += device("PS2_", name("_HID", eisa_id("PNP0303")) +
                                name("_CRS", resources({io_port(keyboard_port, 1), io_port(keyboard_port + 4, 1),
                                                        interrupt(keyboard_irq)})));
    for (std::size_t i = 0; i < devices.size(); ++i) {
        terms += device(fmt::format("V{:03}", i),
                        name("_HID", text("LNRO0005")) + name("_UID", integer(i)) + name("_CCA", integer(1)) +
                            name("_CRS", resources({memory32(static_cast<std::uint32_t>(devices[i].address), 0x1000),
                                                    interrupt(devices[i].irq)})));
    }
    // The generation id is matched by its compatible id, in one of two spellings (the specification's and Linux').
    terms += described_page("VGEN", "WHRYVGID", package({text("VM_Gen_Counter"), text("VM_GEN_COUNTER")}),
                            name("_DDN", text("VM_Gen_Counter")) +
                                name("ADDR", package({integer(generation_id_address.value), integer(0)})));
    terms += described_page(
        "VCLK", "WHRYVCLK", text("VMCLOCK"),
        name("_DDN", text("VMCLOCK")) +
            name("_CRS", resources({memory32(static_cast<std::uint32_t>(clock_page_address.value), 0x1000)})));
    terms +=
        device("GED_", name("_HID", text("ACPI0013")) + name("_UID", integer(0)) +
                           name("_CRS", resources({interrupt(notification_irq)})) +
                           method("_EVT", 1, true,
                                  if_first_argument_is(notification_irq, notify("VGEN", 0x80) + notify("VCLK", 0x80))));
    if (hardware.has_pci) terms += pci_terms();
    return terms;
}

}  // namespace

Result<> write_acpi_tables(GuestMemory& memory, const Hardware& hardware) {
    const unsigned vcpus = hardware.vcpus;
    Table dsdt = description("DSDT", 2);
    dsdt.text(aml::scope("\\_SB_", dsdt_terms(hardware)));
    dsdt.text(aml::name("_S5_", aml::package({aml::integer(5), aml::integer(0), aml::integer(0), aml::integer(0)})));
    finish(dsdt);

    // Section 5.2.9. Hardware-reduced: no PM timer, no fixed events, no legacy interrupt controller to look for.
    constexpr std::uint32_t flags_wbinvd = 1U << 0U, flags_power_button = 1U << 4U, flags_sleep_button = 1U << 5U,
                            flags_reset_register = 1U << 10U, flags_hw_reduced = 1U << 20U;
    constexpr std::uint16_t boot_8042 = 1U << 1U, boot_no_vga = 1U << 2U, boot_no_msi_aspm = 1U << 4U,
                            boot_no_cmos_rtc = 1U << 5U;
    Table fadt = description("FACP", 6);
    fadt.u32(0).u32(0);             // FACS, DSDT (64-bit one below)
    fadt.zeros(109 - fadt.size());  // fixed hardware, none
    fadt.u16(boot_8042 | boot_no_vga | boot_no_msi_aspm | boot_no_cmos_rtc).u8(0);
    fadt.u32(flags_wbinvd | flags_power_button | flags_sleep_button | flags_reset_register | flags_hw_reduced);
    fadt.port_register(power_port + 2).u8(1);  // reset register, its value
    fadt.u16(0).u8(5);                         // minor version
    fadt.u64(0);                               // X_FACS
    const std::size_t x_dsdt = fadt.size();
    fadt.u64(acpi_tables_address.value);
    fadt.zeros(244 - fadt.size());
    fadt.port_register(power_port).port_register(power_port + 1);  // sleep control and status
    fadt.u64(0);                                                   // hypervisor vendor
    static_assert(header_bytes == 36);
    if (x_dsdt != 140 || fadt.size() != 276) return fail(Code::internal, "FADT has the wrong shape");
    finish(fadt);

    Table madt = description("APIC", 6);
    madt.u32(local_apic_address).u32(0);
    for (unsigned i = 0; i < vcpus; ++i) madt.u8(0).u8(8).u8(i).u8(i).u32(1);
    madt.u8(1).u8(12).u8(vcpus).u8(0).u32(ioapic_address).u32(0);
    finish(madt);

    Table mcfg = description("MCFG", 1);  // PCI Firmware 3.2, section 4.1.2
    mcfg.zeros(8).u64(pci_configuration_address).u16(0).u8(0).u8(pci_buses - 1).zeros(4);
    finish(mcfg);

    GuestAddress next = acpi_tables_address;
    std::vector<GuestAddress> placed;
    bool fits = true;
    const auto place = [&](const Table& table) {
        placed.push_back(next);
        fits = fits && next + table.size() <= rsdp_address && memory.write_bytes(next, table.bytes());
        next = GuestAddress{(next.value + table.size() + 15) / 16 * 16};
    };
    place(dsdt);
    place(fadt);
    place(madt);
    if (hardware.has_pci) place(mcfg);
    Table xsdt = description("XSDT", 1);
    for (const GuestAddress address : std::span(placed).subspan(1)) xsdt.u64(address.value);
    finish(xsdt);
    place(xsdt);

    Table rsdp;
    rsdp.text("RSD PTR ").u8(0).text("WHERRY").u8(2).u32(0).u32(36).u64(placed.back().value).u8(0).zeros(3);
    rsdp.checksum(8, 0, 20);
    rsdp.checksum(32, 0, 36);
    fits = fits && memory.write_bytes(rsdp_address, rsdp.bytes());
    if (!fits) return fail(Code::out_of_range, "the ACPI tables do not fit");
    return {};
}

Result<> write_mp_table(GuestMemory& memory, unsigned vcpus) {
    constexpr unsigned interrupts = 24;
    const unsigned ioapic_id = vcpus + 1;
    Table table;  // section 4.2
    table.text("PCMP").u16(0).u8(4).u8(0).text("WHERRY  ").text("000000000000").u32(0).u16(0);
    const std::size_t count_at = table.size();
    table.u16(0).u32(local_apic_address).u16(0).u8(0).u8(0);
    unsigned entries = 0;
    for (unsigned i = 0; i < vcpus; ++i, ++entries)
        table.u8(0).u8(i).u8(0x14).u8(1U | (i == 0 ? 2U : 0U)).u32(0x600).u32(0x201).zeros(8);
    table.u8(1).u8(0).text("ISA   ");
    table.u8(2).u8(ioapic_id).u8(0x14).u8(1).u32(ioapic_address);
    entries += 2;
    for (unsigned i = 0; i < interrupts; ++i, ++entries) table.u8(3).u8(0).u16(0).u8(0).u8(i).u8(ioapic_id).u8(i);
    table.u8(4).u8(3).u16(0).u8(0).u8(0).u8(0).u8(0);     // ExtINT to LINT0
    table.u8(4).u8(1).u16(0).u8(0).u8(0).u8(0xff).u8(1);  // NMI to LINT1 of all
    entries += 2;
    table.set_u16(4, static_cast<std::uint16_t>(table.size()));
    table.set_u16(count_at, static_cast<std::uint16_t>(entries));
    table.checksum(7, 0, table.size());

    Table pointer;  // section 4.1
    pointer.text("_MP_").u32(mp_table_address.value + 16).u8(1).u8(4).u8(0).zeros(5);
    pointer.checksum(10, 0, 16);
    if (!memory.write_bytes(mp_table_address, pointer.bytes()) ||
        !memory.write_bytes(mp_table_address + 16, table.bytes()))
        return fail(Code::out_of_range, "the MP table does not fit");
    return {};
}

}  // namespace wherry::vmm::x86_64

#pragma clang attribute pop
