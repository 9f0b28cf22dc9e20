// What OCI's linux.resources can ask of a cgroup (runtime-spec, config-linux.md, "Control groups"). A value that is not
// there means: leave it alone.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"

namespace wherry::confine {

// -1 in a memory or pids limit means unlimited.
struct MemoryResources {
    std::optional<std::int64_t> limit;        // bytes
    std::optional<std::int64_t> reservation;  // bytes
    std::optional<std::int64_t> swap;         // bytes, memory and swap together (v1's meaning, also on v2)
    std::optional<std::int64_t> kernel;       // bytes; ignored with a warning by today's kernels
    std::optional<std::int64_t> kernel_tcp;   // bytes; v1 only
    std::optional<std::uint64_t> swappiness;  // 0..100; v1 only
    std::optional<bool> disable_oom_killer;   // v1 only
    std::optional<bool> use_hierarchy;        // v1 only
    std::optional<bool> check_before_update;  // refuse a limit below the present usage

    friend bool operator==(const MemoryResources&, const MemoryResources&) = default;
};

struct CpuResources {
    std::optional<std::uint64_t> shares;   // v1's 2..262144, converted to weight on v2
    std::optional<std::int64_t> quota_us;  // -1: none
    std::optional<std::uint64_t> burst_us;
    std::optional<std::uint64_t> period_us;
    std::optional<std::int64_t> realtime_runtime_us;  // v1 only
    std::optional<std::uint64_t> realtime_period_us;  // v1 only
    std::optional<std::int64_t> idle;                 // 0 or 1
    std::string cpus;                                 // "0-3,7"; empty: all
    std::string mems;

    friend bool operator==(const CpuResources&, const CpuResources&) = default;
};

struct BlockDeviceWeight {
    std::int64_t major = 0;
    std::int64_t minor = 0;
    std::optional<std::uint16_t> weight;
    std::optional<std::uint16_t> leaf_weight;

    friend bool operator==(const BlockDeviceWeight&, const BlockDeviceWeight&) = default;
};

struct BlockThrottle {
    std::int64_t major = 0;
    std::int64_t minor = 0;
    std::uint64_t rate = 0;  // bytes or operations a second; 0: no limit

    friend bool operator==(const BlockThrottle&, const BlockThrottle&) = default;
};

struct BlockIoResources {
    std::optional<std::uint16_t> weight;  // 10..1000
    std::optional<std::uint16_t> leaf_weight;
    std::vector<BlockDeviceWeight> weight_device;
    std::vector<BlockThrottle> read_bps;
    std::vector<BlockThrottle> write_bps;
    std::vector<BlockThrottle> read_iops;
    std::vector<BlockThrottle> write_iops;

    friend bool operator==(const BlockIoResources&, const BlockIoResources&) = default;
};

// One rule of linux.resources.devices. Later rules win over earlier ones.
struct DeviceRule {
    bool allow = false;
    char type = 'a';                    // 'a', 'b', 'c'
    std::optional<std::int64_t> major;  // none: any
    std::optional<std::int64_t> minor;
    bool read = true;
    bool write = true;
    bool make_node = true;

    std::string access() const;  // "rwm"
    friend bool operator==(const DeviceRule&, const DeviceRule&) = default;
};

// Docker's --device-cgroup-rule: "c 42:* rwm". Always an allowing rule.
Result<DeviceRule> parse_device_cgroup_rule(std::string_view text);
// What every container may use (runtime-spec "Default Devices", and Docker's defaults): null zero full random urandom
// tty console ptmx pts/*, mknod of anything but nothing more; all else denied first. Privileged: one rule that allows
// all.
std::vector<DeviceRule> default_device_rules();
// Engines list what a container may have beyond the devices every runtime supplies (config-linux.md, "Default
// Devices"): podman's and dockerd's lists deny all, and expect terminals to work. Rules that deny nothing stay as they
// are.
void supply_default_devices(std::vector<DeviceRule>& rules);

struct HugepageLimit {
    std::string page_size;  // "2MB", as the kernel's file names spell it
    std::uint64_t limit = 0;

    friend bool operator==(const HugepageLimit&, const HugepageLimit&) = default;
};

// Of one RDMA device ("mlx5_1").
struct RdmaLimit {
    std::string device;
    std::optional<std::uint32_t> hca_handles;
    std::optional<std::uint32_t> hca_objects;

    friend bool operator==(const RdmaLimit&, const RdmaLimit&) = default;
};

// v1 alone has controllers for it (net_cls, net_prio).
struct NetworkResources {
    std::optional<std::uint32_t> class_id;                          // of traffic control; 0: none
    std::vector<std::pair<std::string, std::uint32_t>> priorities;  // by interface

    friend bool operator==(const NetworkResources&, const NetworkResources&) = default;
};

struct CgroupResources {
    MemoryResources memory;
    CpuResources cpu;
    std::optional<std::int64_t> pids_limit;  // 0 and -1: unlimited
    BlockIoResources block_io;
    std::vector<HugepageLimit> hugepages;
    std::vector<RdmaLimit> rdma;  // in the order of the devices' names
    NetworkResources network;
    std::vector<DeviceRule> devices;
    // v2 files to write as they are (linux.resources.unified). On v1 a non-empty map is refused.
    std::map<std::string, std::string> unified;

    friend bool operator==(const CgroupResources&, const CgroupResources&) = default;
};

// linux.resources of an OCI configuration. Unknown members are left alone; wrong types and ranges are invalid_argument.
Result<CgroupResources> parse_cgroup_resources(const JsonReader& reader);
json::object to_oci_json(const CgroupResources& resources);

// Conversions of the runtime specification's v1 values to v2's files.
std::uint64_t cpu_shares_to_weight(std::uint64_t shares);          // 2..262144 -> 1..10000
std::uint64_t block_io_weight_to_io_weight(std::uint64_t weight);  // 10..1000 -> 1..10000
// memory.swap.max from memory+swap; -1: "max". invalid_argument when swap is below the limit.
Result<std::int64_t> memory_swap_to_v2(std::int64_t memory_and_swap, std::optional<std::int64_t> memory);
// "0-3,7" well-formed? (The kernel says whether the processors exist.)
Result<> validate_cpu_list(std::string_view list);

}  // namespace wherry::confine
