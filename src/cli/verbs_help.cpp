// help, completion, man.
#include "cli/command.hpp"
#include "cli/help.hpp"
#include "cli/session.hpp"

namespace wherry::cli {

namespace {

Result<int> help(Session& session, const Invocation& invocation) {
    if (invocation.arguments.empty()) {
        session.out(program_help(session.program()));
        return 0;
    }
    std::string path = invocation.arguments[0];
    if (invocation.arguments.size() > 1) path += " " + invocation.arguments[1];
    if (const Command* command = find_command(path)) {
        session.out(command_help(session.program(), path, *command));
        return 0;
    }
    if (const Group* group = find_group(path)) {
        session.out(group_help(session.program(), *group));
        return 0;
    }
    return fail(Code::not_found, "unknown help topic: " + path);
}

Result<int> print_completion(Session& session, const Invocation& invocation) {
    std::string script = completion(session.program(), invocation.arguments[0]);
    if (script.empty()) return fail(Code::invalid_argument, "completion is there for bash, zsh and fish");
    session.out(script);
    return 0;
}

Result<int> print_manual(Session& session, const Invocation&) {
    session.out(manual(session.program()));
    return 0;
}

Result<int> print_flags(Session& session, const Invocation&) {
    session.out(flag_table(session.program()));
    return 0;
}

}  // namespace

void add_help_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"help"},
         .usage = "[COMMAND]",
         .summary = "Show every command, or one command's help",
         .example = "wherry help run",
         .maximum = 2,
         .run = help},
        {.names = {"completion"},
         .usage = "bash|zsh|fish",
         .summary = "Print a shell's completion script",
         .example = "source <(wherry completion bash)",
         .minimum = 1,
         .maximum = 1,
         .run = print_completion,
         .hidden = true},
        {.names = {"man"},
         .usage = "",
         .summary = "Print the manual page",
         .example = "wherry man | man -l -",
         .maximum = 0,
         .run = print_manual,
         .hidden = true},
        {.names = {"flags"},
         .usage = "",
         .summary = "Print every flag as a Markdown table",
         .example = "wherry flags",
         .maximum = 0,
         .run = print_flags,
         .hidden = true},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
