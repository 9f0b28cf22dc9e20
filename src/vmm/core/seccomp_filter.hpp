// Which system calls each kind of thread may make, as data, and the filter programs made of it without a library.
// A call outside of the list raises SIGSYS, which ends the monitor (exit code 148). Custom lists come as a file of
// Firecracker's seccompiler JSON: {"vmm": {"default_action", "filter_action", "filter": [{"syscall", "args"}]}, ...}.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "confine/seccomp.hpp"

namespace wherry::vmm {

enum class ThreadKind : unsigned char { vmm, api, vcpu };

// All conditions of one entry hold, or the next entry with the same number is tried.
struct ArgumentCheck {
    unsigned index = 0;
    std::uint64_t mask = ~0ULL;
    std::uint64_t value = 0;  // (argument & mask) == value
};
struct AllowedCall {
    int number = 0;
    std::vector<ArgumentCheck> checks;
};

// With PCI devices come and go while the machine runs, and interrupts are messages.
enum class DeviceBus : unsigned char { mmio, pci };

std::vector<AllowedCall> allowed_calls(ThreadKind kind, DeviceBus bus);
// The first call is looked for first, when it has checks (the kernel remembers those without), the others by halves.
confine::SeccompProgram make_filter(const std::vector<AllowedCall>& calls, std::uint32_t otherwise);

// Programs for all threads.
struct SeccompPrograms {
    confine::SeccompProgram vmm, api, vcpu;
    const confine::SeccompProgram& of(ThreadKind kind) const;
};
SeccompPrograms default_programs(DeviceBus bus);
// The same, each made when it is first asked for: most of a short-lived monitor's threads are never started.
// Thread-safe.
class DefaultPrograms {
  public:
    const confine::SeccompProgram& of(ThreadKind kind, DeviceBus bus);

  private:
    std::mutex mutex_;
    std::array<std::array<confine::SeccompProgram, 3>, 2> programs_;  // by bus and kind
};
Result<SeccompPrograms> parse_programs(std::string_view json_text);
// For the calling thread; an empty program installs nothing.
Result<> install(const confine::SeccompProgram& program);

}  // namespace wherry::vmm
