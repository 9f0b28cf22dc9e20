// The small per-process switches: no_new_privs, securebits, dumpable, personality, OOM score, descriptors.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.hpp"

namespace wherry::confine {

// OCI's linux.personality domain: "LINUX" or "LINUX32" (others are invalid_argument). For post_fork::set_personality.
Result<unsigned long> parse_personality(std::string_view domain);

// -1000..1000. Below the present value it takes CAP_SYS_RESOURCE: permission_denied that says so.
Result<> check_oom_score_adj(int value);
Result<int> get_oom_score_adj();
Result<> set_oom_score_adj(pid_t pid, int value);  // pid 0: this process

namespace post_fork {
int set_no_new_privileges() noexcept;
int set_securebits(unsigned long bits) noexcept;
int set_dumpable(bool dumpable) noexcept;
int set_personality(unsigned long persona) noexcept;
// SIGKILL when the parent thread ends. ESRCH when `parent` has gone already (pass getpid() taken before the fork; 0:
// not checked, for a child in a new pid namespace).
int die_with_parent(pid_t parent) noexcept;
int set_oom_score_adj(int value) noexcept;  // of the calling process, by /proc/self
// Closes every descriptor from `first` on, or marks them close-on-exec.
int close_from(unsigned first) noexcept;
int close_on_exec_from(unsigned first) noexcept;
// Closes all but those given. The span must be sorted, ascending.
int close_all_but(std::span<const int> sorted_keep) noexcept;
}  // namespace post_fork
}  // namespace wherry::confine
