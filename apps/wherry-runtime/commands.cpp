#include "commands.hpp"

#include <map>

namespace wherry::runtime {

Result<int> run_command(const CommandLine& line) {
    static const std::map<std::string, Result<int> (*)(const CommandLine&)> table{{"create", create_command},
                                                                                  {"run", run_command_of},
                                                                                  {"start", start_command},
                                                                                  {"state", state_command},
                                                                                  {"kill", kill_command},
                                                                                  {"delete", delete_command},
                                                                                  {"exec", exec_command},
                                                                                  {"spec", spec_command},
                                                                                  {"list", list_command},
                                                                                  {"ps", ps_command},
                                                                                  {"pause", pause_command},
                                                                                  {"resume", resume_command},
                                                                                  {"update", update_command},
                                                                                  {"events", events_command},
                                                                                  {"features", features_command},
                                                                                  {"restore", restore_command},
                                                                                  {"checkpoint", checkpoint_command}};
    auto found = table.find(line.command);
    if (found == table.end()) return fail(Code::invalid_argument, "unknown command " + line.command);
    return found->second(line);
}

}  // namespace wherry::runtime
