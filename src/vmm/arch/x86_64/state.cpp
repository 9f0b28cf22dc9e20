#include "vmm/arch/x86_64/state.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string_view>

namespace wherry::vmm::x86_64 {
namespace {

constexpr std::uint32_t msr_tsc = 0x10, msr_tsc_deadline = 0x6e0;

std::unexpected<Error> does_not_fit(std::string what) {
    return fail(Code::invalid_argument, "the snapshot does not fit this host's processor: " + std::move(what));
}

const kvm_cpuid_entry2* find_leaf(const std::vector<kvm_cpuid_entry2>& entries, std::uint32_t leaf,
                                  std::uint32_t subleaf) {
    const auto found = std::ranges::find_if(
        entries, [&](const auto& entry) { return entry.function == leaf && entry.index == subleaf; });
    return found == entries.end() ? nullptr : &*found;
}

// A register of CPUID each of whose bits is a feature.
struct FeatureRegister {
    std::uint32_t leaf;
    std::uint32_t subleaf;
    std::uint32_t kvm_cpuid_entry2::* target;
    const char* name;
    std::uint32_t ignored;  // bits that follow from the guest's or the machine's own state
};
// CPUID.1:ECX: the TSC-deadline timer is KVM's (24), OSXSAVE the guest's (27), "hypervisor" ours (31), x2APIC KVM's
// (21). CPUID.1:EDX: the local APIC is the guest's to switch off (9), "threads" is ours (28).
constexpr FeatureRegister feature_registers[] = {
    {0x1, 0, &kvm_cpuid_entry2::ecx, "ECX", 1U << 21U | 1U << 24U | 1U << 27U | 1U << 31U},
    {0x1, 0, &kvm_cpuid_entry2::edx, "EDX", 1U << 9U | 1U << 28U},
    {0x7, 0, &kvm_cpuid_entry2::ebx, "EBX", 0},
    // OSPKE is the guest's.
    {0x7, 0, &kvm_cpuid_entry2::ecx, "ECX", 1U << 4U},
    {0x7, 0, &kvm_cpuid_entry2::edx, "EDX", 0},
    {0xd, 0, &kvm_cpuid_entry2::eax, "EAX", 0},
    {0xd, 1, &kvm_cpuid_entry2::eax, "EAX", 0},
    // The topology leaves are ours.
    {0x80000001, 0, &kvm_cpuid_entry2::ecx, "ECX", 1U << 22U},
    // The local APIC bit is repeated on AMD.
    {0x80000001, 0, &kvm_cpuid_entry2::edx, "EDX", 1U << 9U},
    {0x80000008, 0, &kvm_cpuid_entry2::ebx, "EBX", 0},
};

// KVM compares frequencies with the same tolerance before it scales.
bool is_close(std::uint32_t one, std::uint32_t other) {
    constexpr std::uint64_t parts_per_million = 250;
    const std::uint64_t difference = one > other ? one - other : other - one;
    return difference * 1'000'000 <= std::uint64_t{other} * parts_per_million;
}

}  // namespace

// KVM's getters are not without effect on each other, hence the order: the run state first (asking for it lets pending
// INITs and SIPIs take effect), what is pending last.
Result<ProcessorState> save_processor(const kvm::Vcpu& vcpu, const std::vector<std::uint32_t>& msr_indexes,
                                      std::size_t extended_state_bytes) {
    ProcessorState state;
    state.mp_state = TRY(kvm::get_mp_state(vcpu));
    state.registers = TRY(kvm::get_registers(vcpu));
    state.special_registers = TRY(kvm::get_special_registers(vcpu));
    state.extended_state = TRY(kvm::get_extended_state(vcpu, extended_state_bytes));
    state.extended_control_registers = TRY(kvm::get_extended_control_registers(vcpu));
    state.debug_registers = TRY(kvm::get_debug_registers(vcpu));
    state.local_apic = TRY(kvm::get_local_apic(vcpu));
    state.tsc_khz = kvm::tsc_khz(vcpu).value_or(0);
    state.msrs = TRY(kvm::get_readable_msrs(vcpu, msr_indexes));
    state.events = TRY(kvm::get_events(vcpu));
    return state;
}

Result<PlatformState> save_platform(const kvm::Vm& vm) {
    PlatformState state;
    for (std::uint32_t chip = 0; chip < state.interrupt_controllers.size(); ++chip)
        state.interrupt_controllers[chip] = TRY(kvm::get_interrupt_controller(vm, chip));
    state.timer = TRY(kvm::get_timer(vm));
    state.clock = TRY(kvm::get_clock(vm));
    return state;
}

Result<> check_processor(const kvm::System& system, const kvm::Vm& vm, const ProcessorState& state) {
    const auto host = TRY(kvm::supported_cpuid(system));
    const kvm_cpuid_entry2* ours = find_leaf(host, 0, 0);
    const kvm_cpuid_entry2* theirs = find_leaf(state.cpuid, 0, 0);
    if (theirs == nullptr) return does_not_fit("it has no CPUID");
    if (ours == nullptr || ours->ebx != theirs->ebx || ours->ecx != theirs->ecx || ours->edx != theirs->edx)
        return does_not_fit("its maker is another");
    for (const FeatureRegister& feature : feature_registers) {
        const kvm_cpuid_entry2* wanted = find_leaf(state.cpuid, feature.leaf, feature.subleaf);
        if (wanted == nullptr) continue;
        const kvm_cpuid_entry2* have = find_leaf(host, feature.leaf, feature.subleaf);
        const std::uint32_t missing =
            wanted->*feature.target & ~(have == nullptr ? 0U : have->*feature.target) & ~feature.ignored;
        if (missing != 0)
            return does_not_fit(fmt::format("features are missing, bits {:#x} of CPUID.{:#x}.{}:{}", missing,
                                            feature.leaf, feature.subleaf, feature.name));
    }
    if (state.extended_state.size() != kvm::extended_state_bytes(vm))
        return does_not_fit(fmt::format("its XSAVE area has {} bytes, this host's {}", state.extended_state.size(),
                                        kvm::extended_state_bytes(vm)));
    return {};
}

Result<> restore_processor(const kvm::Vcpu& vcpu, const ProcessorState& state, std::chrono::nanoseconds skip) {
    TRY(kvm::set_cpuid(vcpu, state.cpuid));
    if (state.tsc_khz != 0) {
        const auto own = kvm::tsc_khz(vcpu);
        if (own && !is_close(state.tsc_khz, *own)) TRY(kvm::set_tsc_khz(vcpu, state.tsc_khz), "TSC of another speed");
    }
    TRY(kvm::set_mp_state(vcpu, state.mp_state));
    TRY(kvm::set_registers(vcpu, state.registers));
    TRY(kvm::set_special_registers(vcpu, state.special_registers));
    TRY(kvm::set_extended_state(vcpu, state.extended_state));
    TRY(kvm::set_extended_control_registers(vcpu, state.extended_control_registers));
    TRY(kvm::set_debug_registers(vcpu, state.debug_registers));
    TRY(kvm::set_local_apic(vcpu, state.local_apic));
    // After the local APIC: the deadline only arms its timer in the mode it has by now. The deadline itself last, when
    // the counter is right.
    std::vector<kvm_msr_entry> msrs;
    std::optional<kvm_msr_entry> deadline;
    for (kvm_msr_entry entry : state.msrs) {
        if (entry.index == msr_tsc)
            entry.data += static_cast<std::uint64_t>(static_cast<double>(skip.count()) * state.tsc_khz / 1e6);
        if (entry.index == msr_tsc_deadline) {
            deadline = entry;
        } else {
            msrs.push_back(entry);
        }
    }
    if (deadline) msrs.push_back(*deadline);
    TRY(kvm::set_msrs_leniently(vcpu, msrs));
    return kvm::set_events(vcpu, state.events);
}

Result<> restore_platform(const kvm::Vm& vm, const PlatformState& state, std::chrono::nanoseconds skip) {
    TRY(kvm::set_timer(vm, state.timer));
    kvm_clock_data clock = {};
    clock.clock = state.clock.clock + static_cast<std::uint64_t>(skip.count());
    TRY(kvm::set_clock(vm, clock));
    for (std::uint32_t chip = 0; chip < state.interrupt_controllers.size(); ++chip) {
        kvm_irqchip controller = state.interrupt_controllers[chip];
        controller.chip_id = chip;  // the place says which it is
        TRY(kvm::set_interrupt_controller(vm, controller));
    }
    return {};
}

}  // namespace wherry::vmm::x86_64
