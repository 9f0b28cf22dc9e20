#include "engine/security.hpp"

namespace wherry::engine {

Result<SecurityOptions> parse_security_options(const HostConfig& host_config) {
    SecurityOptions options;
    for (const std::string& text : host_config.security_opt) {
        if (text == "no-new-privileges") {
            options.no_new_privileges = true;
            continue;
        }
        std::size_t at = text.find('=');
        if (at == std::string::npos) at = text.find(':');
        if (at == std::string::npos) return fail(Code::invalid_argument, "invalid --security-opt 1: \"" + text + "\"");
        const std::string key = text.substr(0, at);
        const std::string value = text.substr(at + 1);
        if (key == "no-new-privileges") {
            if (value != "true" && value != "false") {
                return fail(Code::invalid_argument, "invalid --security-opt 2: \"" + text + "\"");
            }
            options.no_new_privileges = value == "true";
        } else if (key == "seccomp") {
            options.seccomp_unconfined = value == "unconfined";
            options.seccomp_profile = value == "unconfined" || value == "builtin" ? "" : value;
        } else if (key == "apparmor") {
            if (value != "unconfined" && !value.empty()) {
                return fail(Code::invalid_argument,
                            "AppArmor is not supported on this host, but the profile '" + value + "' was specified");
            }
        } else if (key == "label") {
            if (value != "disable") {
                return fail(Code::invalid_argument,
                            "SELinux is not supported on this host, but the label '" + value + "' was specified");
            }
        } else if (key == "systempaths") {
            if (value != "unconfined") {
                return fail(Code::invalid_argument, "invalid --security-opt 2: \"" + text + "\"");
            }
        } else {
            return fail(Code::invalid_argument, "invalid --security-opt 2: \"" + text + "\"");
        }
    }
    return options;
}

Result<confine::CapabilitySet> container_capability_set(const HostConfig& host_config) {
    const confine::CapabilitySet possible = TRY(confine::bounding_set());
    if (host_config.privileged) return confine::all_capabilities() & possible;
    const confine::CapabilitySet wanted = TRY(confine::adjust_capabilities(confine::docker_default_capabilities(),
                                                                           host_config.cap_add, host_config.cap_drop));
    return wanted & possible;
}

}  // namespace wherry::engine
