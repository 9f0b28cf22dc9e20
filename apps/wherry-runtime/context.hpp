// What the commands of wherry-runtime share: where things are, and what is known of a container.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.hpp"
#include "base/result.hpp"
#include "command_line.hpp"
#include "confine/cgroup.hpp"
#include "oci/container.hpp"
#include "state.hpp"

namespace wherry::runtime {

inline constexpr std::size_t config_limit = 16U << 20U;  // bytes of any JSON document this runtime reads

// --rootless=true, or not root at all: cgroups are used where they may be, other people's owner ids are not touched.
bool is_rootless(const CommandLine& line);
// --root, else /run/wherry-runtime, else (rootless) $XDG_RUNTIME_DIR/wherry-runtime.
std::string root_of(const CommandLine& line);
Result<std::string> only_id(const CommandLine& line);
Result<std::string> absolute(const std::string& path);
// Descriptors 3 and up of --preserve-fds and of socket activation (LISTEN_FDS).
Result<std::vector<oci::ExtraFd>> preserved_fds(const Options& options);
int listen_fds();  // of the environment, when they are meant for this process; 0: none
Result<> write_pid_file(const Options& options, pid_t pid);
Result<> send_terminal(const Options& options, const Fd& terminal);
// To --pidfd-socket, where one is given; `kind`: "standard" for a first process, "setns" for one of exec, as runc says.
Result<> send_pidfd(const Options& options, int pidfd, const char* kind);
void print_timings(const oci::Timeline& timeline);
Result<int> parse_signal(std::string name);

// The state file, and the container when its process still runs.
struct Known {
    StateDirectory directory;
    json::object state;
    std::optional<oci::Container> container;

    Result<std::optional<confine::Cgroup>> cgroup() const;  // nullopt: the container has none
};

// not_found "container does not exist" when there is no such state.
Result<Known> find(const CommandLine& line, const std::string& id);
// created, running, paused or stopped.
std::string_view status_of(const Known& known);
// What `state` and `list` print of a container.
json::object describe(const Known& known, const std::string& id);

// Ends the processes, removes cgroup and state, runs the poststop hooks.
Result<> remove_container(Known& known);

}  // namespace wherry::runtime
