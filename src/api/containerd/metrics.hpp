// A cgroup's counters as containerd's metrics: io.containerd.cgroups.v1.Metrics or io.containerd.cgroups.v2.Metrics
// (github.com/containerd/cgroups, stats/v1/metrics.proto and v2/stats/metrics.proto), by where the memory controller
// is.
#pragma once

#include "api/containerd/messages.hpp"
#include "confine/cgroup_statistics.hpp"

namespace wherry::api::containerd {

inline constexpr std::string_view metrics_v1_type = "io.containerd.cgroups.v1.Metrics";
inline constexpr std::string_view metrics_v2_type = "io.containerd.cgroups.v2.Metrics";

Any metrics_of(const confine::CgroupStatistics& statistics);

}  // namespace wherry::api::containerd
