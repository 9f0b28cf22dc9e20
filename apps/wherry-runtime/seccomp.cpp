#include "seccomp.hpp"

#include "confine/seccomp_compile/compile.hpp"
#include "confine/seccomp_profile.hpp"

namespace wherry::runtime {

Result<confine::SeccompProgram> compile_seccomp_of(const json::object& profile, const std::string& root) {
    confine::SeccompProfile parsed = TRY(confine::parse_oci_seccomp(JsonReader(profile, "linux.seccomp")));
    if (!parsed.listener_path.empty()) return fail(Code::unimplemented, "linux.seccomp.listenerPath is not supported");
    confine::SeccompCache cache = TRY(confine::SeccompCache::open(root + "/.seccomp"));
    auto entry = TRY(cache.get(parsed), "linux.seccomp");
    return *entry.program;
}

}  // namespace wherry::runtime
