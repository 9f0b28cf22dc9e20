// What the files of the Cgroup type share. Not for other rooms.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "confine/cgroup.hpp"

namespace wherry::confine {

struct Cgroup::State {
    const CgroupSystem* system = nullptr;
    std::string path;
    // One for each of system->hierarchies(), empty where the cgroup does not exist. O_RDONLY | O_DIRECTORY.
    mutable std::vector<Fd> directories;
    // Those of complete() are opened when somebody asks for them: most have no limits, and nobody does.
    std::vector<bool> unopened = {};

    int directory(std::size_t hierarchy) const;      // -1: none
    int unified() const;                             // -1: none
    int v1_with(std::string_view controller) const;  // -1: none
    int first_v1() const;                            // -1: none
};

namespace cgroup_detail {

std::string full_path(const CgroupHierarchy& hierarchy, std::string_view path);
bool exists_at(int directory, const char* name);
// "key value" lines.
std::optional<std::uint64_t> find_counter(std::string_view text, std::string_view key);
// One number; "max" and -1 give ~0.
std::optional<std::uint64_t> parse_counter(std::string_view text);
Result<std::optional<std::uint64_t>> read_counter(int directory, const std::string& name);
// libstdc++ 12 has no std::ranges::contains.
template <class Range, class T>
bool contains(const Range& range, const T& value) {
    return std::ranges::find(range, value) != std::ranges::end(range);
}
std::string_view trimmed(std::string_view text);
std::vector<std::string_view> split(std::string_view text, char separator);

// Enables those of `wanted` that the v2 root has in cgroup.subtree_control of every ancestor of `path`.
Result<> enable_v2_controllers(const CgroupSystem& system, std::string_view path,
                               const std::vector<std::string>& wanted);

// Rules of devices on v1 (devices.allow, devices.deny) and v2 (an eBPF program attached to the cgroup).
Result<> apply_device_rules_v1(int directory, const std::vector<DeviceRule>& rules);
Result<> apply_device_rules_v2(int directory, const std::vector<DeviceRule>& rules);

}  // namespace cgroup_detail
}  // namespace wherry::confine
