// Settings of the kernel that a namespace has of its own: those a container may set. Any other one is the host's.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "oci/spec.hpp"

namespace wherry::oci {

enum class SysctlScope : unsigned char { host, ipc, network, uts, user };

// "net.ipv4.ip_forward" and "net/ipv4/conf/eth0.1/forwarding": a slash anywhere means that slashes separate.
SysctlScope sysctl_scope(std::string_view name);
// Below /proc/sys. Only for names whose scope is not the host.
std::string sysctl_path(std::string_view name);

// invalid_argument for a setting of the host, or of a namespace the container shares with the host; `kinds` are those
// it does not share ("network", ...).
Result<> check_sysctls(const LinuxSpec& spec, std::span<const std::string> kinds);

}  // namespace wherry::oci
