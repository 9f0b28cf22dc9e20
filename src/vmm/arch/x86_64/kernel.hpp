// Loading a kernel and its initial ram disk: ELF (PVH where its note says so, otherwise the 64-bit Linux protocol) or
// bzImage. The files come from whoever configures the machine, and are still proven field by field.
// Specifications: ELF-64; Xen's PVH ("Direct Boot"); Linux Documentation/x86/boot.rst.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm::x86_64 {

enum class BootProtocol : unsigned char { linux64, pvh };

struct LoadedKernel {
    BootProtocol protocol = BootProtocol::linux64;
    GuestAddress entry;
    GuestAddress end;  // behind all that was loaded and what it needs to unpack itself
    // Of a bzImage: its setup header, from offset 0x1f1 of the file.
    std::array<std::byte, 0x90> setup_header = {};
    bool has_setup_header = false;
};

// invalid_argument names what the kernel lacks; out_of_range when it does not fit.
Result<LoadedKernel> load_kernel(GuestMemory& memory, int fd);

// Places the ram disk at the end of the first range of memory.
Result<GuestRange> load_initrd(GuestMemory& memory, int fd, GuestAddress kernel_end);

struct BootParameters {
    std::optional<GuestRange> initrd;
    std::string_view command_line;
    std::vector<GuestRange> reserved;  // beside memory: addresses that the kernel must leave alone
};

// What the processor starts with: the zero page or the PVH structures, by protocol, and the command line.
Result<> write_boot_parameters(GuestMemory& memory, const LoadedKernel& kernel, const BootParameters& parameters);

}  // namespace wherry::vmm::x86_64
