// Programs of filters, tried on every system call with arguments around what they compare, beside what their lists say.
#include "vmm/core/seccomp_filter.hpp"

#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <set>

namespace wherry::vmm {
namespace {

constexpr std::uint32_t refused = SECCOMP_RET_TRAP;

// What the kernel would do: the instructions that our programs consist of. 0: a program that is none.
std::uint32_t run(const confine::SeccompProgram& program, const seccomp_data& data, unsigned* steps = nullptr) {
    const auto& code = program.instructions;
    std::uint32_t accumulator = 0;
    for (std::size_t at = 0; at < code.size(); ++at) {
        const sock_filter& next = code[at];
        if (steps != nullptr) ++*steps;
        switch (next.code) {
            case BPF_LD | BPF_W | BPF_ABS:
                if (next.k + sizeof accumulator > sizeof data) return 0;
                // SAFETY: bytes of a plain structure, inside it.
                std::memcpy(&accumulator, reinterpret_cast<const char*>(&data) + next.k, sizeof accumulator);
                break;
            case BPF_ALU | BPF_AND | BPF_K:
                accumulator &= next.k;
                break;
            case BPF_JMP | BPF_JA:
                at += next.k;
                break;
            case BPF_JMP | BPF_JEQ | BPF_K:
                at += accumulator == next.k ? next.jt : next.jf;
                break;
            case BPF_JMP | BPF_JGE | BPF_K:
                at += accumulator >= next.k ? next.jt : next.jf;
                break;
            case BPF_RET | BPF_K:
                return next.k;
            default:
                return 0;
        }
    }
    return 0;
}

bool is_listed(const std::vector<AllowedCall>& calls, const seccomp_data& data) {
    return std::ranges::any_of(calls, [&](const AllowedCall& call) {
        return call.number == data.nr && std::ranges::all_of(call.checks, [&](const ArgumentCheck& check) {
                   return (data.args[check.index] & check.mask) == (check.value & check.mask);
               });
    });
}

void compare(const std::vector<AllowedCall>& calls) {
    const auto program = make_filter(calls, refused);
    ASSERT_LE(program.instructions.size(), 4096U);
    for (int number = 0; number < 600; ++number) {
        std::set<std::uint64_t> values = {0, 1, 7, ~0ULL};
        for (const AllowedCall& call : calls) {
            if (call.number != number) continue;
            for (const ArgumentCheck& check : call.checks)
                for (const std::uint64_t value :
                     {check.value, check.value + 1, check.value ^ (std::uint64_t{1} << 40U), ~check.mask})
                    values.insert(value);
        }
        for (const std::uint64_t first : values) {
            for (const std::uint64_t second : values) {
                seccomp_data data = {.nr = number,
                                     .arch = AUDIT_ARCH_X86_64,
                                     .instruction_pointer = 0,
                                     .args = {first, second, first, second, 5, 6}};
                ASSERT_EQ(run(program, data), is_listed(calls, data) ? SECCOMP_RET_ALLOW : refused)
                    << number << ' ' << first << ' ' << second;
                data.arch = AUDIT_ARCH_I386;
                ASSERT_EQ(run(program, data), SECCOMP_RET_KILL_PROCESS);
            }
        }
    }
}

TEST(SeccompProgram, DoesWhatTheListsSay) {
    for (const DeviceBus bus : {DeviceBus::mmio, DeviceBus::pci}) {
        for (const ThreadKind kind : {ThreadKind::vmm, ThreadKind::api, ThreadKind::vcpu}) {
            const auto calls = allowed_calls(kind, bus);
            compare(calls);
            // The kernel follows it for each number there is when a thread starts.
            const auto program = make_filter(calls, refused);
            for (int number = 0; number < 600; ++number) {
                unsigned steps = 0;
                run(program, {.nr = number, .arch = AUDIT_ARCH_X86_64, .instruction_pointer = 0, .args = {}}, &steps);
                EXPECT_LE(steps, number == SYS_ioctl ? 45U : 24U) << number;
            }
            EXPECT_LE(program.instructions.size(), 2 * calls.size() + 20);
        }
    }
}

TEST(SeccompProgram, IsRightForListsOfAnyLength) {
    std::vector<AllowedCall> calls;
    for (int number = 0; number < 450; ++number)
        if (number != SYS_ioctl && number != SYS_mmap && number % 7 != 0) calls.push_back({number, {}});
    for (std::uint64_t request = 0; request < 60; ++request)
        calls.push_back({SYS_ioctl, {{.index = 1, .mask = 0xffffffff, .value = 100 + request * 2}}});
    calls.push_back({SYS_ioctl, {{.index = 0, .mask = 0xffffffff, .value = 3}}});
    calls.push_back({SYS_ioctl, {{.index = 1, .value = (1ULL << 40U) + 9}}});
    calls.push_back({SYS_mmap, {{.index = 2, .mask = 4, .value = 0}, {.index = 3, .value = 7}}});
    // Whatever its arguments are, by the second entry.
    calls.push_back({SYS_dup, {{.index = 0, .mask = 0xffffffff, .value = 1}}});
    calls.push_back({SYS_dup, {}});
    compare(calls);
    std::vector<AllowedCall> many;
    for (std::uint64_t request = 0; request < 450; ++request)
        many.push_back({SYS_ioctl, {{.index = 1, .mask = 0xffffffff, .value = request * 3}}});
    const auto program = make_filter(many, refused);
    for (std::uint64_t request = 0; request < 1400; ++request) {
        const seccomp_data data = {
            .nr = SYS_ioctl, .arch = AUDIT_ARCH_X86_64, .instruction_pointer = 0, .args = {0, request}};
        ASSERT_EQ(run(program, data), is_listed(many, data) ? SECCOMP_RET_ALLOW : refused) << request;
    }
}

}  // namespace
}  // namespace wherry::vmm
