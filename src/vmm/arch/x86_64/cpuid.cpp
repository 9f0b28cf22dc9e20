#include "vmm/arch/x86_64/cpuid.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string_view>

namespace wherry::vmm::x86_64 {
namespace {

constexpr std::uint32_t amd_vendor = 0x68747541;  // "Auth"
constexpr unsigned topology_extensions_bit = 22;  // of ECX of leaf 0x80000001: that 0x8000001d and 0x8000001e are there
constexpr std::uint32_t amd_topology_leaf = 0x8000001e;

// Replaces bits [low, low + width) of a register.
void put(std::uint32_t& value, unsigned low, unsigned width, std::uint32_t field) {
    const std::uint32_t mask = (width >= 32 ? 0xffffffffU : (1U << width) - 1) << low;
    value = (value & ~mask) | ((field << low) & mask);
}

void put_bit(std::uint32_t& value, unsigned bit, bool set) {
    put(value, bit, 1, set ? 1 : 0);
}

// How many bits number `count` things.
std::uint32_t shift_for(std::uint32_t count) {
    return count <= 1 ? 0 : static_cast<std::uint32_t>(std::bit_width(count - 1));
}

// Leaf 0xb and its like: subleaf 0 counts threads of a core, 1 those of the package, 2 ends the list.
void set_topology_leaf(kvm_cpuid_entry2& entry, const CpuTopology& topology, std::uint32_t index) {
    const std::uint32_t threads = topology.smt ? 2 : 1;
    entry.eax = entry.ebx = 0;
    entry.ecx = entry.index & 0xffU;
    entry.edx = index;
    if (entry.index == 0) {
        entry.eax = shift_for(threads);
        entry.ebx = std::min(threads, topology.vcpus);
        entry.ecx |= 1U << 8U;
    } else if (entry.index == 1) {
        entry.eax = shift_for(topology.vcpus);
        entry.ebx = topology.vcpus;
        entry.ecx |= 2U << 8U;
    }
}

// Brand string, 48 bytes over three leaves. A neutral one: hosts of a fleet differ, and guests may move.
void set_brand(kvm_cpuid_entry2& entry, bool is_amd) {
    std::array<char, 48> brand = {};
    const std::string_view text = is_amd ? "AMD EPYC" : "Intel(R) Xeon(R) Processor";
    std::ranges::copy(text, brand.begin());
    const std::size_t at = std::size_t{entry.function - 0x80000002} * 16;
    std::memcpy(&entry.eax, brand.data() + at, 4);
    std::memcpy(&entry.ebx, brand.data() + at + 4, 4);
    std::memcpy(&entry.ecx, brand.data() + at + 8, 4);
    std::memcpy(&entry.edx, brand.data() + at + 12, 4);
}

// Leaf 4 of Intel, 0x8000001d of AMD: by how many vCPUs a cache is shared, in bits 25..14 of EAX, minus one.
void set_cache_sharing(kvm_cpuid_entry2& entry, const CpuTopology& topology) {
    const std::uint32_t level = (entry.eax >> 5U) & 7U;
    if ((entry.eax & 0x1fU) == 0) return;
    const std::uint32_t sharing = level >= 3 ? topology.vcpus : std::min(topology.vcpus, topology.smt ? 2U : 1U);
    put(entry.eax, 14, 12, sharing - 1);
    // Cores of the package, minus one.
    if (entry.function == 4) put(entry.eax, 26, 6, std::max(topology.vcpus / (topology.smt ? 2U : 1U), 1U) - 1);
}

void set_entry(kvm_cpuid_entry2& entry, const CpuTopology& topology, std::uint32_t index, bool is_amd) {
    switch (entry.function) {
        case 0x1:
            put(entry.ebx, 8, 8, 8);  // CLFLUSH line, in units of 8 bytes
            put(entry.ebx, 16, 8, topology.vcpus);
            put(entry.ebx, 24, 8, index);
            put_bit(entry.ecx, 24, topology.has_tsc_deadline);
            put_bit(entry.ecx, 31, true);  // there is a hypervisor
            put_bit(entry.edx, 28, topology.vcpus > 1);
            return;
        case 0x4:
        case 0x8000001d:
            set_cache_sharing(entry, topology);
            return;
        case 0x6:
            put_bit(entry.eax, 1, false);  // turbo
            put_bit(entry.ecx, 3, false);  // energy performance bias
            return;
        case 0xa:  // no performance counters
            entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
            return;
        case 0xb:
        case 0x1f:
            set_topology_leaf(entry, topology, index);
            return;
        case 0x80000001:
            if (is_amd) put_bit(entry.ecx, topology_extensions_bit, true);
            return;
        case 0x80000002:
        case 0x80000003:
        case 0x80000004:
            set_brand(entry, is_amd);
            return;
        case 0x80000008:
            if (is_amd) {
                put(entry.ecx, 0, 8, topology.vcpus - 1);
                put(entry.ecx, 12, 4, shift_for(topology.vcpus));
            }
            return;
        case amd_topology_leaf:
            if (is_amd) {
                const std::uint32_t threads = topology.smt ? 2 : 1;
                entry.eax = index;
                entry.ebx = (index / threads) | ((threads - 1) << 8U);
                entry.ecx = 0;
            }
            return;
        default:
            return;
    }
}

std::uint32_t highest(const std::vector<kvm_cpuid_entry2>& entries, std::uint32_t first) {
    for (const auto& entry : entries)
        if (entry.function == first) return entry.eax;
    return 0;
}

// KVM leaves topology to whoever makes the machine: newer kernels name one empty subleaf, or no leaf at all.
void add_topology_leaves(std::vector<kvm_cpuid_entry2>& entries, bool is_amd) {
    std::erase_if(entries, [](const auto& entry) { return entry.function == 0xb || entry.function == 0x1f; });
    for (const std::uint32_t function : {0xbU, 0x1fU}) {
        if (highest(entries, 0) < function) continue;
        for (const std::uint32_t subleaf : {0U, 1U}) {
            kvm_cpuid_entry2 entry = {};
            entry.function = function;
            entry.index = subleaf;
            entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
            entries.push_back(entry);
        }
    }
    if (!is_amd || highest(entries, 0x80000000) == 0) return;
    for (auto& entry : entries)
        if (entry.function == 0x80000000) entry.eax = std::max(entry.eax, amd_topology_leaf);
    if (std::ranges::find(entries, amd_topology_leaf, &kvm_cpuid_entry2::function) == entries.end()) {
        kvm_cpuid_entry2 entry = {};
        entry.function = amd_topology_leaf;
        entries.push_back(entry);
    }
}

}  // namespace

std::vector<kvm_cpuid_entry2> guest_cpuid(std::vector<kvm_cpuid_entry2> entries, const CpuTopology& topology,
                                          std::uint32_t index) {
    bool is_amd = false;
    for (const auto& entry : entries)
        if (entry.function == 0) is_amd = entry.ebx == amd_vendor;
    add_topology_leaves(entries, is_amd);
    for (auto& entry : entries) set_entry(entry, topology, index, is_amd);
    return entries;
}

}  // namespace wherry::vmm::x86_64
