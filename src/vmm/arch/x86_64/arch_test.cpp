// Tables, kernels and CPUID.
#include <elf.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "vmm/arch/x86_64/cpu_template.hpp"
#include "vmm/arch/x86_64/cpuid.hpp"
#include "vmm/arch/x86_64/kernel.hpp"
#include "vmm/arch/x86_64/layout.hpp"
#include "vmm/arch/x86_64/platform.hpp"
#include "vmm/arch/x86_64/syscall_names.hpp"
#include "vmm/arch/x86_64/tables.hpp"
#include "vmm/testing/driver.hpp"

namespace wherry::vmm::x86_64 {
namespace {

unsigned sum(const GuestMemory& memory, GuestAddress address, std::uint64_t bytes) {
    unsigned total = 0;
    for (std::uint64_t i = 0; i < bytes; ++i) total += *memory.read<std::uint8_t>(address + i);
    return total & 0xffU;
}

TEST(Tables, AddUpToZero) {
    auto memory = testing::make_memory(4U << 20U);
    const std::vector<VirtioSlot> slots(18, {.address = virtio_start, .irq = 5});
    ASSERT_TRUE(write_acpi_tables(*memory, {.vcpus = 32, .devices = slots}));
    ASSERT_TRUE(write_mp_table(*memory, 32));
    EXPECT_EQ(sum(*memory, rsdp_address, 20), 0U);
    EXPECT_EQ(sum(*memory, rsdp_address, 36), 0U);
    const GuestAddress xsdt{*memory->read<std::uint64_t>(rsdp_address + 24)};
    for (GuestAddress table : {xsdt, GuestAddress{*memory->read<std::uint64_t>(xsdt + 36)},
                               GuestAddress{*memory->read<std::uint64_t>(xsdt + 44)}, acpi_tables_address})
        EXPECT_EQ(sum(*memory, table, *memory->read<std::uint32_t>(table + 4)), 0U) << table.value;
    EXPECT_EQ(sum(*memory, mp_table_address, 16), 0U);
    EXPECT_EQ(sum(*memory, mp_table_address + 16, *memory->read<std::uint16_t>(mp_table_address + 20)), 0U);
    // Clear of the generation id's page.
    EXPECT_LT(mp_table_address.value + 16 + *memory->read<std::uint16_t>(mp_table_address + 20),
              generation_id_address.value);
}

TEST(Memory, GoesAroundTheGap) {
    EXPECT_EQ(memory_ranges(128U << 20U).size(), 1U);
    const auto ranges = memory_ranges(5ULL << 30U);
    ASSERT_EQ(ranges.size(), 2U);
    EXPECT_EQ(ranges[0].bytes, gap_start);
    EXPECT_EQ(ranges[1].start.value, gap_end);
    EXPECT_EQ(ranges[0].bytes + ranges[1].bytes, 5ULL << 30U);
}

Fd file_of(std::string_view bytes) {
    // SAFETY: makes a descriptor, owned at once.
    Fd fd(memfd_create("kernel", MFD_CLOEXEC));
    EXPECT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    return fd;
}

struct Elf {
    Elf64_Ehdr header = {};
    Elf64_Phdr segments[2] = {};
    std::string bytes() const {
        std::string out(0x2000, 'k');
        std::memcpy(out.data(), &header, sizeof header);
        std::memcpy(out.data() + header.e_phoff % 0x1000, segments, sizeof segments);
        struct {
            Elf64_Nhdr note;
            char name[4];
            std::uint32_t entry;
        } note = {{4, 4, 18}, "Xen", 0x100040};
        std::memcpy(out.data() + 0x800, &note, sizeof note);
        return out;
    }
};

Elf good_elf() {
    Elf elf;
    std::memcpy(elf.header.e_ident, ELFMAG, SELFMAG);
    elf.header.e_ident[EI_CLASS] = ELFCLASS64;
    elf.header.e_ident[EI_DATA] = ELFDATA2LSB;
    elf.header.e_machine = EM_X86_64;
    elf.header.e_phoff = sizeof(Elf64_Ehdr);
    elf.header.e_phentsize = sizeof(Elf64_Phdr);
    elf.header.e_phnum = 2;
    elf.header.e_entry = 0x100000;
    elf.segments[0] = {.p_type = PT_LOAD,
                       .p_flags = 0,
                       .p_offset = 0x1000,
                       .p_vaddr = 0,
                       .p_paddr = 0x100000,
                       .p_filesz = 0x1000,
                       .p_memsz = 0x2000,
                       .p_align = 0};
    elf.segments[1] = {.p_type = PT_NULL,
                       .p_flags = 0,
                       .p_offset = 0x800,
                       .p_vaddr = 0,
                       .p_paddr = 0,
                       .p_filesz = 20,
                       .p_memsz = 20,
                       .p_align = 0};
    return elf;
}

TEST(Kernel, LoadsElfAndFindsItsPvhEntry) {
    auto memory = testing::make_memory(4U << 20U);
    Elf elf = good_elf();
    auto kernel = load_kernel(*memory, file_of(elf.bytes()).get());
    ASSERT_TRUE(kernel) << kernel.error().describe();
    EXPECT_EQ(kernel->protocol, BootProtocol::linux64);
    EXPECT_EQ(kernel->entry.value, 0x100000U);
    EXPECT_EQ(kernel->end.value, 0x102000U);
    EXPECT_EQ(memory->read<char>(GuestAddress{0x100fff}), 'k');
    EXPECT_EQ(memory->read<char>(GuestAddress{0x101000}), '\0');
    elf.segments[1].p_type = PT_NOTE;
    kernel = load_kernel(*memory, file_of(elf.bytes()).get());
    ASSERT_TRUE(kernel) << kernel.error().describe();
    EXPECT_EQ(kernel->protocol, BootProtocol::pvh);
    EXPECT_EQ(kernel->entry.value, 0x100040U);
}

TEST(Kernel, RefusesCrookedImages) {
    auto memory = testing::make_memory(4U << 20U);
    const auto refuses = [&](auto change) {
        Elf elf = good_elf();
        change(elf);
        return !load_kernel(*memory, file_of(elf.bytes()).get());
    };
    EXPECT_FALSE(refuses([](Elf&) {}));
    EXPECT_TRUE(refuses([](Elf& e) { e.header.e_machine = EM_AARCH64; }));
    EXPECT_TRUE(refuses([](Elf& e) { e.header.e_phnum = 0; }));
    EXPECT_TRUE(refuses([](Elf& e) { e.header.e_phentsize = 8; }));
    EXPECT_TRUE(refuses([](Elf& e) { e.header.e_entry = 1ULL << 40U; }));
    EXPECT_TRUE(refuses([](Elf& e) { e.segments[0].p_paddr = 0x1000; }));
    EXPECT_TRUE(refuses([](Elf& e) { e.segments[0].p_paddr = ~0ULL - 0x100; }));
    EXPECT_TRUE(refuses([](Elf& e) { e.segments[0].p_memsz = 4U << 20U; }));
    EXPECT_TRUE(refuses([](Elf& e) { e.segments[0].p_filesz = 0x3000; }));
    EXPECT_TRUE(refuses([](Elf& e) { e.segments[0].p_offset = ~0ULL; }));
    EXPECT_TRUE(refuses([](Elf& e) { e.segments[0].p_type = PT_NULL; }));
    EXPECT_FALSE(load_kernel(*memory, file_of("#!/bin/sh").get()));
    EXPECT_FALSE(load_kernel(*memory, file_of("").get()));
}

TEST(Kernel, PlacesTheInitrdAtTheEnd) {
    auto memory = testing::make_memory(4U << 20U);
    auto range = load_initrd(*memory, file_of("initrd").get(), GuestAddress{0x200000});
    ASSERT_TRUE(range);
    EXPECT_EQ(range->start.value, (4U << 20U) - 4096);
    EXPECT_EQ(range->bytes, 6U);
    EXPECT_FALSE(load_initrd(*memory, file_of("initrd").get(), GuestAddress{4U << 20U}));
    EXPECT_FALSE(load_initrd(*memory, file_of("").get(), GuestAddress{0}));
}

// A leaf's register in what the guest is told; the first entry of that leaf and subleaf.
const kvm_cpuid_entry2& leaf(const std::vector<kvm_cpuid_entry2>& entries, std::uint32_t function,
                             std::uint32_t subleaf = 0) {
    const auto found = std::ranges::find_if(
        entries, [&](const auto& entry) { return entry.function == function && entry.index == subleaf; });
    EXPECT_NE(found, entries.end()) << function;
    return found == entries.end() ? entries.front() : *found;
}

TEST(Cpuid, CarriesTheTopology) {
    // As newer KVMs name them: nothing of leaf 0xb but an empty subleaf, nothing of AMD's topology.
    std::vector<kvm_cpuid_entry2> entries;
    for (std::uint32_t function : {0U, 1U, 0xbU, 0x80000000U, 0x80000001U, 0x80000002U}) {
        kvm_cpuid_entry2 entry = {};
        entry.function = function;
        entries.push_back(entry);
    }
    entries[0].eax = 0xd;
    entries[0].ebx = 0x68747541;
    entries[3].eax = 0x80000008;
    const auto out = guest_cpuid(entries, {.vcpus = 4, .smt = true, .has_tsc_deadline = true}, 3);
    EXPECT_EQ(leaf(out, 1).ebx >> 24U, 3U);
    EXPECT_EQ((leaf(out, 1).ebx >> 16U) & 0xffU, 4U);
    EXPECT_EQ((leaf(out, 1).ecx >> 24U) & 1U, 1U);
    EXPECT_EQ(leaf(out, 1).ecx >> 31U, 1U);
    EXPECT_EQ(leaf(out, 0xb, 0).eax, 1U);
    EXPECT_EQ(leaf(out, 0xb, 0).ecx, 0x100U);
    EXPECT_EQ(leaf(out, 0xb, 1).eax, 2U);
    EXPECT_EQ(leaf(out, 0xb, 1).ebx, 4U);
    EXPECT_EQ(leaf(out, 0xb, 1).edx, 3U);
    EXPECT_EQ(leaf(out, 0x80000000).eax, 0x8000001eU);
    EXPECT_EQ((leaf(out, 0x80000001).ecx >> 22U) & 1U, 1U);
    EXPECT_EQ(leaf(out, 0x8000001e).eax, 3U);
    EXPECT_EQ(leaf(out, 0x8000001e).ebx, 0x101U);  // two threads a core; the second core
    EXPECT_EQ(std::memcmp(&leaf(out, 0x80000002).eax, "AMD ", 4), 0);
    EXPECT_TRUE(std::ranges::none_of(out, [](const auto& entry) { return entry.function == 0x1f; }));
    entries[0].ebx = 0x756e6547;
    const auto intel = guest_cpuid(entries, {.vcpus = 4, .smt = false, .has_tsc_deadline = true}, 3);
    EXPECT_EQ(leaf(intel, 0xb, 0).eax, 0U);
    EXPECT_EQ(leaf(intel, 0xb, 1).ebx, 4U);
    EXPECT_EQ((leaf(intel, 0x80000001).ecx >> 22U) & 1U, 0U);
    entries[0].ebx = 0x68747541;
    // Templates: of the right vendor, and only leaves that are there.
    EXPECT_FALSE(static_template(StaticTemplate::t2, entries));
    EXPECT_TRUE(static_template(StaticTemplate::t2a, entries));
    entries[1].ecx = 0xff;
    ASSERT_TRUE(apply_template(
        {.capabilities = {},
         .cpuid = {{.leaf = 1, .subleaf = 0, .flags = 0, .target = CpuidRegister::ecx, .filter = 0xf, .value = 5}},
         .msrs = {}},
        entries));
    EXPECT_EQ(entries[1].ecx, 0xf5U);
    EXPECT_FALSE(apply_template(
        {.capabilities = {},
         .cpuid = {{.leaf = 0x77, .subleaf = 0, .flags = 0, .target = CpuidRegister::ecx, .filter = 0xf, .value = 5}},
         .msrs = {}},
        entries));
}

TEST(SyscallNames, AreSorted) {
    EXPECT_EQ(syscall_number("read"), 0);
    EXPECT_EQ(syscall_number("openat"), 257);
    EXPECT_EQ(syscall_number("zzz"), std::nullopt);
}

}  // namespace
}  // namespace wherry::vmm::x86_64
