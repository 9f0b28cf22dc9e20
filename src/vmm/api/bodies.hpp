// Bodies of requests to values, with all checks that need nothing but the body.
#pragma once

#include <string>

#include "base/json.hpp"
#include "base/result.hpp"
#include "vmm/api/controller.hpp"

namespace wherry::vmm::api {

Result<BootSource> parse_boot_source(const json::object& body);
Result<MachineConfig> parse_machine(const json::object& body);
Result<MachinePatch> parse_machine_patch(const json::object& body);
Result<x86_64::CpuTemplate> parse_cpu_template(const json::object& body);
Result<block::Config> parse_drive(const json::object& body);
Result<DrivePatch> parse_drive_patch(const json::object& body);
Result<net::Config> parse_network(const json::object& body);
Result<NetworkPatch> parse_network_patch(const json::object& body);
Result<vsock::Config> parse_vsock(const json::object& body);
Result<balloon::Config> parse_balloon(const json::object& body);
Result<entropy::Config> parse_entropy(const json::object& body);
Result<pmem::Config> parse_pmem(const json::object& body);
Result<PmemPatch> parse_pmem_patch(const json::object& body);
Result<mem::Config> parse_memory_hotplug(const json::object& body);
Result<fs::Config> parse_folder(const json::object& body);
Result<SerialConfig> parse_serial(const json::object& body);
Result<LoggerConfig> parse_logger(const json::object& body);
Result<MmdsConfig> parse_mmds_config(const json::object& body);

json::object limits_to_json(const RateLimiterConfig& limits);
std::string_view to_string(HugePages pages);

}  // namespace wherry::vmm::api
