// The commands of wherry-runtime. Each gives the exit code of the process.
#pragma once

#include "base/result.hpp"
#include "command_line.hpp"

namespace wherry::runtime {

Result<int> run_command(const CommandLine& line);

// lifecycle.cpp
Result<int> create_command(const CommandLine& line);
Result<int> run_command_of(const CommandLine& line);
Result<int> start_command(const CommandLine& line);
Result<int> kill_command(const CommandLine& line);
Result<int> delete_command(const CommandLine& line);
// control.cpp
Result<int> pause_command(const CommandLine& line);
Result<int> resume_command(const CommandLine& line);
Result<int> update_command(const CommandLine& line);
// inspect.cpp
Result<int> state_command(const CommandLine& line);
Result<int> list_command(const CommandLine& line);
Result<int> ps_command(const CommandLine& line);
Result<int> events_command(const CommandLine& line);
// describe.cpp
Result<int> spec_command(const CommandLine& line);
Result<int> features_command(const CommandLine& line);
// exec.cpp
Result<int> exec_command(const CommandLine& line);
// checkpoint.cpp
Result<int> checkpoint_command(const CommandLine& line);
Result<int> restore_command(const CommandLine& line);

}  // namespace wherry::runtime
