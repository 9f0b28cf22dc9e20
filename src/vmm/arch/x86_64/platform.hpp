// What the machine asks of its architecture: the shape of memory, interrupt controllers, how processors start. The
// only header of this folder that the rest of the monitor's construction uses besides layout.hpp and templates.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "kvm/arch/x86_64/system.hpp"
#include "kvm/system.hpp"
#include "vmm/arch/x86_64/cpu_template.hpp"
#include "vmm/arch/x86_64/cpuid.hpp"
#include "vmm/arch/x86_64/kernel.hpp"
#include "vmm/arch/x86_64/layout.hpp"
#include "vmm/arch/x86_64/tables.hpp"

namespace wherry::vmm::x86_64 {

// Ranges for `bytes` of memory, around the gap below 4 GiB.
std::vector<GuestRange> memory_ranges(std::uint64_t bytes);
// Where devices may bring memory of their own beside `bytes` of the guest's, on processors that say `cpuid`.
GuestRange device_memory_space(std::uint64_t bytes, std::span<const kvm_cpuid_entry2> cpuid);
// Interrupt controllers and timer; before any vCPU.
Result<> create_platform(const kvm::Vm& vm);

struct ProcessorSetup {
    CpuTopology topology;
    std::vector<kvm_cpuid_entry2> cpuid;  // after templates, before topology
    std::vector<MsrModifier> msrs;
};
// Capabilities the template asks for, then CPUID.
Result<ProcessorSetup> prepare_processors(const kvm::System& system, const CpuTopology& topology,
                                          StaticTemplate static_name, const CpuTemplate& custom);
// First state of vCPU `index`; with `kernel` it is the one that boots.
Result<> setup_processor(const kvm::Vcpu& vcpu, std::uint32_t index, const ProcessorSetup& setup,
                         const LoadedKernel* kernel);
// Page tables and descriptor tables the first instruction needs.
Result<> write_boot_tables(GuestMemory& memory);

}  // namespace wherry::vmm::x86_64
