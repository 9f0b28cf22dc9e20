// What the kernel tells of processes: `top` without running a program, the host's processor time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/result.hpp"
#include "engine/containers.hpp"

namespace wherry::engine {

// The processes of a cgroup in the columns that ps(1) shows for these arguments: "-ef" (also when empty), "aux" and
// "-o name,name,...". invalid_argument for others.
Result<TopResult> list_processes(const std::string& cgroup, std::string_view ps_arguments);
std::uint64_t host_cpu_time_ns();
// The counters of /proc/<pid>/net/dev by interface, without the loopback. Lines that are none are skipped.
std::map<std::string, InterfaceStats> parse_interface_stats(std::string_view text);
// Docker's name filter: a part of the name, or a regular expression ("^web", "a.*b").
bool name_matches(const std::string& name, const std::string& pattern);

}  // namespace wherry::engine
