// What --help, the man pages and the completions say, all made from the tables of verbs and options.
#pragma once

#include <string>

#include "cli/command.hpp"

namespace wherry::cli {

std::string short_help(const std::string& program);    // without arguments
std::string program_help(const std::string& program);  // --help
std::string group_help(const std::string& program, const Group& group);
std::string command_help(const std::string& program, const std::string& path, const Command& command);

// One man page (roff) for the whole command.
std::string manual(const std::string& program);
// A completion script: "bash", "zsh" or "fish"; empty for another shell.
std::string completion(const std::string& program, const std::string& shell);
// Every flag of every verb as a Markdown table, done or refused.
std::string flag_table(const std::string& program);

}  // namespace wherry::cli
