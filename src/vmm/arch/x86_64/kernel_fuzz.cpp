// Kernel images of arbitrary bytes.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "vmm/arch/x86_64/kernel.hpp"
#include "vmm/testing/driver.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry::vmm;
    static const auto memory = testing::make_memory(4U << 20U);
    // SAFETY: makes a descriptor, owned at once.
    const wherry::Fd file(memfd_create("kernel", MFD_CLOEXEC));
    if (size > 0 && write(file.get(), data, size) != static_cast<ssize_t>(size)) return 0;
    const auto kernel = x86_64::load_kernel(*memory, file.get());
    if (kernel && !x86_64::write_boot_parameters(
                      *memory, *kernel,
                      {.initrd = GuestRange{GuestAddress{0x300000}, 5}, .command_line = "quiet", .reserved = {}}))
        __builtin_trap();
    return 0;
}
