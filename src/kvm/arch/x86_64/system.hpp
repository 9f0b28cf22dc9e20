// What of KVM exists on x86 only: the in-kernel interrupt chips and timer, CPUID, MSRs and the processor's state.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "kvm/system.hpp"

namespace wherry::kvm {

Result<std::vector<kvm_cpuid_entry2>> supported_cpuid(const System& system);
Result<std::vector<std::uint32_t>> saved_msrs(const System& system);  // KVM_GET_MSR_INDEX_LIST

// In-kernel PIC, IOAPIC and local APICs, and the PIT. Before any vCPU.
Result<> create_interrupt_controllers(const Vm& vm);
Result<> create_timer(const Vm& vm);
Result<> set_tss_address(const Vm& vm, std::uint64_t address);

// Reads or writes one structure of a processor or machine; `what` is the ioctl's name for the message.
Result<kvm_sregs> get_special_registers(const Vcpu& vcpu);
Result<> set_special_registers(const Vcpu& vcpu, const kvm_sregs& state);
Result<kvm_regs> get_registers(const Vcpu& vcpu);
Result<> set_registers(const Vcpu& vcpu, const kvm_regs& state);
Result<> set_fpu(const Vcpu& vcpu, const kvm_fpu& state);
Result<kvm_lapic_state> get_local_apic(const Vcpu& vcpu);
Result<> set_local_apic(const Vcpu& vcpu, const kvm_lapic_state& state);
Result<> set_extended_control_registers(const Vcpu& vcpu, const kvm_xcrs& state);
Result<kvm_xcrs> get_extended_control_registers(const Vcpu& vcpu);
Result<kvm_debugregs> get_debug_registers(const Vcpu& vcpu);
Result<> set_debug_registers(const Vcpu& vcpu, const kvm_debugregs& state);
Result<kvm_mp_state> get_mp_state(const Vcpu& vcpu);
Result<> set_mp_state(const Vcpu& vcpu, const kvm_mp_state& state);
Result<kvm_vcpu_events> get_events(const Vcpu& vcpu);
Result<> set_events(const Vcpu& vcpu, const kvm_vcpu_events& state);
// The XSAVE area as it lies in memory. `bytes` is what this host needs (extended_state_bytes()), at least 4096.
std::size_t extended_state_bytes(const Vm& vm);
Result<std::vector<std::byte>> get_extended_state(const Vcpu& vcpu, std::size_t bytes);
Result<> set_extended_state(const Vcpu& vcpu, std::span<const std::byte> state);
// Tells the guest's watchdogs that it stood still; false when the guest has no clock that could be told.
bool mark_clock_paused(const Vcpu& vcpu);
Result<> set_cpuid(const Vcpu& vcpu, std::span<const kvm_cpuid_entry2> entries);
Result<std::uint32_t> tsc_khz(const Vcpu& vcpu);
Result<> set_tsc_khz(const Vcpu& vcpu, std::uint32_t khz);
// invalid_argument names the first MSR that KVM refuses.
Result<> set_msrs(const Vcpu& vcpu, std::span<const kvm_msr_entry> entries);
Result<std::vector<kvm_msr_entry>> get_msrs(const Vcpu& vcpu, std::span<const std::uint32_t> indexes);

// As many of the MSRs as KVM lets us read: it stops at the first that it refuses, which is left out.
Result<std::vector<kvm_msr_entry>> get_readable_msrs(const Vcpu& vcpu, std::vector<std::uint32_t> indexes);
// As set_msrs(), but a register that KVM refuses is left as it is when the value is zero, as registers of parts that
// this host lacks are.
Result<> set_msrs_leniently(const Vcpu& vcpu, std::span<const kvm_msr_entry> entries);

// Of the machine. The chips are KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE and _IOAPIC.
Result<kvm_irqchip> get_interrupt_controller(const Vm& vm, std::uint32_t chip);
Result<> set_interrupt_controller(const Vm& vm, const kvm_irqchip& state);
Result<kvm_pit_state2> get_timer(const Vm& vm);
Result<> set_timer(const Vm& vm, const kvm_pit_state2& state);
Result<kvm_clock_data> get_clock(const Vm& vm);
Result<> set_clock(const Vm& vm, const kvm_clock_data& state);

}  // namespace wherry::kvm
