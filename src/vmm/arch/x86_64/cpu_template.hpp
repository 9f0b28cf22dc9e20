// CPU templates: what of the host's processor the guest sees. Static ones by Firecracker's names, custom ones as the
// modifiers of its cpu-config requests.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace wherry::vmm::x86_64 {

enum class CpuidRegister : unsigned char { eax, ebx, ecx, edx };

// Bits of `filter` become those of `value`; the others stay.
struct CpuidModifier {
    std::uint32_t leaf = 0;
    std::uint32_t subleaf = 0;
    std::uint32_t flags = 0;
    CpuidRegister target = CpuidRegister::eax;
    std::uint32_t filter = 0;
    std::uint32_t value = 0;

    friend bool operator==(const CpuidModifier&, const CpuidModifier&) = default;
};

struct MsrModifier {
    std::uint32_t address = 0;
    std::uint64_t filter = 0;
    std::uint64_t value = 0;

    friend bool operator==(const MsrModifier&, const MsrModifier&) = default;
};

// A capability of KVM that the template needs ("123") or does without ("!123").
struct KvmCapability {
    std::uint32_t number = 0;
    bool is_removed = false;

    friend bool operator==(const KvmCapability&, const KvmCapability&) = default;
};

struct CpuTemplate {
    std::vector<KvmCapability> capabilities;
    std::vector<CpuidModifier> cpuid;
    std::vector<MsrModifier> msrs;

    bool empty() const { return capabilities.empty() && cpuid.empty() && msrs.empty(); }
    friend bool operator==(const CpuTemplate&, const CpuTemplate&) = default;
};

enum class StaticTemplate : unsigned char { none, c3, t2, t2s, t2cl, t2a };
constexpr StaticTemplate last_value(StaticTemplate) {
    return StaticTemplate::t2a;
}

// "None", "C3", "T2", "T2S", "T2CL", "T2A"; invalid_argument otherwise (V1N1 is an ARM one).
Result<StaticTemplate> parse_static_template(std::string_view name);
std::string_view to_string(StaticTemplate name);
// invalid_argument when the template is for processors of another vendor than the host's.
Result<CpuTemplate> static_template(StaticTemplate name, const std::vector<kvm_cpuid_entry2>& host);
// invalid_argument when a modifier names a leaf that the host does not have.
Result<> apply_template(const CpuTemplate& cpu_template, std::vector<kvm_cpuid_entry2>& entries);

}  // namespace wherry::vmm::x86_64
