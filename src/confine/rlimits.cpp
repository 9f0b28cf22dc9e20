#include "confine/rlimits.hpp"

#include <linux/capability.h>
#include <sys/resource.h>

#include <array>
#include <cerrno>
#include <charconv>

#include "confine/capabilities.hpp"

namespace wherry::confine {
namespace {

struct Name {
    int resource;
    std::string_view ulimit;
    std::string_view oci;
};
constexpr std::array<Name, 16> names{{
    {RLIMIT_AS, "as", "RLIMIT_AS"},
    {RLIMIT_CORE, "core", "RLIMIT_CORE"},
    {RLIMIT_CPU, "cpu", "RLIMIT_CPU"},
    {RLIMIT_DATA, "data", "RLIMIT_DATA"},
    {RLIMIT_FSIZE, "fsize", "RLIMIT_FSIZE"},
    {RLIMIT_LOCKS, "locks", "RLIMIT_LOCKS"},
    {RLIMIT_MEMLOCK, "memlock", "RLIMIT_MEMLOCK"},
    {RLIMIT_MSGQUEUE, "msgqueue", "RLIMIT_MSGQUEUE"},
    {RLIMIT_NICE, "nice", "RLIMIT_NICE"},
    {RLIMIT_NOFILE, "nofile", "RLIMIT_NOFILE"},
    {RLIMIT_NPROC, "nproc", "RLIMIT_NPROC"},
    {RLIMIT_RSS, "rss", "RLIMIT_RSS"},
    {RLIMIT_RTPRIO, "rtprio", "RLIMIT_RTPRIO"},
    {RLIMIT_RTTIME, "rttime", "RLIMIT_RTTIME"},
    {RLIMIT_SIGPENDING, "sigpending", "RLIMIT_SIGPENDING"},
    {RLIMIT_STACK, "stack", "RLIMIT_STACK"},
}};

std::string shown(std::uint64_t value) {
    return value == unlimited ? "unlimited" : std::to_string(value);
}

Result<std::uint64_t> parse_value(std::string_view text, std::string_view whole) {
    if (text == "-1") return unlimited;
    std::uint64_t value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || value > INT64_MAX)
        return fail(Code::invalid_argument, "invalid ulimit \"" + std::string(whole) + "\": a limit is a number or -1");
    return value;
}

Result<bool> may_raise_hard_limits() {
    return TRY(capabilities_of_this_thread()).effective.contains(CAP_SYS_RESOURCE);
}

rlimit to_kernel(const ResourceLimit& limit) {
    return {.rlim_cur = limit.soft, .rlim_max = limit.hard};
}

int set(const ResourceLimit& limit) noexcept {
    rlimit value = to_kernel(limit);
    return ::setrlimit(static_cast<__rlimit_resource_t>(limit.resource), &value) == 0 ? 0 : errno;
}

}  // namespace

std::string_view resource_name(int resource) {
    for (const Name& name : names)
        if (name.resource == resource) return name.oci;
    return {};
}

std::string_view ulimit_name(int resource) {
    for (const Name& name : names)
        if (name.resource == resource) return name.ulimit;
    return {};
}

std::optional<int> resource_number(std::string_view name) {
    std::string lower;
    for (char c : name) lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    std::string_view wanted = lower;
    if (wanted.starts_with("rlimit_")) wanted.remove_prefix(7);
    for (const Name& candidate : names)
        if (candidate.ulimit == wanted) return candidate.resource;
    return std::nullopt;
}

Result<ResourceLimit> parse_ulimit(std::string_view text) {
    std::string whole(text);
    auto equals = text.find('=');
    if (equals == std::string_view::npos)
        return fail(Code::invalid_argument, "invalid ulimit \"" + whole + "\": expected name=soft[:hard]");
    auto resource = resource_number(text.substr(0, equals));
    if (!resource) return fail(Code::invalid_argument, "invalid ulimit type: " + std::string(text.substr(0, equals)));
    std::string_view values = text.substr(equals + 1);
    auto colon = values.find(':');
    if (colon != std::string_view::npos && values.find(':', colon + 1) != std::string_view::npos)
        return fail(Code::invalid_argument, "invalid ulimit \"" + whole + "\": at most two values, soft[:hard]");
    ResourceLimit limit{.resource = *resource};
    limit.soft = TRY(parse_value(values.substr(0, colon), text));
    limit.hard = limit.soft;
    if (colon != std::string_view::npos) limit.hard = TRY(parse_value(values.substr(colon + 1), text));
    if (limit.soft > limit.hard)
        return fail(Code::invalid_argument, "ulimit soft limit must be less than or equal to hard limit: " +
                                                shown(limit.soft) + " > " + shown(limit.hard));
    return limit;
}

Result<> check_resource_limits(std::span<const ResourceLimit> limits) {
    for (const ResourceLimit& limit : limits) {
        std::string name(resource_name(limit.resource));
        if (name.empty())
            return fail(Code::invalid_argument, "unknown resource limit " + std::to_string(limit.resource));
        if (limit.soft > limit.hard)
            return fail(Code::invalid_argument, name + ": the soft limit " + shown(limit.soft) +
                                                    " is above the hard limit " + shown(limit.hard));
        ResourceLimit now = TRY(get_resource_limit(limit.resource));
        if (limit.hard <= now.hard) continue;
        if (!TRY(may_raise_hard_limits()))
            return fail(Code::permission_denied, name + ": a hard limit of " + shown(limit.hard) +
                                                     " is above this host's " + shown(now.hard) +
                                                     ", and raising it takes CAP_SYS_RESOURCE, which is missing here");
    }
    return {};
}

Result<ResourceLimit> clamp_resource_limit(ResourceLimit limit) {
    ResourceLimit now = TRY(get_resource_limit(limit.resource));
    if (limit.hard > now.hard && !TRY(may_raise_hard_limits())) limit.hard = now.hard;
    if (limit.soft > limit.hard) limit.soft = limit.hard;
    return limit;
}

Result<ResourceLimit> get_resource_limit(int resource) {
    rlimit value{};
    if (::getrlimit(static_cast<__rlimit_resource_t>(resource), &value) != 0) return fail_errno("getrlimit");
    return ResourceLimit{.resource = resource, .soft = value.rlim_cur, .hard = value.rlim_max};
}

Result<> set_resource_limit(const ResourceLimit& limit) {
    if (int error = set(limit)) return fail_errno(error, "setting " + std::string(resource_name(limit.resource)));
    return {};
}

namespace post_fork {

int set_resource_limits(std::span<const ResourceLimit> limits, unsigned* failed) noexcept {
    for (unsigned i = 0; i < limits.size(); ++i) {
        if (int error = set(limits[i])) {
            if (failed != nullptr) *failed = i;
            return error;
        }
    }
    return 0;
}

}  // namespace post_fork
}  // namespace wherry::confine
