// Seccomp profiles as data: OCI's linux.seccomp (runtime-spec, config-linux.md, "Seccomp"), files in Docker's format,
// and Docker's default rules. No libseccomp here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"
#include "confine/capabilities.hpp"

namespace wherry::confine {

enum class SeccompAction : unsigned char { kill_process, kill_thread, trap, error_number, trace, notify, log, allow };
enum class SeccompOperator : unsigned char { not_equal, less, less_equal, equal, greater_equal, greater, masked_equal };

std::string_view to_string(SeccompAction action);  // "SCMP_ACT_ERRNO", ...
Result<SeccompAction> parse_seccomp_action(std::string_view name);
std::string_view to_string(SeccompOperator op);  // "SCMP_CMP_EQ", ...
Result<SeccompOperator> parse_seccomp_operator(std::string_view name);

struct SeccompArgument {
    unsigned index = 0;  // 0..5
    std::uint64_t value = 0;
    std::uint64_t value_two = 0;  // masked_equal: (argument & value) == value_two
    SeccompOperator op = SeccompOperator::equal;

    friend bool operator==(const SeccompArgument&, const SeccompArgument&) = default;
};

struct SeccompRule {
    std::vector<std::string> names;
    SeccompAction action = SeccompAction::allow;
    std::optional<std::uint32_t> error_number;  // none: EPERM
    std::vector<SeccompArgument> arguments;     // all must hold

    friend bool operator==(const SeccompRule&, const SeccompRule&) = default;
};

// OCI's linux.seccomp.
struct SeccompProfile {
    SeccompAction default_action = SeccompAction::error_number;
    std::optional<std::uint32_t> default_error_number;
    std::vector<std::string> architectures;  // "SCMP_ARCH_X86_64", ...; empty: the native one
    std::vector<std::string> flags;          // "SECCOMP_FILTER_FLAG_LOG", ...
    std::string listener_path;
    std::string listener_metadata;
    std::vector<SeccompRule> rules;

    friend bool operator==(const SeccompProfile&, const SeccompProfile&) = default;
};

Result<SeccompProfile> parse_oci_seccomp(const JsonReader& reader);
json::object to_oci_json(const SeccompProfile& profile);

struct KernelVersion {
    unsigned major = 0;
    unsigned minor = 0;

    friend auto operator<=>(const KernelVersion&, const KernelVersion&) = default;
};
Result<KernelVersion> parse_kernel_version(std::string_view release);  // "6.18.44-x"
Result<KernelVersion> running_kernel_version();

// Docker's format depends on the container: rules included or excluded by capability, architecture and kernel version.
struct SeccompConditions {
    CapabilitySet capabilities;  // of the container, bounding
    KernelVersion kernel;
};
// A profile in Docker's format (--security-opt seccomp=FILE: "archMap", "includes", "excludes", "minKernel"), resolved.
// A plain OCI profile is accepted as well. invalid_argument with the path of what is wrong.
Result<SeccompProfile> resolve_seccomp_profile(std::string_view text, const SeccompConditions& conditions);
// What a container gets without any --security-opt: the same rules as Docker's default profile.
SeccompProfile default_seccomp_profile(const SeccompConditions& conditions);

}  // namespace wherry::confine
