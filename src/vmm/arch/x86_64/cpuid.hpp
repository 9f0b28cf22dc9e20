// What CPUID says in the guest: the host's and KVM's answer, with the topology of the machine put in.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <vector>

namespace wherry::vmm::x86_64 {

struct CpuTopology {
    std::uint32_t vcpus = 1;
    bool smt = false;  // pairs of vCPUs are threads of a core
    bool has_tsc_deadline = false;
};

// For the vCPU `index`. `entries` are what KVM supports, after templates.
std::vector<kvm_cpuid_entry2> guest_cpuid(std::vector<kvm_cpuid_entry2> entries, const CpuTopology& topology,
                                          std::uint32_t index);

}  // namespace wherry::vmm::x86_64
