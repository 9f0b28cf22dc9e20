// Compiles seccomp profiles with libseccomp, and keeps the results: compiling takes milliseconds, reading one back
// microseconds. Threading: free functions are thread-safe; a SeccompCache is too.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/result.hpp"
#include "confine/seccomp.hpp"
#include "confine/seccomp_profile.hpp"

namespace wherry::confine {

// invalid_argument for what libseccomp refuses. Names it does not know are skipped, as an allow-list demands; system
// calls newer than the newest the profile's library knows answer ENOSYS instead of the default error, so that C
// libraries fall back.
Result<SeccompProgram> compile_seccomp(const SeccompProfile& profile);

// 64 hexadecimal digits that stand for the profile and everything else the program depends on.
std::string seccomp_cache_key(const SeccompProfile& profile);

// Of libseccomp: "2.5.4".
std::string seccomp_library_version();

// "openat" for 257 of AUDIT_ARCH_X86_64 (linux/audit.h); nullopt for a number nobody has named.
std::optional<std::string> syscall_name(std::uint32_t audit_arch, int number);

// Compiled programs by content: <directory>/<sha256 of the profile and libseccomp's version>.bpf. The directory is made
// with mode 0700. Files are written atomically and proven on reading (own digest inside); one that is cut or altered is
// compiled again.
class SeccompCache {
  public:
    static Result<SeccompCache> open(const std::string& directory);

    struct Entry {
        std::string path;  // of the file that load_seccomp_program reads
        std::shared_ptr<const SeccompProgram> program;
    };
    // Compiles at most once for equal profiles. A directory that cannot be written costs only the reuse, not the
    // program; then `path` is empty.
    Result<Entry> get(const SeccompProfile& profile);
    // default_seccomp_profile(conditions), remembered without building the profile again: microseconds on the hot path.
    Result<Entry> get_default(const SeccompConditions& conditions);

  private:
    explicit SeccompCache(std::string directory);
    struct Shared;
    std::shared_ptr<Shared> shared_;
};

}  // namespace wherry::confine
