#include "kvm/arch/x86_64/system.hpp"

#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>

namespace wherry::kvm {
namespace {

template <class T>
Result<T> get(int fd, unsigned long request, const char* what) {
    T state = {};
    // SAFETY: the request writes one T.
    if (ioctl(fd, request, &state) < 0) return fail_errno(what);
    return state;
}

template <class T>
Result<> set(int fd, unsigned long request, const T& state, const char* what) {
    // SAFETY: the request reads one T.
    if (ioctl(fd, request, &state) < 0) return fail_errno(what);
    return {};
}

// In C++ the flexible arrays of <linux/kvm.h> may have an empty member before them, which counts as a byte: sizeof of
// the structure, and with it the ioctl's number, comes out wrong. So headers and numbers are spelled out.
struct CountHeader {
    std::uint32_t count = 0;
    std::uint32_t padding = 0;
};
struct ListHeader {
    std::uint32_t count = 0;
};
constexpr unsigned long get_supported_cpuid = _IOWR(KVMIO, 0x05, CountHeader);
constexpr unsigned long get_msr_index_list = _IOWR(KVMIO, 0x02, ListHeader);
constexpr unsigned long get_msr_values = _IOWR(KVMIO, 0x88, CountHeader);
constexpr unsigned long set_msr_values = _IOW(KVMIO, 0x89, CountHeader);
constexpr unsigned long set_cpuid_entries = _IOW(KVMIO, 0x90, CountHeader);

// A kernel structure with a header and a flexible array of `count` elements behind it, zeroed and aligned.
template <class Header, class Element>
class Flexible {
  public:
    explicit Flexible(std::size_t count)
        : words_((sizeof(Header) + count * sizeof(Element) + sizeof(std::uint64_t) - 1) / sizeof(std::uint64_t)) {}
    // SAFETY: the storage is aligned for 8 bytes, as both structures demand, and large enough by construction.
    Header* header() { return reinterpret_cast<Header*>(words_.data()); }
    std::byte* elements() { return reinterpret_cast<std::byte*>(words_.data()) + sizeof(Header); }

  private:
    std::vector<std::uint64_t> words_;
};

}  // namespace

Result<std::vector<kvm_cpuid_entry2>> supported_cpuid(const System& system) {
    for (std::size_t count = 128; count <= 4096; count *= 2) {
        Flexible<CountHeader, kvm_cpuid_entry2> request(count);
        request.header()->count = static_cast<std::uint32_t>(count);
        // SAFETY: the kernel writes at most count entries.
        if (ioctl(system.descriptor(), get_supported_cpuid, request.header()) < 0) {
            if (errno == E2BIG) continue;
            return fail_errno("KVM_GET_SUPPORTED_CPUID");
        }
        std::vector<kvm_cpuid_entry2> entries(std::min<std::size_t>(request.header()->count, count));
        std::memcpy(entries.data(), request.elements(), entries.size() * sizeof(kvm_cpuid_entry2));
        return entries;
    }
    return fail(Code::internal, "KVM_GET_SUPPORTED_CPUID: no end of entries");
}

Result<std::vector<std::uint32_t>> saved_msrs(const System& system) {
    constexpr std::size_t limit = 4096;
    Flexible<ListHeader, std::uint32_t> request(limit);
    request.header()->count = limit;
    // SAFETY: the kernel writes at most count indexes.
    if (ioctl(system.descriptor(), get_msr_index_list, request.header()) < 0)
        return fail_errno("KVM_GET_MSR_INDEX_LIST");
    std::vector<std::uint32_t> indexes(std::min<std::size_t>(request.header()->count, limit));
    std::memcpy(indexes.data(), request.elements(), indexes.size() * sizeof(std::uint32_t));
    return indexes;
}

Result<> create_interrupt_controllers(const Vm& vm) {
    // SAFETY: takes no argument.
    if (ioctl(vm.descriptor(), KVM_CREATE_IRQCHIP, 0) < 0) return fail_errno("KVM_CREATE_IRQCHIP");
    return {};
}

Result<> create_timer(const Vm& vm) {
    kvm_pit_config config = {};
    // Without the dummy a guest that pokes port 0x61 for the speaker would exit each time.
    config.flags = KVM_PIT_SPEAKER_DUMMY;
    return set(vm.descriptor(), KVM_CREATE_PIT2, config, "KVM_CREATE_PIT2");
}

Result<> set_tss_address(const Vm& vm, std::uint64_t address) {
    // SAFETY: takes a number.
    if (ioctl(vm.descriptor(), KVM_SET_TSS_ADDR, address) < 0) return fail_errno("KVM_SET_TSS_ADDR");
    return {};
}

Result<kvm_sregs> get_special_registers(const Vcpu& vcpu) {
    return get<kvm_sregs>(vcpu.descriptor(), KVM_GET_SREGS, "KVM_GET_SREGS");
}
Result<> set_special_registers(const Vcpu& vcpu, const kvm_sregs& state) {
    return set(vcpu.descriptor(), KVM_SET_SREGS, state, "KVM_SET_SREGS");
}
Result<kvm_regs> get_registers(const Vcpu& vcpu) {
    return get<kvm_regs>(vcpu.descriptor(), KVM_GET_REGS, "KVM_GET_REGS");
}
Result<> set_registers(const Vcpu& vcpu, const kvm_regs& state) {
    return set(vcpu.descriptor(), KVM_SET_REGS, state, "KVM_SET_REGS");
}
Result<> set_fpu(const Vcpu& vcpu, const kvm_fpu& state) {
    return set(vcpu.descriptor(), KVM_SET_FPU, state, "KVM_SET_FPU");
}
Result<kvm_lapic_state> get_local_apic(const Vcpu& vcpu) {
    return get<kvm_lapic_state>(vcpu.descriptor(), KVM_GET_LAPIC, "KVM_GET_LAPIC");
}
Result<> set_local_apic(const Vcpu& vcpu, const kvm_lapic_state& state) {
    return set(vcpu.descriptor(), KVM_SET_LAPIC, state, "KVM_SET_LAPIC");
}
Result<> set_extended_control_registers(const Vcpu& vcpu, const kvm_xcrs& state) {
    return set(vcpu.descriptor(), KVM_SET_XCRS, state, "KVM_SET_XCRS");
}

Result<> set_cpuid(const Vcpu& vcpu, std::span<const kvm_cpuid_entry2> entries) {
    Flexible<CountHeader, kvm_cpuid_entry2> request(entries.size());
    request.header()->count = static_cast<std::uint32_t>(entries.size());
    std::memcpy(request.elements(), entries.data(), entries.size_bytes());
    // SAFETY: reads count entries.
    if (ioctl(vcpu.descriptor(), set_cpuid_entries, request.header()) < 0) return fail_errno("KVM_SET_CPUID2");
    return {};
}

Result<std::uint32_t> tsc_khz(const Vcpu& vcpu) {
    // SAFETY: takes no argument.
    const int khz = ioctl(vcpu.descriptor(), KVM_GET_TSC_KHZ, 0);
    if (khz < 0) return fail_errno("KVM_GET_TSC_KHZ");
    return static_cast<std::uint32_t>(khz);
}

Result<> set_tsc_khz(const Vcpu& vcpu, std::uint32_t khz) {
    // SAFETY: takes a number.
    if (ioctl(vcpu.descriptor(), KVM_SET_TSC_KHZ, khz) < 0) return fail_errno("KVM_SET_TSC_KHZ");
    return {};
}

Result<> set_msrs(const Vcpu& vcpu, std::span<const kvm_msr_entry> entries) {
    Flexible<CountHeader, kvm_msr_entry> request(entries.size());
    request.header()->count = static_cast<std::uint32_t>(entries.size());
    std::memcpy(request.elements(), entries.data(), entries.size_bytes());
    // SAFETY: reads count entries.
    const int done = ioctl(vcpu.descriptor(), set_msr_values, request.header());
    if (done < 0) return fail_errno("KVM_SET_MSRS");
    if (static_cast<std::size_t>(done) < entries.size())
        return fail(Code::invalid_argument,
                    "KVM_SET_MSRS refuses register " + std::to_string(entries[static_cast<std::size_t>(done)].index));
    return {};
}

Result<std::vector<kvm_msr_entry>> get_msrs(const Vcpu& vcpu, std::span<const std::uint32_t> indexes) {
    Flexible<CountHeader, kvm_msr_entry> request(indexes.size());
    request.header()->count = static_cast<std::uint32_t>(indexes.size());
    std::vector<kvm_msr_entry> entries(indexes.size());
    for (std::size_t i = 0; i < indexes.size(); ++i) entries[i].index = indexes[i];
    std::memcpy(request.elements(), entries.data(), entries.size() * sizeof(kvm_msr_entry));
    // SAFETY: reads and writes count entries.
    const int done = ioctl(vcpu.descriptor(), get_msr_values, request.header());
    if (done < 0) return fail_errno("KVM_GET_MSRS");
    if (static_cast<std::size_t>(done) < entries.size())
        return fail(Code::invalid_argument,
                    "KVM_GET_MSRS refuses register " + std::to_string(indexes[static_cast<std::size_t>(done)]));
    std::memcpy(entries.data(), request.elements(), entries.size() * sizeof(kvm_msr_entry));
    return entries;
}

Result<kvm_xcrs> get_extended_control_registers(const Vcpu& vcpu) {
    return get<kvm_xcrs>(vcpu.descriptor(), KVM_GET_XCRS, "KVM_GET_XCRS");
}
Result<kvm_debugregs> get_debug_registers(const Vcpu& vcpu) {
    return get<kvm_debugregs>(vcpu.descriptor(), KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS");
}
Result<> set_debug_registers(const Vcpu& vcpu, const kvm_debugregs& state) {
    return set(vcpu.descriptor(), KVM_SET_DEBUGREGS, state, "KVM_SET_DEBUGREGS");
}
Result<kvm_mp_state> get_mp_state(const Vcpu& vcpu) {
    return get<kvm_mp_state>(vcpu.descriptor(), KVM_GET_MP_STATE, "KVM_GET_MP_STATE");
}
Result<> set_mp_state(const Vcpu& vcpu, const kvm_mp_state& state) {
    return set(vcpu.descriptor(), KVM_SET_MP_STATE, state, "KVM_SET_MP_STATE");
}
Result<kvm_vcpu_events> get_events(const Vcpu& vcpu) {
    return get<kvm_vcpu_events>(vcpu.descriptor(), KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS");
}
Result<> set_events(const Vcpu& vcpu, const kvm_vcpu_events& state) {
    return set(vcpu.descriptor(), KVM_SET_VCPU_EVENTS, state, "KVM_SET_VCPU_EVENTS");
}

namespace {
constexpr std::size_t basic_state_bytes = 4096;  // of KVM_GET_XSAVE; more only by KVM_GET_XSAVE2
using BasicState = std::array<std::byte, basic_state_bytes>;
constexpr unsigned long get_basic_extended_state = _IOR(KVMIO, 0xa4, BasicState);
constexpr unsigned long set_any_extended_state = _IOW(KVMIO, 0xa5, BasicState);
constexpr unsigned long get_large_extended_state = _IOR(KVMIO, 0xcf, BasicState);
}  // namespace

std::size_t extended_state_bytes(const Vm& vm) {
    constexpr int capability = 208;  // KVM_CAP_XSAVE2
    return std::max<std::size_t>(basic_state_bytes, static_cast<std::size_t>(vm.check_extension(capability)));
}

Result<std::vector<std::byte>> get_extended_state(const Vcpu& vcpu, std::size_t bytes) {
    std::vector<std::byte> state(bytes);
    const bool is_large = bytes > basic_state_bytes;
    // SAFETY: the kernel writes 4096 bytes, or as many as KVM_CAP_XSAVE2 said.
    if (ioctl(vcpu.descriptor(), is_large ? get_large_extended_state : get_basic_extended_state, state.data()) < 0)
        return fail_errno("KVM_GET_XSAVE");
    return state;
}

Result<> set_extended_state(const Vcpu& vcpu, std::span<const std::byte> state) {
    // SAFETY: reads 4096 bytes, or as many as KVM_CAP_XSAVE2 says: what the caller has proven to be there.
    if (ioctl(vcpu.descriptor(), set_any_extended_state, state.data()) < 0) return fail_errno("KVM_SET_XSAVE");
    return {};
}

bool mark_clock_paused(const Vcpu& vcpu) {
    // SAFETY: takes no argument.
    return ioctl(vcpu.descriptor(), KVM_KVMCLOCK_CTRL, 0) == 0;
}

Result<std::vector<kvm_msr_entry>> get_readable_msrs(const Vcpu& vcpu, std::vector<std::uint32_t> indexes) {
    std::vector<kvm_msr_entry> entries;
    std::size_t first = 0;
    while (first < indexes.size()) {
        const std::size_t count = indexes.size() - first;
        Flexible<CountHeader, kvm_msr_entry> request(count);
        request.header()->count = static_cast<std::uint32_t>(count);
        std::vector<kvm_msr_entry> batch(count);
        for (std::size_t i = 0; i < count; ++i) batch[i].index = indexes[first + i];
        std::memcpy(request.elements(), batch.data(), count * sizeof(kvm_msr_entry));
        // SAFETY: reads and writes count entries.
        const int done = ioctl(vcpu.descriptor(), get_msr_values, request.header());
        if (done < 0) return fail_errno("KVM_GET_MSRS");
        const auto read = std::min(static_cast<std::size_t>(done), count);
        std::memcpy(batch.data(), request.elements(), read * sizeof(kvm_msr_entry));
        entries.insert(entries.end(), batch.begin(), batch.begin() + static_cast<std::ptrdiff_t>(read));
        first += read + 1;
    }
    return entries;
}

Result<> set_msrs_leniently(const Vcpu& vcpu, std::span<const kvm_msr_entry> entries) {
    while (!entries.empty()) {
        Flexible<CountHeader, kvm_msr_entry> request(entries.size());
        request.header()->count = static_cast<std::uint32_t>(entries.size());
        std::memcpy(request.elements(), entries.data(), entries.size_bytes());
        // SAFETY: reads count entries.
        const int done = ioctl(vcpu.descriptor(), set_msr_values, request.header());
        if (done < 0) return fail_errno("KVM_SET_MSRS");
        if (static_cast<std::size_t>(done) >= entries.size()) return {};
        const kvm_msr_entry& refused = entries[static_cast<std::size_t>(done)];
        if (refused.data != 0)
            return fail(Code::invalid_argument, "KVM_SET_MSRS refuses register " + std::to_string(refused.index));
        entries = entries.subspan(static_cast<std::size_t>(done) + 1);
    }
    return {};
}

Result<kvm_irqchip> get_interrupt_controller(const Vm& vm, std::uint32_t chip) {
    kvm_irqchip state = {};
    state.chip_id = chip;
    // SAFETY: reads the chip's number and writes the structure.
    if (ioctl(vm.descriptor(), KVM_GET_IRQCHIP, &state) < 0) return fail_errno("KVM_GET_IRQCHIP");
    return state;
}
Result<> set_interrupt_controller(const Vm& vm, const kvm_irqchip& state) {
    return set(vm.descriptor(), KVM_SET_IRQCHIP, state, "KVM_SET_IRQCHIP");
}
Result<kvm_pit_state2> get_timer(const Vm& vm) {
    return get<kvm_pit_state2>(vm.descriptor(), KVM_GET_PIT2, "KVM_GET_PIT2");
}
Result<> set_timer(const Vm& vm, const kvm_pit_state2& state) {
    return set(vm.descriptor(), KVM_SET_PIT2, state, "KVM_SET_PIT2");
}
Result<kvm_clock_data> get_clock(const Vm& vm) {
    return get<kvm_clock_data>(vm.descriptor(), KVM_GET_CLOCK, "KVM_GET_CLOCK");
}
Result<> set_clock(const Vm& vm, const kvm_clock_data& state) {
    return set(vm.descriptor(), KVM_SET_CLOCK, state, "KVM_SET_CLOCK");
}

}  // namespace wherry::kvm
