// Resource limits (getrlimit(2)) by OCI's and Docker's names.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace wherry::confine {

inline constexpr std::uint64_t unlimited = ~std::uint64_t{0};  // RLIM_INFINITY

struct ResourceLimit {
    int resource = 0;  // RLIMIT_...
    std::uint64_t soft = 0;
    std::uint64_t hard = 0;

    friend bool operator==(const ResourceLimit&, const ResourceLimit&) = default;
};

std::string_view resource_name(int resource);  // "RLIMIT_NOFILE"; empty for none
std::string_view ulimit_name(int resource);    // "nofile"
// "nofile", "RLIMIT_NOFILE", any case.
std::optional<int> resource_number(std::string_view name);

// Docker's --ulimit: "nofile=1024", "nofile=1024:2048", -1 for unlimited. soft above hard is refused.
Result<ResourceLimit> parse_ulimit(std::string_view text);

// In the parent, before anything is made: would setrlimit work? Raising a hard limit takes CAP_SYS_RESOURCE, which not
// every root has; the error names the limit, the wish and what is allowed. permission_denied.
Result<> check_resource_limits(std::span<const ResourceLimit> limits);
// The limits with the hard ones cut to what this process may set; for defaults nobody asked for by name.
Result<ResourceLimit> clamp_resource_limit(ResourceLimit limit);

Result<ResourceLimit> get_resource_limit(int resource);
Result<> set_resource_limit(const ResourceLimit& limit);

namespace post_fork {
// setrlimit of each; 0 or the errno of the first that failed (its index in *failed when given).
int set_resource_limits(std::span<const ResourceLimit> limits, unsigned* failed = nullptr) noexcept;
}  // namespace post_fork
}  // namespace wherry::confine
