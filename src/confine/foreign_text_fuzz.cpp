// Everything in this room that reads bytes of others: audit records, profiles, resources, compiled programs, options,
// mountinfo, schemata.
#include <cstddef>
#include <cstdint>

#include "confine/capabilities.hpp"
#include "confine/cgroup.hpp"
#include "confine/resctrl.hpp"
#include "confine/rlimits.hpp"
#include "confine/seccomp.hpp"
#include "confine/seccomp_log.hpp"
#include "confine/seccomp_profile.hpp"

// The first byte chooses the parser.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace wherry;
    using namespace wherry::confine;
    if (size == 0) return 0;
    // SAFETY: bytes are read as characters.
    std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    switch (data[0] % 7) {
        case 0:
            (void)parse_seccomp_record(text);
            break;
        case 1:
            (void)resolve_seccomp_profile(text, {.capabilities = docker_default_capabilities(), .kernel = {6, 1}});
            break;
        case 2:
            (void)parse_seccomp_program(text);
            break;
        case 3:
            if (auto document = parse_json_object(text))
                if (auto resources = parse_cgroup_resources(JsonReader(*document))) (void)to_oci_json(*resources);
            break;
        case 4:
            (void)CgroupSystem::parse(text, "1:memory:/\n0::/\n", "cpu memory");
            break;
        case 5:
            (void)parse_ulimit(text);
            break;
        default:
            (void)parse_device_cgroup_rule(text);
            (void)validate_cgroup_path(text);
            (void)validate_cpu_list(text);
            (void)find_resctrl(text);
            (void)ResctrlSchemata{.l3_cache = std::string(text), .memory_bandwidth = {}}.lines();
            break;
    }
    return 0;
}
