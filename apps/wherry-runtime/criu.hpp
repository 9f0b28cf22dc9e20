// CRIU as a program (https://criu.org): it has no library that does without the program.
#pragma once

#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "confine/resctrl.hpp"

namespace wherry::runtime {

// unavailable when it is not installed. Searched in /usr/sbin, /usr/local/sbin, /usr/bin, /usr/local/bin.
Result<std::string> find_criu();

struct CriuRun {
    std::vector<std::string> arguments;  // without the program's name
    // Bound over `root_mount` in a mount namespace of its own, in which the program runs: CRIU wants the container's
    // root to be a mount. Both empty: none.
    std::string root_source, root_mount;
    std::vector<std::pair<int, int>> descriptors;   // ours -> the number the program gets; all others are closed
    const confine::ResctrlJoin* resctrl = nullptr;  // entered first: what it restores is born there
    std::string log;                                // where it writes; its last errors become the message
};
// Returns once it has ended well; conflict with the errors of its log otherwise.
Result<> run_criu(const CriuRun& run);

}  // namespace wherry::runtime
