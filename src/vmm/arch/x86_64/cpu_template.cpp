#include "vmm/arch/x86_64/cpu_template.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string>

namespace wherry::vmm::x86_64 {
namespace {

constexpr std::uint32_t bits(std::initializer_list<unsigned> numbers) {
    std::uint32_t value = 0;
    for (unsigned number : numbers) value |= 1U << number;
    return value;
}

// Features that a family of templates lets through; everything else of these registers is hidden.
struct Allowed {
    std::uint32_t leaf_1_ecx;
    std::uint32_t leaf_7_ebx;
    std::uint32_t leaf_7_ecx;
    std::uint32_t leaf_7_edx;
    std::uint32_t extended_ecx;  // 0x80000001
    std::uint32_t extended_edx;
    std::uint32_t xcr0;  // leaf 0xd
};

// Haswell's instructions without TSX: what Skylake, Cascade Lake, Ice Lake and Milan have in common.
constexpr Allowed haswell = {
    .leaf_1_ecx = bits({0, 1, 9, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31}),
    .leaf_7_ebx = bits({0, 1, 3, 5, 7, 8, 9, 10}),
    .leaf_7_ecx = 0,
    .leaf_7_edx = bits({10, 26, 27, 28, 29, 31}),
    .extended_ecx = bits({0, 2, 4, 5}),
    .extended_edx = bits({11, 20, 27, 29}),
    .xcr0 = bits({0, 1, 2}),
};
// The same before Haswell: no AVX2, FMA, BMI, MOVBE.
constexpr Allowed ivy_bridge = {
    .leaf_1_ecx = bits({0, 1, 9, 13, 17, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31}),
    .leaf_7_ebx = bits({0, 1, 7, 9}),
    .leaf_7_ecx = 0,
    .leaf_7_edx = bits({10, 26, 27, 28, 29, 31}),
    .extended_ecx = bits({0}),
    .extended_edx = bits({11, 20, 27, 29}),
    .xcr0 = bits({0, 1, 2}),
};
// AMD's extended features that guests need to see beside Haswell's: how cores are counted, misaligned SSE, PREFETCH,
// topology extensions.
constexpr std::uint32_t amd_extended_ecx = haswell.extended_ecx | bits({1, 7, 8, 22});
constexpr std::uint32_t amd_extended_edx = 0xffffffffU & ~bits({26, 30, 31});

void hide(CpuTemplate& out, std::uint32_t leaf, CpuidRegister target, std::uint32_t allowed) {
    out.cpuid.push_back({.leaf = leaf, .subleaf = 0, .flags = 0, .target = target, .filter = ~allowed, .value = 0});
}

CpuTemplate make(const Allowed& allowed) {
    CpuTemplate out;
    hide(out, 0x1, CpuidRegister::ecx, allowed.leaf_1_ecx);
    hide(out, 0x7, CpuidRegister::ebx, allowed.leaf_7_ebx);
    hide(out, 0x7, CpuidRegister::ecx, allowed.leaf_7_ecx);
    hide(out, 0x7, CpuidRegister::edx, allowed.leaf_7_edx);
    hide(out, 0xd, CpuidRegister::eax, allowed.xcr0);
    hide(out, 0x80000001, CpuidRegister::ecx, allowed.extended_ecx);
    hide(out, 0x80000001, CpuidRegister::edx, allowed.extended_edx);
    return out;
}

constexpr std::array<std::pair<std::string_view, StaticTemplate>, 6> names = {{{"None", StaticTemplate::none},
                                                                               {"C3", StaticTemplate::c3},
                                                                               {"T2", StaticTemplate::t2},
                                                                               {"T2S", StaticTemplate::t2s},
                                                                               {"T2CL", StaticTemplate::t2cl},
                                                                               {"T2A", StaticTemplate::t2a}}};

std::uint32_t& target_of(kvm_cpuid_entry2& entry, CpuidRegister target) {
    switch (target) {
        case CpuidRegister::eax:
            return entry.eax;
        case CpuidRegister::ebx:
            return entry.ebx;
        case CpuidRegister::ecx:
            return entry.ecx;
        case CpuidRegister::edx:
            return entry.edx;
    }
    return entry.eax;
}

}  // namespace

Result<StaticTemplate> parse_static_template(std::string_view name) {
    for (const auto& [known, value] : names)
        if (known == name) return value;
    return fail(Code::invalid_argument,
                fmt::format("unknown variant `{}`, expected one of `C3`, `T2`, `T2S`, `T2CL`, `T2A`, `None`", name));
}

std::string_view to_string(StaticTemplate name) {
    for (const auto& [known, value] : names)
        if (value == name) return known;
    return "None";
}

Result<CpuTemplate> static_template(StaticTemplate name, const std::vector<kvm_cpuid_entry2>& host) {
    if (name == StaticTemplate::none) return CpuTemplate{};
    const auto leaf_0 = std::ranges::find_if(host, [](const auto& entry) { return entry.function == 0; });
    constexpr std::uint32_t intel = 0x756e6547, amd = 0x68747541;  // EBX of leaf 0: "Genu", "Auth"
    const std::uint32_t vendor = leaf_0 == host.end() ? 0 : leaf_0->ebx;
    if (vendor != (name == StaticTemplate::t2a ? amd : intel))
        return fail(Code::invalid_argument,
                    fmt::format("The CPU template {} is not for this host's processor", to_string(name)));
    switch (name) {
        case StaticTemplate::c3:
            return make(ivy_bridge);
        case StaticTemplate::t2a: {
            Allowed allowed = haswell;
            allowed.extended_ecx = amd_extended_ecx;
            allowed.extended_edx = amd_extended_edx;
            return make(allowed);
        }
        case StaticTemplate::t2s: {
            CpuTemplate out = make(haswell);
            // IA32_ARCH_CAPABILITIES: one value on all hosts of the fleet, so that guests move between them.
            out.msrs.push_back({.address = 0x10a, .filter = ~0ULL, .value = 0xc});
            return out;
        }
        default:
            return make(haswell);
    }
}

Result<> apply_template(const CpuTemplate& cpu_template, std::vector<kvm_cpuid_entry2>& entries) {
    for (const CpuidModifier& modifier : cpu_template.cpuid) {
        bool found = false;
        for (kvm_cpuid_entry2& entry : entries) {
            if (entry.function != modifier.leaf || entry.index != modifier.subleaf) continue;
            std::uint32_t& value = target_of(entry, modifier.target);
            value = (value & ~modifier.filter) | (modifier.value & modifier.filter);
            found = true;
        }
        if (!found)
            return fail(Code::invalid_argument, fmt::format("CPU template: leaf {:#x} subleaf {:#x} is not supported",
                                                            modifier.leaf, modifier.subleaf));
    }
    return {};
}

}  // namespace wherry::vmm::x86_64
