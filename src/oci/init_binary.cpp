#include "oci/init_binary.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <string_view>

// WHERRY_INIT_BINARY is the path of the built program.
asm(".section .rodata.wherry_init,\"a\"\n"
    ".balign 16\n"
    ".globl wherry_init_begin\n"
    "wherry_init_begin:\n"
    ".incbin \"" WHERRY_INIT_BINARY
    "\"\n"
    ".globl wherry_init_end\n"
    "wherry_init_end:\n"
    ".byte 0\n"
    ".previous\n");

extern "C" const char wherry_init_begin[];
extern "C" const char wherry_init_end[];

namespace wherry::oci {

std::span<const char> init_binary() {
    return {wherry_init_begin, wherry_init_end};
}

Result<Fd> open_init_binary() {
    static Fd file;
    if (!file) {
        Fd made(::memfd_create("docker-init", MFD_CLOEXEC | MFD_ALLOW_SEALING));
        if (!made) return fail_errno("memfd_create");
        auto bytes = init_binary();
        TRY(write_all(made.get(), std::string_view(bytes.data(), bytes.size())), "init binary");
        if (::fcntl(made.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
            return fail_errno("seal the init binary");
        file = std::move(made);
    }
    return file.duplicate();
}

}  // namespace wherry::oci
