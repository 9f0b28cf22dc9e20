// The command line of an OCI runtime, as runc's: wherry-runtime [global options] command [options] arguments.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace wherry::runtime {

struct Options {
    std::map<std::string, std::vector<std::string>> values;  // without dashes, short names made long
    std::set<std::string> flags;
    std::vector<std::string> arguments;

    bool has(const std::string& name) const { return flags.contains(name) || values.contains(name); }
    std::string value(const std::string& name, const std::string& fallback = {}) const;
    std::vector<std::string> all(const std::string& name) const;
};

struct CommandLine {
    Options global;
    std::string command;
    Options local;
};

// invalid_argument for options the command does not have.
Result<CommandLine> parse_command_line(const std::vector<std::string>& words);
std::string usage();

}  // namespace wherry::runtime
