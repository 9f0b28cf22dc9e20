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

// Runs them in order; stops at the first that fails: not 0, a signal, or its timeout (then it is killed), with what it
// wrote to stderr in the message. Without a timeout it may take as long as it likes.
Result<> run_hooks(std::span<const Hook> hooks, const char* kind, const HookState& state);

}  // namespace wherry::oci
