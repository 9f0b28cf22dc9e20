// What the name server and the processes beside it may do once they run.
#pragma once

#include <string>
#include <vector>

#include "base/result.hpp"

namespace wherry {

enum class ConfinedProcess : unsigned char { server, signer };

// The system calls that they make; others fail with EPERM. For every thread of the process, also those that are started
// later. Needs no_new_privs.
Result<> confine_system_calls(ConfinedProcess process);

// The process becomes `user`, and all its capabilities go. Where `user` is empty it stays who it is, and of root's
// capabilities only the one to open everybody's files stays. One thread may be running.
Result<> leave_privileges(const std::string& user);

// From now on no files but these can be opened: `folders` and what is below them for reading and writing, what the
// system's libraries need for reading (Landlock). Nothing happens on a kernel without it. Needs no_new_privs.
Result<> confine_files(const std::vector<std::string>& folders);

}  // namespace wherry
