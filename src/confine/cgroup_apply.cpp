// Limits of a cgroup: linux.resources to the files of v1 and v2.
#include <algorithm>
#include <cerrno>

#include "confine/cgroup_internal.hpp"

namespace wherry::confine {
namespace {

using namespace cgroup_detail;

class Applier {
  public:
    Applier(int v1, int v2, const CgroupSystem& system, std::vector<std::string>* warnings)
        : v1_(v1), v2_(v2), system_(system), warnings_(warnings) {}

    bool is_v1() const { return v1_ >= 0; }
    int directory() const { return v1_ >= 0 ? v1_ : v2_; }
    bool has(const char* file) const { return directory() >= 0 && exists_at(directory(), file); }
    const CgroupSystem& system() const { return system_; }

    void warn(std::string text) {
        if (warnings_ != nullptr) warnings_->push_back(std::move(text));
    }

    // Writes `value`, or says in the setting's own words why it cannot be.
    Result<> write(const std::string& file, const std::string& value, std::string_view setting) {
        if (directory() < 0) return missing(setting);
        auto written = write_control_file_at(directory(), file, value);
        if (written) return {};
        std::string what = std::string(setting) + " of " + value;
        switch (written.error().os_errno()) {
            case ENOENT:
                return missing(setting);
            case EINVAL:
            case ERANGE:
            case ENODEV:
            case EDOM:
                return std::unexpected(std::move(written)
                                           .error()
                                           .with_code(Code::invalid_argument)
                                           .context(what + " is refused by the kernel"));
            case EBUSY:
                return std::unexpected(
                    std::move(written).error().with_code(Code::conflict).context(what + ": below what is in use"));
            default:
                return std::unexpected(std::move(written).error().context(what));
        }
    }

  private:
    std::unexpected<Error> missing(std::string_view setting) {
        return fail(Code::unimplemented, std::string(setting) + ": this host has no cgroup controller for it");
    }

    int v1_;
    int v2_;
    const CgroupSystem& system_;
    std::vector<std::string>* warnings_;
};

std::string max_or(std::int64_t value) {
    return value == -1 ? "max" : std::to_string(value);
}

std::optional<std::int64_t> unless_zero(const std::optional<std::int64_t>& value) {
    return value && *value != 0 ? value : std::nullopt;
}

Result<> check_memory_values(const MemoryResources& memory) {
    for (const auto& value : {memory.limit, memory.reservation, memory.swap, memory.kernel_tcp})
        if (value && *value < -1) return fail(Code::invalid_argument, "a memory limit is a number of bytes or -1");
    if (memory.swappiness && *memory.swappiness > 100)
        return fail(Code::invalid_argument, "memory swappiness is 0 to 100");
    return {};
}

// The kernel keeps limit <= memory+swap at every moment: growing starts with the sum, shrinking with the limit.
Result<> apply_memory_and_swap_v1(Applier& to, std::optional<std::int64_t> limit, std::optional<std::int64_t> swap) {
    if (limit == -1 && !swap) swap = -1;
    if (swap && !to.has("memory.memsw.limit_in_bytes")) {
        to.warn("this kernel does not account swap: the swap limit has no effect");
        swap.reset();
    }
    bool swap_first = false;
    if (limit && swap && *swap != -1) {
        if (*limit != -1 && *swap < *limit)
            return fail(Code::invalid_argument, "the limit of memory and swap is below the limit of memory");
        auto now = TRY(read_counter(to.directory(), "memory.memsw.limit_in_bytes"));
        swap_first = now.value_or(0) < static_cast<std::uint64_t>(*swap);
    } else if (limit && swap) {
        swap_first = true;
    }
    auto write_swap = [&]() -> Result<> {
        if (!swap) return {};
        return to.write("memory.memsw.limit_in_bytes", std::to_string(*swap), "the limit of memory and swap");
    };
    if (swap_first) TRY(write_swap());
    if (limit) TRY(to.write("memory.limit_in_bytes", std::to_string(*limit), "the memory limit"));
    if (!swap_first) TRY(write_swap());
    return {};
}

Result<> apply_memory_v1(Applier& to, const MemoryResources& memory) {
    TRY(apply_memory_and_swap_v1(to, unless_zero(memory.limit), unless_zero(memory.swap)));
    if (auto value = unless_zero(memory.reservation))
        TRY(to.write("memory.soft_limit_in_bytes", std::to_string(*value), "the memory reservation"));
    if (auto value = unless_zero(memory.kernel_tcp))
        TRY(to.write("memory.kmem.tcp.limit_in_bytes", std::to_string(*value), "the limit of TCP buffers"));
    if (memory.swappiness)
        TRY(to.write("memory.swappiness", std::to_string(*memory.swappiness), "the memory swappiness"));
    if (memory.disable_oom_killer)
        TRY(to.write("memory.oom_control", *memory.disable_oom_killer ? "1" : "0", "disabling the OOM killer"));
    if (memory.use_hierarchy && !*memory.use_hierarchy)
        to.warn("memory is always accounted hierarchically on this kernel");
    return {};
}

Result<> apply_memory_v2(Applier& to, const MemoryResources& memory) {
    auto limit = unless_zero(memory.limit);
    auto swap = unless_zero(memory.swap);
    if (limit == -1 && !swap) swap = -1;
    if (limit && *limit > 0 && memory.check_before_update.value_or(false)) {
        auto usage = TRY(read_counter(to.directory(), "memory.current"));
        if (usage && *usage > static_cast<std::uint64_t>(*limit))
            return fail(Code::conflict, "the memory limit is below the " + std::to_string(*usage) + " bytes in use");
    }
    if (swap) {
        std::string value = max_or(TRY(memory_swap_to_v2(*swap, limit)));
        if (to.has("memory.swap.max"))
            TRY(to.write("memory.swap.max", value, "the swap limit"));
        else
            to.warn("this kernel does not account swap: the swap limit has no effect");
    }
    if (limit) TRY(to.write("memory.max", max_or(*limit), "the memory limit"));
    if (auto value = unless_zero(memory.reservation))
        TRY(to.write("memory.low", max_or(*value), "the memory reservation"));
    if (memory.swappiness) to.warn("memory swappiness has no effect on cgroup v2");
    if (memory.disable_oom_killer.value_or(false)) to.warn("the OOM killer cannot be disabled on cgroup v2");
    if (unless_zero(memory.kernel_tcp)) to.warn("a limit of TCP buffers has no effect on cgroup v2");
    return {};
}

Result<> apply_memory(Applier& to, const MemoryResources& memory) {
    TRY(check_memory_values(memory));
    if (unless_zero(memory.kernel)) to.warn("a limit of kernel memory has no effect on this kernel");
    return to.is_v1() ? apply_memory_v1(to, memory) : apply_memory_v2(to, memory);
}

// Old and new values may fit together only in one order: try again after the others are in place.
Result<> apply_bandwidth_v1(Applier& to, const CpuResources& cpu) {
    auto period = cpu.period_us.value_or(0);
    auto quota = cpu.quota_us.value_or(0);
    auto write_period = [&] { return to.write("cpu.cfs_period_us", std::to_string(period), "the CPU period"); };
    auto write_quota = [&] { return to.write("cpu.cfs_quota_us", std::to_string(quota), "the CPU quota"); };
    auto write_burst = [&] { return to.write("cpu.cfs_burst_us", std::to_string(*cpu.burst_us), "the CPU burst"); };
    bool period_later = false;
    bool burst_done = false;
    if (period != 0) {
        auto written = write_period();
        if (!written && (quota == 0 || written.error().os_errno() != EINVAL)) return written;
        period_later = !written;
    }
    if (quota != 0) {
        auto written = write_quota();
        if (!written && cpu.burst_us && written.error().os_errno() == EINVAL) {
            TRY(write_burst());
            burst_done = true;
            written = write_quota();
        }
        TRY(std::move(written));
    }
    if (period_later) TRY(write_period());
    if (cpu.burst_us && !burst_done) TRY(write_burst());
    return {};
}

Result<> apply_bandwidth_v2(Applier& to, const CpuResources& cpu) {
    auto period = cpu.period_us.value_or(0);
    auto quota = cpu.quota_us.value_or(0);
    bool burst_later = false;
    if (cpu.burst_us) {
        auto written = to.write("cpu.max.burst", std::to_string(*cpu.burst_us), "the CPU burst");
        burst_later = !written && written.error().os_errno() == EINVAL;
        if (!written && !burst_later) return written;
    }
    if (period != 0 || quota != 0) {
        std::string value = quota > 0 ? std::to_string(quota) : "max";
        if (quota == 0) {  // keep the quota that is there
            std::string now = TRY(read_file_at(to.directory(), "cpu.max", 256), "cpu.max");
            value = now.substr(0, now.find(' '));
        }
        if (period != 0) value += ' ' + std::to_string(period);
        TRY(to.write("cpu.max", value, "the CPU quota and period"));
    }
    if (burst_later) TRY(to.write("cpu.max.burst", std::to_string(*cpu.burst_us), "the CPU burst"));
    return {};
}

Result<> apply_cpu(Applier& to, const CpuResources& cpu) {
    if (cpu.idle) TRY(to.write("cpu.idle", std::to_string(*cpu.idle), "CPU idle"));
    if (cpu.shares && *cpu.shares != 0 && cpu.idle.value_or(0) == 0) {
        if (to.is_v1()) {
            TRY(to.write("cpu.shares", std::to_string(std::min<std::uint64_t>(*cpu.shares, 262144)), "the CPU shares"));
        } else {
            TRY(to.write("cpu.weight", std::to_string(cpu_shares_to_weight(*cpu.shares)), "the CPU weight"));
        }
    }
    if (cpu.realtime_period_us.value_or(0) != 0 || cpu.realtime_runtime_us.value_or(0) != 0) {
        if (!to.is_v1()) return fail(Code::unimplemented, "CPU realtime limits: not on cgroup v2");
        if (cpu.realtime_period_us.value_or(0) != 0)
            TRY(to.write("cpu.rt_period_us", std::to_string(*cpu.realtime_period_us), "the CPU realtime period"));
        if (cpu.realtime_runtime_us.value_or(0) != 0)
            TRY(to.write("cpu.rt_runtime_us", std::to_string(*cpu.realtime_runtime_us), "the CPU realtime runtime"));
    }
    return to.is_v1() ? apply_bandwidth_v1(to, cpu) : apply_bandwidth_v2(to, cpu);
}

Result<> apply_cpuset(Applier& to, const CpuResources& cpu) {
    if (!cpu.cpus.empty()) {
        TRY(validate_cpu_list(cpu.cpus), "processors");
        TRY(to.write("cpuset.cpus", cpu.cpus, "a set of processors"));
    }
    if (!cpu.mems.empty()) {
        TRY(validate_cpu_list(cpu.mems), "memory nodes");
        TRY(to.write("cpuset.mems", cpu.mems, "a set of memory nodes"));
    }
    return {};
}

std::string device_and(std::int64_t major, std::int64_t minor, const std::string& value) {
    return std::to_string(major) + ':' + std::to_string(minor) + ' ' + value;
}

Result<> apply_throttles(Applier& to, const std::vector<BlockThrottle>& throttles, const char* v1_file,
                         const char* v2_key, std::string_view setting) {
    for (const BlockThrottle& throttle : throttles) {
        std::string value =
            to.is_v1() ? std::to_string(throttle.rate)
                       : std::string(v2_key) + '=' + (throttle.rate == 0 ? "max" : std::to_string(throttle.rate));
        TRY(to.write(to.is_v1() ? v1_file : "io.max", device_and(throttle.major, throttle.minor, value), setting));
    }
    return {};
}

Result<> apply_block_io_weights(Applier& to, const BlockIoResources& io) {
    bool plain = to.has(to.is_v1() ? "blkio.weight" : "io.weight");
    std::string file =
        to.is_v1() ? (plain ? "blkio.weight" : "blkio.bfq.weight") : (plain ? "io.weight" : "io.bfq.weight");
    bool converted = !to.is_v1() && plain;
    auto text = [&](std::uint16_t weight) {
        return std::to_string(converted ? block_io_weight_to_io_weight(weight) : std::uint64_t{weight});
    };
    if (io.weight.value_or(0) != 0) {
        if (*io.weight < 10 || *io.weight > 1000)
            return fail(Code::invalid_argument, "the block I/O weight is 10 to 1000");
        TRY(to.write(file, text(*io.weight), "the block I/O weight"));
    }
    if (io.leaf_weight.value_or(0) != 0) {
        if (to.is_v1() && to.has("blkio.leaf_weight"))
            TRY(to.write("blkio.leaf_weight", std::to_string(*io.leaf_weight), "the block I/O leaf weight"));
        else
            to.warn("a block I/O leaf weight has no effect on this kernel");
    }
    for (const BlockDeviceWeight& device : io.weight_device) {
        if (device.weight.value_or(0) != 0)
            TRY(to.write(to.is_v1() ? file + "_device" : file,
                         device_and(device.major, device.minor, text(*device.weight)),
                         "the block I/O weight of a device"));
        if (device.leaf_weight.value_or(0) != 0) to.warn("a block I/O leaf weight has no effect on this kernel");
    }
    return {};
}

Result<> apply_block_io(Applier& to, const BlockIoResources& io) {
    TRY(apply_block_io_weights(to, io));
    TRY(apply_throttles(to, io.read_bps, "blkio.throttle.read_bps_device", "rbps", "a limit of bytes read"));
    TRY(apply_throttles(to, io.write_bps, "blkio.throttle.write_bps_device", "wbps", "a limit of bytes written"));
    TRY(apply_throttles(to, io.read_iops, "blkio.throttle.read_iops_device", "riops", "a limit of reads"));
    TRY(apply_throttles(to, io.write_iops, "blkio.throttle.write_iops_device", "wiops", "a limit of writes"));
    return {};
}

Result<> apply_hugepages(Applier& to, const std::vector<HugepageLimit>& limits) {
    for (const HugepageLimit& limit : limits) {
        std::string stem = "hugetlb." + limit.page_size;
        std::string value = std::to_string(limit.limit);
        std::string suffix = to.is_v1() ? ".limit_in_bytes" : ".max";
        TRY(to.write(stem + suffix, value, "the limit of " + limit.page_size + " pages"));
        // Reservations are counted apart on newer kernels, and without this limit mmap would promise what a fault
        // refuses.
        std::string reserved = stem + ".rsvd" + suffix;
        if (to.has(reserved.c_str())) TRY(to.write(reserved, value, "the limit of " + limit.page_size + " pages"));
    }
    return {};
}

// "device hca_handle=2 hca_object=2000": the same file on v1 and v2.
Result<> apply_rdma(Applier& to, const std::vector<RdmaLimit>& limits) {
    for (const RdmaLimit& limit : limits) {
        std::string line = limit.device;
        if (limit.hca_handles) line += " hca_handle=" + std::to_string(*limit.hca_handles);
        if (limit.hca_objects) line += " hca_object=" + std::to_string(*limit.hca_objects);
        TRY(to.write("rdma.max", line, "the limit of RDMA resources"));
    }
    return {};
}

Result<> apply_unified(Applier& to, const std::map<std::string, std::string>& files) {
    for (const auto& [name, value] : files) {
        bool clean =
            name.find('/') == std::string::npos && name.find('.') != std::string::npos && !name.starts_with('.');
        if (!clean) return fail(Code::invalid_argument, "unified: \"" + name + "\" is no name of a cgroup file");
        if (name.starts_with("cgroup.") && name != "cgroup.max.depth" && name != "cgroup.max.descendants")
            return fail(Code::invalid_argument, "unified: " + name + " is not a limit");
        TRY(to.write(name, value, name));
    }
    return {};
}

}  // namespace

Result<> Cgroup::apply(const CgroupResources& resources, std::vector<std::string>* warnings) {
    const State& state = *state_;
    auto applier = [&](std::string_view controller) {
        return Applier(state.v1_with(controller), state.system->on_v2(controller) ? state.unified() : -1, *state.system,
                       warnings);
    };
    if (!resources.hugepages.empty() && state.v1_with("hugetlb") < 0)
        TRY(enable_v2_controllers(*state.system, path().substr(0, path().rfind('/')), {"hugetlb"}));
    // Nobody asks for a directory that nothing is written to: it may not be open yet.
    if (resources.memory != MemoryResources{}) {
        Applier memory = applier("memory");
        TRY(apply_memory(memory, resources.memory));
    }
    if (resources.cpu != CpuResources{}) {
        Applier cpu = applier("cpu");
        TRY(apply_cpu(cpu, resources.cpu));
        Applier cpuset = applier("cpuset");
        TRY(apply_cpuset(cpuset, resources.cpu));
    }
    if (resources.pids_limit) {
        Applier pids = applier("pids");
        TRY(pids.write("pids.max", *resources.pids_limit <= 0 ? "max" : std::to_string(*resources.pids_limit),
                       "the limit of processes"));
    }
    if (resources.block_io != BlockIoResources{}) {
        Applier io(state.v1_with("blkio"), state.system->on_v2("io") ? state.unified() : -1, *state.system, warnings);
        TRY(apply_block_io(io, resources.block_io));
    }
    if (!resources.hugepages.empty()) {
        Applier hugetlb = applier("hugetlb");
        TRY(apply_hugepages(hugetlb, resources.hugepages));
    }
    if (!resources.rdma.empty()) {
        if (state.v1_with("rdma") < 0)
            TRY(enable_v2_controllers(*state.system, path().substr(0, path().rfind('/')), {"rdma"}));
        Applier rdma = applier("rdma");
        TRY(apply_rdma(rdma, resources.rdma));
    }
    // v2 has none: such marks come from eBPF programs and nftables there, which are not the runtime's.
    if (resources.network.class_id.value_or(0) != 0) {
        Applier net_cls(state.v1_with("net_cls"), -1, *state.system, warnings);
        TRY(net_cls.write("net_cls.classid", std::to_string(*resources.network.class_id),
                          "the class of network traffic"));
    }
    for (const auto& [name, priority] : resources.network.priorities) {
        Applier net_prio(state.v1_with("net_prio"), -1, *state.system, warnings);
        TRY(net_prio.write("net_prio.ifpriomap", std::string(name).append(" ").append(std::to_string(priority)),
                           "the priority of network traffic"));
    }
    if (!resources.devices.empty()) {
        if (int devices = state.v1_with("devices"); devices >= 0)
            TRY(apply_device_rules_v1(devices, resources.devices));
        else if (int unified = state.unified(); unified >= 0)
            TRY(apply_device_rules_v2(unified, resources.devices));
        else
            return fail(Code::unimplemented, "device rules: this host has no cgroup controller for them");
    }
    if (!resources.unified.empty()) {
        if (state.unified() < 0) return fail(Code::unimplemented, "unified resources: this host has no cgroup v2");
        Applier unified(-1, state.unified(), *state.system, warnings);
        TRY(apply_unified(unified, resources.unified));
    }
    return {};
}

}  // namespace wherry::confine
