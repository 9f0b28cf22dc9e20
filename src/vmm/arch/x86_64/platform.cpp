#include "vmm/arch/x86_64/platform.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace wherry::vmm::x86_64 {
namespace {

// Segment descriptors as the table has them, and as KVM wants them.
constexpr std::uint64_t code64 = 0x00af9b000000ffff, code32 = 0x00cf9b000000ffff, data_flat = 0x00cf93000000ffff,
                        tss = 0x008f8b000000ffff;

kvm_segment to_segment(std::uint64_t descriptor, std::uint16_t selector) {
    kvm_segment segment = {};
    segment.base = ((descriptor >> 16U) & 0xffffffU) | ((descriptor >> 32U) & 0xff000000U);
    const std::uint64_t limit = (descriptor & 0xffffU) | ((descriptor >> 32U) & 0xf0000U);
    segment.g = (descriptor >> 55U) & 1U;
    segment.limit = static_cast<std::uint32_t>(segment.g != 0 ? (limit << 12U) | 0xfffU : limit);
    segment.selector = selector;
    segment.type = (descriptor >> 40U) & 0xfU;
    segment.s = (descriptor >> 44U) & 1U;
    segment.dpl = (descriptor >> 45U) & 3U;
    segment.present = (descriptor >> 47U) & 1U;
    segment.avl = (descriptor >> 52U) & 1U;
    segment.l = (descriptor >> 53U) & 1U;
    segment.db = (descriptor >> 54U) & 1U;
    return segment;
}

constexpr std::uint64_t cr0_pe = 1, cr0_et = 0x10, cr0_pg = 0x80000000, cr4_pae = 0x20, efer_lme = 0x100,
                        efer_lma = 0x400;

Result<> set_special(const kvm::Vcpu& vcpu, BootProtocol protocol) {
    kvm_sregs special = TRY(kvm::get_special_registers(vcpu));
    const bool is_pvh = protocol == BootProtocol::pvh;
    special.gdt.base = gdt_address.value;
    special.gdt.limit = 4 * 8 - 1;
    special.idt.base = idt_address.value;
    special.idt.limit = 7;
    special.cs = to_segment(is_pvh ? code32 : code64, 8);
    special.ds = special.es = special.fs = special.gs = special.ss = to_segment(data_flat, 16);
    special.tr = to_segment(tss, 24);
    if (is_pvh) {  // 32-bit protected mode, no paging
        special.cr0 = cr0_pe | cr0_et;
        special.cr4 = 0;
    } else {
        special.cr0 |= cr0_pe | cr0_pg;
        special.cr3 = page_tables_address.value;
        special.cr4 |= cr4_pae;
        special.efer |= efer_lme | efer_lma;
    }
    return kvm::set_special_registers(vcpu, special);
}

Result<> set_general(const kvm::Vcpu& vcpu, const LoadedKernel& kernel) {
    kvm_regs registers = {};
    registers.rflags = 2;
    registers.rip = kernel.entry.value;
    if (kernel.protocol == BootProtocol::pvh) {
        registers.rbx = pvh_info_address.value;
    } else {
        registers.rsp = registers.rbp = boot_stack_address.value;
        registers.rsi = zero_page_address.value;
    }
    return kvm::set_registers(vcpu, registers);
}

Result<> set_first_msrs(const kvm::Vcpu& vcpu, const std::vector<MsrModifier>& modifiers) {
    constexpr std::uint32_t misc_enable = 0x1a0, mtrr_default_type = 0x2ff;
    // Fast string operations; write-back memory unless a range says otherwise. Both are what firmware would set.
    const std::array<kvm_msr_entry, 2> first = {
        {{.index = misc_enable, .reserved = 0, .data = 1},
         {.index = mtrr_default_type, .reserved = 0, .data = (1U << 11U) | 6U}}};
    TRY(kvm::set_msrs(vcpu, first));
    for (const MsrModifier& modifier : modifiers) {
        const std::array<std::uint32_t, 1> index = {modifier.address};
        auto entries = TRY(kvm::get_msrs(vcpu, index), "MSR of the CPU template");
        entries[0].data = (entries[0].data & ~modifier.filter) | (modifier.value & modifier.filter);
        TRY(kvm::set_msrs(vcpu, entries), "MSR of the CPU template");
    }
    return {};
}

Result<> set_local_interrupts(const kvm::Vcpu& vcpu) {
    kvm_lapic_state apic = TRY(kvm::get_local_apic(vcpu));
    const auto set_mode = [&apic](std::size_t offset, std::uint32_t mode) {
        std::uint32_t value = 0;
        std::memcpy(&value, apic.regs + offset, sizeof value);
        value = (value & ~0x700U) | (mode << 8U);
        std::memcpy(apic.regs + offset, &value, sizeof value);
    };
    set_mode(0x350, 7);  // LINT0: ExtINT
    set_mode(0x360, 4);  // LINT1: NMI
    return kvm::set_local_apic(vcpu, apic);
}

// All that the processor can save is on from the start: hosts exist that do not intercept XSETBV when nested.
Result<> set_extended_state(const kvm::Vcpu& vcpu, const std::vector<kvm_cpuid_entry2>& cpuid) {
    std::uint64_t supported = 1;
    for (const auto& entry : cpuid)
        if (entry.function == 0xd && entry.index == 0) supported |= entry.eax | (std::uint64_t{entry.edx} << 32U);
    kvm_xcrs state = {};
    state.nr_xcrs = 1;
    state.xcrs[0].xcr = 0;
    state.xcrs[0].value = supported;
    return kvm::set_extended_control_registers(vcpu, state);
}

}  // namespace

std::vector<GuestRange> memory_ranges(std::uint64_t bytes) {
    if (bytes <= gap_start) return {{GuestAddress{0}, bytes}};
    return {{GuestAddress{0}, gap_start}, {GuestAddress{gap_end}, bytes - gap_start}};
}

GuestRange device_memory_space(std::uint64_t bytes, std::span<const kvm_cpuid_entry2> cpuid) {
    unsigned bits = 36;
    for (const auto& entry : cpuid)
        if (entry.function == 0x80000008) bits = entry.eax & 0xffU;
    // Linux maps 46 bits of memory with four levels of page tables.
    const std::uint64_t limit = 1ULL << std::min(bits, 46U);
    const std::uint64_t behind = std::max(memory_ranges(bytes).back().end().value, gap_end);
    // Processors with less than 40 bits have their upper half for it.
    const std::uint64_t start = std::max(std::min(device_memory_start, limit / 2), behind);
    return {GuestAddress{start}, start < limit ? limit - start : 0};
}

Result<> create_platform(const kvm::Vm& vm) {
    TRY(kvm::set_tss_address(vm, tss_address));
    TRY(kvm::create_interrupt_controllers(vm));
    return kvm::create_timer(vm);
}

Result<ProcessorSetup> prepare_processors(const kvm::System& system, const CpuTopology& topology,
                                          StaticTemplate static_name, const CpuTemplate& custom) {
    for (const KvmCapability& capability : custom.capabilities) {
        if (!capability.is_removed && system.check_extension(static_cast<int>(capability.number)) == 0)
            return fail(Code::invalid_argument,
                        fmt::format("CPU template: this host's KVM lacks capability {}", capability.number));
    }
    ProcessorSetup setup;
    setup.topology = topology;
    setup.topology.has_tsc_deadline = system.check_extension(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    setup.cpuid = TRY(kvm::supported_cpuid(system));
    const CpuTemplate chosen = TRY(static_template(static_name, setup.cpuid));
    TRY(apply_template(chosen, setup.cpuid));
    TRY(apply_template(custom, setup.cpuid));
    setup.msrs = chosen.msrs;
    setup.msrs.insert(setup.msrs.end(), custom.msrs.begin(), custom.msrs.end());
    return setup;
}

Result<> setup_processor(const kvm::Vcpu& vcpu, std::uint32_t index, const ProcessorSetup& setup,
                         const LoadedKernel* kernel) {
    const auto cpuid = guest_cpuid(setup.cpuid, setup.topology, index);
    TRY(kvm::set_cpuid(vcpu, cpuid));
    TRY(set_extended_state(vcpu, cpuid), "XCR0");
    TRY(set_first_msrs(vcpu, setup.msrs));
    kvm_fpu fpu = {};
    fpu.fcw = 0x37f;
    fpu.mxcsr = 0x1f80;
    TRY(kvm::set_fpu(vcpu, fpu));
    TRY(set_local_interrupts(vcpu));
    if (kernel == nullptr) return {};
    TRY(set_special(vcpu, kernel->protocol));
    return set_general(vcpu, *kernel);
}

Result<> write_boot_tables(GuestMemory& memory) {
    bool written = true;
    const std::array<std::uint64_t, 4> gdt = {0, code64, data_flat, tss};
    for (std::size_t i = 0; i < gdt.size(); ++i) written = written && memory.write(gdt_address + i * 8, gdt[i]);
    written = written && memory.write(idt_address, std::uint64_t{0});
    // The first GiB, mapped as it lies, by 2 MiB pages.
    constexpr std::uint64_t present_writable = 3, large = 0x80;
    written = written && memory.write(page_tables_address, (page_tables_address.value + 0x1000) | present_writable) &&
              memory.write(page_tables_address + 0x1000, (page_tables_address.value + 0x2000) | present_writable);
    std::array<std::uint64_t, 512> directory = {};
    for (std::uint64_t i = 0; i < directory.size(); ++i) directory[i] = (i << 21U) | present_writable | large;
    written = written && memory.write(page_tables_address + 0x2000, directory);
    if (!written) return fail(Code::out_of_range, "the guest has too little memory to boot");
    return {};
}

}  // namespace wherry::vmm::x86_64
