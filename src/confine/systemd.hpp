// systemd as the maker of cgroups (--systemd-cgroup): transient scopes over D-Bus
// (https://www.freedesktop.org/wiki/Software/systemd/dbus/, D-Bus specification 0.41), spoken here over the unix
// socket.
//
//     ScopeRequest request = TRY(parse_systemd_cgroups_path("machine.slice:libpod:abc", id, false));
//     request.pid = placeholder;
//     SystemdBus bus = TRY(SystemdBus::connect(false));
//     TRY(bus.start_scope(request));
//
// Calls block until systemd's job is done, at most 30 s (deadline_exceeded). Not thread-safe. What the socket sends is
// not trusted: lengths are checked, a message is at most 1 MiB.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace wherry::confine {

// Limits that systemd is told of, so that it does not reset them; ~0: none (systemd's "infinity").
struct ScopeLimits {
    std::optional<std::uint64_t> memory_max;          // bytes
    std::optional<std::uint64_t> memory_low;          // bytes
    std::optional<std::uint64_t> tasks_max;           // processes
    std::optional<std::uint64_t> cpu_shares;          // v1's; sent as a weight
    std::optional<std::uint64_t> cpu_quota_us_per_s;  // microseconds of processor time a second
};

struct ScopeRequest {
    std::string unit;         // "libpod-abc.scope"
    std::string slice;        // "machine.slice"
    std::string description;  // for people
    pid_t pid = -1;           // its first process: systemd makes no empty scope
    ScopeLimits limits;
};

// linux.cgroupsPath as systemd's driver reads it: "slice:prefix:name". Empty: system.slice (user.slice of a user's
// manager), prefix "wherry", and the id. invalid_argument for another shape and for names systemd would not take.
Result<ScopeRequest> parse_systemd_cgroups_path(std::string_view cgroups_path, const std::string& id,
                                                bool user_manager);
// Where systemd has put a process: of /proc/<pid>/cgroup's text the named hierarchy of v1, else v2's.
Result<std::string> systemd_cgroup_of(std::string_view proc_cgroup);

class SystemdBus {
  public:
    // The system's manager (its private socket, else the system bus) or this user's. unavailable where none listens.
    static Result<SystemdBus> connect(bool user_manager);
    // For tests: an address to connect to, and whether it is a bus (which wants Hello and match rules).
    static Result<SystemdBus> connect_to(const std::string& socket_path, bool is_bus);

    Result<> start_scope(const ScopeRequest& request);
    // Stopping what is gone already is fine.
    Result<> stop_unit(const std::string& unit);
    Result<> set_limits(const std::string& unit, const ScopeLimits& limits);

  private:
    explicit SystemdBus(Fd socket) : socket_(std::move(socket)) {}
    struct Reply;
    Result<> authenticate();
    Result<Reply> call(const std::string& path, const std::string& interface, const std::string& member,
                       const std::string& signature, const std::string& body);
    Result<Reply> next_message();
    Result<> wait_for_job(const std::string& job);
    Result<> subscribe(bool is_bus);

    Fd socket_;
    std::uint32_t serial_ = 0;
    bool is_bus_ = false;
    std::string received_;  // bytes of messages not yet complete
    std::vector<std::pair<std::string, std::string>>
        removed_jobs_;  // object path and result, seen while waiting for others
};

}  // namespace wherry::confine
