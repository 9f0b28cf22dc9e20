// Installing seccomp programs (seccomp(2)), for static binaries: compiling them is confine/seccomp_compile's.
#pragma once

#include <linux/filter.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::confine {

// A classic BPF program and the flags to install it with.
struct SeccompProgram {
    std::vector<sock_filter> instructions;
    std::uint32_t flags = 0;  // SECCOMP_FILTER_FLAG_...: LOG, SPEC_ALLOW, TSYNC, NEW_LISTENER

    bool empty() const { return instructions.empty(); }
};

// Where a serialized program has 32 bytes for the digest of whoever keeps it in a file.
inline constexpr std::size_t seccomp_digest_offset = 32;
// As bytes, for the wire or a file: a header (magic, version, flags, count, checksum) and the instructions.
std::string serialize(const SeccompProgram& program);
// data_loss when it is cut, altered or of another version.
Result<SeccompProgram> parse_seccomp_program(std::string_view bytes);
Result<SeccompProgram> load_seccomp_program(const std::string& path);

// Installs it for the calling thread (all threads with TSYNC). Needs no_new_privs or CAP_SYS_ADMIN. Falls back without
// LOG and SPEC_ALLOW on kernels that lack them. With NEW_LISTENER the descriptor of the notifications is returned.
Result<Fd> install_seccomp(const SeccompProgram& program);

namespace post_fork {
// 0 or an errno; *listener gets the notification descriptor when NEW_LISTENER is among the flags.
int install_seccomp(std::span<const sock_filter> instructions, std::uint32_t flags, int* listener = nullptr) noexcept;
}  // namespace post_fork
}  // namespace wherry::confine
