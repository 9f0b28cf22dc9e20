#include "seccomp.hpp"

#include "confine/seccomp_compile/compile.hpp"
#include "confine/seccomp_profile.hpp"

namespace wherry::runtime {

namespace {

Result<confine::SeccompProgram> compile(const confine::SeccompProfile& profile, const std::string& root) {
    confine::SeccompCache cache = TRY(confine::SeccompCache::open(root + "/.seccomp"));
    auto entry = TRY(cache.get(profile), "linux.seccomp");
    return *entry.program;
}

bool notifies(const confine::SeccompProfile& profile) {
    for (const confine::SeccompRule& rule : profile.rules) {
        if (rule.action == confine::SeccompAction::notify) return true;
    }
    return false;
}

}  // namespace

Result<PreparedSeccomp> prepare_seccomp(const json::object& profile, const std::string& root,
                                        const std::string& bundle) {
    confine::SeccompProfile parsed = TRY(confine::parse_oci_seccomp(JsonReader(profile, "linux.seccomp")));
    bool wanted = notifies(parsed);
    if (wanted && parsed.listener_path.empty())
        return fail(Code::invalid_argument, "linux.seccomp: SCMP_ACT_NOTIFY needs a listenerPath");
    // The runtime tells of the descriptor by this call, with the filter in force already.
    for (const confine::SeccompRule& rule : parsed.rules) {
        if (rule.action != confine::SeccompAction::notify) continue;
        for (const std::string& name : rule.names) {
            if (name == "sendmsg")
                return fail(Code::invalid_argument, "linux.seccomp: SCMP_ACT_NOTIFY cannot be used for sendmsg");
        }
    }
    PreparedSeccomp prepared;
    prepared.program = TRY(compile(parsed, root));
    if (wanted) {
        prepared.listener = oci::SeccompListener{
            parsed.listener_path.front() == '/' ? parsed.listener_path : bundle + "/" + parsed.listener_path,
            parsed.listener_metadata};
    }
    return prepared;
}

json::object seccomp_features() {
    json::array actions{"SCMP_ACT_ALLOW",        "SCMP_ACT_ERRNO",       "SCMP_ACT_KILL",
                        "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG",
                        "SCMP_ACT_NOTIFY",       "SCMP_ACT_TRACE",       "SCMP_ACT_TRAP"};
    json::array operators{"SCMP_CMP_EQ", "SCMP_CMP_GE",        "SCMP_CMP_GT", "SCMP_CMP_LE",
                          "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"};
    json::array architectures{"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86",
                              "SCMP_ARCH_X86_64"};
    json::array flags{"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
                      "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"};
    json::object out;
    out["enabled"] = true;
    out["actions"] = std::move(actions);
    out["operators"] = std::move(operators);
    out["archs"] = std::move(architectures);
    out["knownFlags"] = flags;
    out["supportedFlags"] = std::move(flags);
    return out;
}

std::string seccomp_library_version() {
    return confine::seccomp_library_version();
}

}  // namespace wherry::runtime
