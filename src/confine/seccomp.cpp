#include "confine/seccomp.hpp"

#include <fcntl.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

namespace wherry::confine {
namespace {

// The layout of a serialized program, all in the host's byte order (it never leaves the host).
struct Header {
    char magic[8];
    std::uint32_t version;
    std::uint32_t flags;
    std::uint32_t count;
    std::uint32_t reserved;
    std::uint64_t checksum;  // of flags, count and the instructions
    char digest[32];         // SHA-256 of the whole with this field zero; the cache's own, not checked here
};
static_assert(sizeof(Header) == 64 && offsetof(Header, digest) == seccomp_digest_offset);
static_assert(sizeof(sock_filter) == 8);

constexpr char magic[8] = {'W', 'H', 'R', 'Y', 'B', 'P', 'F', '\0'};
constexpr std::uint32_t format_version = 1;

// FNV-1a, 64 bit: against a cut or damaged file, not against an attacker (only root writes there).
std::uint64_t checksum(std::uint32_t flags, std::uint32_t count, std::span<const sock_filter> instructions) {
    std::uint64_t hash = 0xcbf29ce484222325U;
    auto mix = [&hash](std::uint64_t value) {
        for (unsigned i = 0; i < 8; ++i) {
            hash ^= (value >> (8 * i)) & 0xffU;
            hash *= 0x100000001b3U;
        }
    };
    mix(std::uint64_t{flags} << 32U | count);
    for (const sock_filter& i : instructions)
        mix(std::uint64_t{i.code} << 48U | std::uint64_t{i.jt} << 40U | std::uint64_t{i.jf} << 32U | i.k);
    return hash;
}

// The kernel's limit is BPF_MAXINSNS.
constexpr std::size_t most_instructions = 4096;

}  // namespace

std::string serialize(const SeccompProgram& program) {
    Header header{};
    std::memcpy(header.magic, magic, sizeof magic);
    header.version = format_version;
    header.flags = program.flags;
    header.count = static_cast<std::uint32_t>(program.instructions.size());
    header.checksum = checksum(header.flags, header.count, program.instructions);
    std::size_t body = program.instructions.size() * sizeof(sock_filter);
    std::string out(sizeof header + body, '\0');
    std::memcpy(out.data(), &header, sizeof header);
    if (body != 0) std::memcpy(out.data() + sizeof header, program.instructions.data(), body);
    return out;
}

Result<SeccompProgram> parse_seccomp_program(std::string_view bytes) {
    Header header{};
    if (bytes.size() < sizeof header) return fail(Code::data_loss, "seccomp program: too short");
    std::memcpy(&header, bytes.data(), sizeof header);
    if (std::memcmp(header.magic, magic, sizeof magic) != 0 || header.version != format_version)
        return fail(Code::data_loss, "seccomp program: another format");
    if (header.count == 0 || header.count > most_instructions ||
        bytes.size() != sizeof header + header.count * sizeof(sock_filter))
        return fail(Code::data_loss, "seccomp program: the length does not fit");
    SeccompProgram program{.instructions = std::vector<sock_filter>(header.count), .flags = header.flags};
    std::memcpy(program.instructions.data(), bytes.data() + sizeof header, header.count * sizeof(sock_filter));
    if (checksum(header.flags, header.count, program.instructions) != header.checksum)
        return fail(Code::data_loss, "seccomp program: altered");
    return program;
}

Result<SeccompProgram> load_seccomp_program(const std::string& path) {
    std::string bytes = TRY(read_file(path, 1U << 20U), "seccomp program");
    return TRY(parse_seccomp_program(bytes), path);
}

Result<Fd> install_seccomp(const SeccompProgram& program) {
    int listener = -1;
    if (int error = post_fork::install_seccomp(program.instructions, program.flags, &listener))
        return fail_errno(error, "installing a seccomp program");
    return Fd(listener);
}

namespace post_fork {

int install_seccomp(std::span<const sock_filter> instructions, std::uint32_t flags, int* listener) noexcept {
    if (instructions.empty() || instructions.size() > most_instructions) return EINVAL;
    sock_fprog program{};
    program.len = static_cast<unsigned short>(instructions.size());
    // SAFETY: the kernel only reads the instructions; the structure's pointer is not const for historical reasons.
    program.filter = const_cast<sock_filter*>(instructions.data());
    // SAFETY: seccomp(2) with a program that outlives the call.
    long result = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    constexpr std::uint32_t optional_flags = SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    if (result < 0 && errno == EINVAL && (flags & optional_flags) != 0)
        result = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags & ~optional_flags, &program);
    if (result < 0) return errno;
    if ((flags & SECCOMP_FILTER_FLAG_NEW_LISTENER) != 0) {
        if (listener != nullptr) *listener = static_cast<int>(result);
    } else if (result > 0) {
        return ESRCH;  // TSYNC: the id of a thread that could not be brought along
    }
    return 0;
}

}  // namespace post_fork
}  // namespace wherry::confine
