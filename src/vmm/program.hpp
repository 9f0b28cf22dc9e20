// wherry-vmm as a program: its flags, its threads, its end.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/result.hpp"

namespace wherry::vmm {

// Firecracker's flags, as values.
struct Options {
    std::string api_socket = "/run/firecracker.socket";
    std::string id = "anonymous-instance";
    std::optional<std::string> config_file;
    std::optional<std::string> metadata;
    std::optional<std::string> seccomp_filter;
    std::optional<std::string> log_path, level, module, metrics_path;
    std::optional<std::string> describe_snapshot;
    bool no_api = false, no_seccomp = false, boot_timer = false, show_level = false, show_log_origin = false;
    bool version = false, help = false, snapshot_version = false, enable_pci = false;
    std::int64_t start_time_us = 0, start_time_cpu_us = 0, parent_cpu_time_us = 0;
    std::size_t payload_limit = 51200;
    std::optional<std::size_t> mmds_limit;
};

// Without the program's name. invalid_argument says which argument is wrong.
Result<Options> parse_options(std::span<const char* const> arguments);
// The whole program; the process' exit code.
int run(std::span<const char* const> arguments);

}  // namespace wherry::vmm
