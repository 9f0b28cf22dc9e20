// What every process of a container goes through before it becomes its program, the first one and those of exec:
// limits, terminal, user, capabilities, seccomp, working directory, descriptors. Internal to the room.
// The plan is made in the parent, where failing is cheap; the steps run in the single-threaded child.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "confine/capabilities.hpp"
#include "confine/cgroup.hpp"
#include "confine/resctrl.hpp"
#include "confine/rlimits.hpp"
#include "confine/seccomp.hpp"
#include "oci/container.hpp"
#include "oci/spec.hpp"
#include "oci/user.hpp"

namespace wherry::oci {

struct ProcessPlan {
    ProcessSpec process;
    confine::Capabilities capabilities;
    std::vector<confine::ResourceLimit> limits;
    confine::SeccompProgram seccomp;
    std::array<int, 3> stdio{-1, -1, -1};
    Fd null_device;  // what stands in for those nobody gave
    std::vector<ExtraFd> extra_fds;
    std::optional<Personality> personality;
    bool seccomp_notifies = false;       // its listener is told of to the parent, so it is installed before that ends
    bool parent_sets_oom_score = false;  // in a user namespace the process may not write it
    bool setgroups_denied = false;       // known of the user namespace that is joined
    bool new_session_keyring = false;
    bool create_cwd = false;
    bool init = false;
    Fd init_binary;    // sealed memfd of the reaping init
    std::string name;  // of the container, for the session keyring
    std::uint16_t rows = 0, columns = 0;
};

// Descriptors of a plan that the child needs before it closes all others; the channel and the container's own numbers
// come on top. One list for the first process and those of exec.
struct KeptDescriptors {
    std::vector<int> keep;
    int highest_target = 2;  // the highest number that a passed descriptor will have: the runtime's own move above it
};
KeptDescriptors descriptors_of(const ProcessPlan& plan, const std::optional<confine::CgroupJoin>& cgroup,
                               const std::optional<confine::ResctrlJoin>& resctrl);
// Closes everything but those, `more` and `channel`; then moves the channel out of the way of the plan's numbers.
Result<Fd> close_foreign_descriptors(KeptDescriptors kept, std::span<const int> more, Fd& channel);

// stdio: -1 becomes /dev/null.
Result<ProcessPlan> plan_process(const ProcessSpec& process, confine::SeccompProgram seccomp, std::array<int, 3> stdio);

class ProcessSetup {
  public:
    explicit ProcessSetup(ProcessPlan& plan) : plan_(plan) {}

    // Before the namespaces are joined, while the host's /proc is there.
    Result<> early();
    // In the container's root: user and groups from its files.
    Result<ResolvedUser> resolve();
    Result<> attach_stdio(int terminal_slave);  // -1: the plan's descriptors
    // Security labels for the program: written by the process itself, seen by its own number in the container's /proc.
    Result<> label();
    Result<> take_terminal();  // stdin as the controlling terminal of this (new) session
    // Everything up to execve; afterwards the process has the container's rights and no descriptor but its own and
    // `keep` (-1: none), which must be above the numbers of the plan's.
    // `reply` is where a seccomp listener is sent.
    Result<> confine(std::span<const int> keep, int reply);
    // Does not return unless execve fails.
    Result<> execute();
    // exec: "foo": ... as Docker words it; with the FailureKind in front (see failure_kind).
    Result<std::string> find_program() const;

  private:
    Result<> enter_directory();
    Result<> scheduling();
    Result<> install_seccomp(int reply);

    ProcessPlan& plan_;
    ResolvedUser user_;
    std::string program_;
    int init_fd_ = -1;
};

std::unexpected<Error> program_error(FailureKind kind, std::string message, int os_errno);

}  // namespace wherry::oci
