// What a machine is to be, as plain values: the bodies of Firecracker's requests after validation.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "vmm/arch/x86_64/cpu_template.hpp"
#include "vmm/core/rate_limiter.hpp"
#include "vmm/devices/balloon/device.hpp"
#include "vmm/devices/block/device.hpp"
#include "vmm/devices/entropy/device.hpp"
#include "vmm/devices/fs/device.hpp"
#include "vmm/devices/mem/device.hpp"
#include "vmm/devices/net/device.hpp"
#include "vmm/devices/pmem/device.hpp"
#include "vmm/devices/vsock/device.hpp"
#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm {

struct BootSource {
    std::string kernel_image_path;
    std::optional<std::string> initrd_path;
    std::optional<std::string> boot_args;

    void fields(this auto& self, auto&& f) { f(self.kernel_image_path, self.initrd_path, self.boot_args); }
};

struct MachineConfig {
    std::uint32_t vcpu_count = 1;
    std::uint64_t mem_size_mib = 128;
    bool smt = false;
    bool track_dirty_pages = false;
    HugePages huge_pages = HugePages::none;
    x86_64::StaticTemplate cpu_template = x86_64::StaticTemplate::none;

    friend bool operator==(const MachineConfig&, const MachineConfig&) = default;
    void fields(this auto& self, auto&& f) {
        f(self.vcpu_count, self.mem_size_mib, self.smt, self.track_dirty_pages, self.huge_pages, self.cpu_template);
    }
};

struct SerialConfig {
    std::optional<std::string> output_path;
    std::optional<BucketConfig> rate_limiter;

    void fields(this auto& self, auto&& f) { f(self.output_path, self.rate_limiter); }
};

// Everything that can be said before the machine starts.
struct Resources {
    MachineConfig machine;
    x86_64::CpuTemplate cpu_template;
    std::optional<BootSource> boot;
    std::vector<block::Config> drives;  // the root device first
    std::vector<net::Config> networks;
    std::optional<vsock::Config> vsock;
    std::optional<balloon::Config> balloon;
    std::optional<entropy::Config> entropy;
    std::vector<fs::Config> folders;  // shared ones
    std::optional<SerialConfig> serial;
    bool has_pci = false;  // devices are PCI functions, and may come and go
    std::vector<pmem::Config> pmems;
    std::optional<mem::Config> memory_hotplug;
};

struct StartInfo {
    std::int64_t start_us = 0;      // CLOCK_MONOTONIC when the process (or its jailer) was started
    std::int64_t start_cpu_us = 0;  // CPU time of the process and its parent then
    bool boot_timer = false;
};

}  // namespace wherry::vmm
