#include "oci/sysctl.hpp"

#include <algorithm>
#include <array>

namespace wherry::oci {

namespace {

// ipc/ipc_sysctl.c of the kernel, but for what checkpointing alone writes.
constexpr std::array<std::string_view, 8> ipc_names{
    "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni",          "kernel/sem",
    "kernel/shmall", "kernel/shmmax", "kernel/shm_rmid_forced", "kernel/shmmni"};

bool clean(std::string_view path) {
    std::size_t at = 0;
    while (at <= path.size()) {
        std::size_t end = std::min(path.find('/', at), path.size());
        std::string_view part = path.substr(at, end - at);
        if (part.empty() || part == "." || part == "..") return false;
        at = end + 1;
    }
    return path.find('\0') == std::string_view::npos;
}

}  // namespace

std::string sysctl_path(std::string_view name) {
    std::string path(name);
    if (path.find('/') == std::string::npos) std::ranges::replace(path, '.', '/');
    return path;
}

SysctlScope sysctl_scope(std::string_view name) {
    std::string path = sysctl_path(name);
    if (!clean(path)) return SysctlScope::host;
    if (path.starts_with("net/")) return SysctlScope::network;
    if (path.starts_with("fs/mqueue/") || std::ranges::find(ipc_names, path) != ipc_names.end())
        return SysctlScope::ipc;
    if (path == "kernel/domainname" || path == "kernel/hostname") return SysctlScope::uts;
    if (path.starts_with("user/")) return SysctlScope::user;
    return SysctlScope::host;
}

Result<> check_sysctls(const LinuxSpec& spec, std::span<const std::string> kinds) {
    for (const auto& [name, value] : spec.sysctl) {
        const char* needed = nullptr;
        switch (sysctl_scope(name)) {
            case SysctlScope::host:
                return fail(Code::invalid_argument,
                            "linux.sysctl: " + name + " is not in a separate kernel namespace: it is the host's");
            case SysctlScope::ipc:
                needed = "ipc";
                break;
            case SysctlScope::network:
                needed = "network";
                break;
            case SysctlScope::uts:
                needed = "uts";
                break;
            case SysctlScope::user:
                needed = "user";
                break;
        }
        if (std::ranges::find(kinds, needed) == kinds.end())
            return fail(Code::invalid_argument, "linux.sysctl: " + name + " needs a namespace of its own: " + needed);
    }
    return {};
}

}  // namespace wherry::oci
