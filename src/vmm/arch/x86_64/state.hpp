// A processor and the platform around it as a snapshot has them, and the way to bring them to life again.
#pragma once

#include <linux/kvm.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.hpp"
#include "kvm/arch/x86_64/system.hpp"
#include "kvm/system.hpp"
#include "vmm/snapshot/codec.hpp"

namespace wherry::vmm::snapshot {

template <>
inline constexpr bool is_raw<kvm_cpuid_entry2> = true;
template <>
inline constexpr bool is_raw<kvm_mp_state> = true;
template <>
inline constexpr bool is_raw<kvm_regs> = true;
template <>
inline constexpr bool is_raw<kvm_sregs> = true;
template <>
inline constexpr bool is_raw<kvm_xcrs> = true;
template <>
inline constexpr bool is_raw<kvm_debugregs> = true;
template <>
inline constexpr bool is_raw<kvm_lapic_state> = true;
template <>
inline constexpr bool is_raw<kvm_msr_entry> = true;
template <>
inline constexpr bool is_raw<kvm_vcpu_events> = true;
template <>
inline constexpr bool is_raw<kvm_pit_state2> = true;
template <>
inline constexpr bool is_raw<kvm_irqchip> = true;
template <>
inline constexpr bool is_raw<kvm_clock_data> = true;

}  // namespace wherry::vmm::snapshot

namespace wherry::vmm::x86_64 {

struct ProcessorState {
    std::vector<kvm_cpuid_entry2> cpuid;
    std::uint32_t tsc_khz = 0;  // 0: the host did not say
    kvm_mp_state mp_state = {};
    kvm_regs registers = {};
    kvm_sregs special_registers = {};
    std::vector<std::byte> extended_state;  // XSAVE
    kvm_xcrs extended_control_registers = {};
    kvm_debugregs debug_registers = {};
    kvm_lapic_state local_apic = {};
    std::vector<kvm_msr_entry> msrs;
    kvm_vcpu_events events = {};

    void fields(this auto& self, auto&& f) {
        f(self.cpuid, self.tsc_khz, self.mp_state, self.registers, self.special_registers, self.extended_state,
          self.extended_control_registers, self.debug_registers, self.local_apic, self.msrs, self.events);
    }
};

struct PlatformState {
    kvm_pit_state2 timer = {};
    std::array<kvm_irqchip, 3> interrupt_controllers = {};
    kvm_clock_data clock = {};

    void fields(this auto& self, auto&& f) { f(self.timer, self.interrupt_controllers, self.clock); }
};

// While the processors stand still.
// CPUID is kept by whoever set it: what KVM gives back has the guest's own changes in it.
Result<ProcessorState> save_processor(const kvm::Vcpu& vcpu, const std::vector<std::uint32_t>& msr_indexes,
                                      std::size_t extended_state_bytes);
Result<PlatformState> save_platform(const kvm::Vm& vm);

// invalid_argument says what of the processor this host does not have: another maker, features, a larger state.
Result<> check_processor(const kvm::System& system, const kvm::Vm& vm, const ProcessorState& state);
// Into a processor that has not run. The time that its clocks are to skip is what passed since it was saved, or zero.
Result<> restore_processor(const kvm::Vcpu& vcpu, const ProcessorState& state, std::chrono::nanoseconds skip);
// After the processors.
Result<> restore_platform(const kvm::Vm& vm, const PlatformState& state, std::chrono::nanoseconds skip);

}  // namespace wherry::vmm::x86_64
