// CRIU as a program (https://criu.org): it has no library that does without the program.
//
// The calling process must be single-threaded, and a sub-reaper for a restore: what CRIU makes becomes its child.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "confine/resctrl.hpp"

namespace wherry::checkpoint {

// unavailable when it is not installed. Searched in /usr/sbin, /usr/local/sbin, /usr/bin, /usr/local/bin.
Result<std::string> find_criu();

struct CriuRun {
    std::vector<std::string> arguments;  // without the program's name
    // Bound over `root_mount` in a mount namespace of its own, in which the program runs: CRIU wants the container's
    // root to be a mount. Both empty: none. They may be the same.
    std::string root_source, root_mount;
    std::vector<std::pair<int, int>> descriptors;  // ours -> the number the program gets; all others are closed
    std::vector<Fd> kept;                          // of `descriptors`, those that nobody else owns
    std::optional<confine::ResctrlJoin> resctrl;   // entered first: what it restores is born there
    std::string log;                               // where it writes; its last errors become the message
    bool dies_with_parent = false;
};

// One that was started. Whoever reaps children says when it has ended.
class CriuProcess {
  public:
    static Result<CriuProcess> start(const CriuRun& run);

    pid_t pid() const { return pid_; }
    // From waitpid's status: conflict with the errors of its log when it has failed.
    Result<> ended(int wait_status) const;

  private:
    CriuProcess(pid_t pid, std::string log, Fd problem)
        : pid_(pid), log_(std::move(log)), problem_(std::move(problem)) {}

    pid_t pid_;
    std::string log_;
    Fd problem_;  // the errno of what failed before the program ran; nothing otherwise
};

// Returns once it has ended well.
Result<> run_criu(const CriuRun& run);

}  // namespace wherry::checkpoint
