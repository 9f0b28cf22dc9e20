// Hooks of a container (runtime-spec, config.md "POSIX-platform Hooks"): programs run one after the other with the
// container's state on stdin.
#pragma once

#include <span>
#include <string>

#include "base/result.hpp"
#include "oci/spec.hpp"

namespace wherry::oci {

// The state a hook reads (runtime.md "State").
struct HookState {
    std::string id;
    std::string status;  // creating, created, running, stopped
    pid_t pid = 0;
    std::string bundle;
    std::map<std::string, std::string> annotations;
    json::object to_json() const;
};

// What a failing hook means: for those after start and after the end the specification wants a warning only, and the
// others to run all the same.
enum class HookFailure : unsigned char { stop, go_on };

// Runs them in order. One fails by an exit code other than 0, a signal, or its timeout (then it is killed); what it
// wrote to stderr is in the message. Without a timeout it may take as long as it likes. With go_on the first failure is
// told at the end.
Result<> run_hooks(std::span<const Hook> hooks, const char* kind, const HookState& state,
                   HookFailure failure = HookFailure::stop);

}  // namespace wherry::oci
