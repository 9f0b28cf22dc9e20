#include "net/netns.hpp"

#include <fcntl.h>
#include <sched.h>

#include <optional>
#include <thread>

#include "net/netlink.hpp"

namespace wherry::net {

namespace {

// Runs `work` on a thread that ends afterwards, and gives its outcome.
template <class Work>
auto on_own_thread(Work work) {
    std::optional<decltype(work())> outcome;
    std::thread([&] { outcome.emplace(work()); }).join();
    return std::move(*outcome);
}

}  // namespace

Result<Fd> current_network_namespace() {
    return open_file("/proc/thread-self/ns/net", O_RDONLY);
}

Result<Fd> create_network_namespace(const std::function<Result<>(int)>& inside) {
    return on_own_thread([&]() -> Result<Fd> {
        // SAFETY: only this thread changes its namespace, and it ends with this function.
        if (::unshare(CLONE_NEWNET) < 0) return fail_errno("create a network namespace");
        Fd netns = TRY(current_network_namespace());
        if (inside) TRY(inside(netns.get()));
        return netns;
    });
}

Result<> run_in_network_namespace(int netns, const std::function<Result<>()>& work) {
    return on_own_thread([&]() -> Result<> {
        // SAFETY: as above.
        if (::setns(netns, CLONE_NEWNET) < 0) return fail_errno("enter network namespace");
        return work();
    });
}

Result<> set_network_sysctl(const std::string& name, const std::string& value) {
    if (!name.starts_with("net."))
        return fail(Code::invalid_argument, "sysctl \"" + name + "\" is not one of a network namespace");
    // Dots become slashes; a slash in the name stands for a dot in an interface's name, as in sysctl(8).
    std::string path = "/proc/sys/";
    for (char c : name) {
        if (c == '.') {
            path += '/';
        } else if (c == '/') {
            path += '.';
        } else {
            path += c;
        }
    }
    if (path.find("//") != std::string::npos || path.find("/..") != std::string::npos ||
        path.find("/./") != std::string::npos || path.find('\0') != std::string::npos)
        return fail(Code::invalid_argument, "invalid sysctl name \"" + name + "\"");
    return write_control_file(path, value);
}

Result<> apply_default_sysctls() {
    // Best effort: a kernel without one of them still runs containers.
    static_cast<void>(write_control_file("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"));
    static_cast<void>(write_control_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"));
    return {};
}

Result<> loopback_up(int netns) {
    NetlinkSocket socket = TRY(NetlinkSocket::open_in(netns));
    return socket.set_up(1);
}

}  // namespace wherry::net
