#include "cli/help.hpp"

#include <algorithm>
#include <vector>

#include "cli/terminal.hpp"

namespace wherry::cli {

namespace {

constexpr std::string_view common_verbs[] = {"run", "ps",     "exec", "logs",   "stop",
                                             "rm",  "images", "load", "import", "why"};

void wrap(std::string& out, std::string_view text, std::size_t indent, std::size_t width) {
    std::size_t column = indent;
    bool first = true;
    while (!text.empty()) {
        auto space = text.find(' ');
        std::string_view word = text.substr(0, space);
        text.remove_prefix(space == std::string_view::npos ? text.size() : space + 1);
        if (!first && column + 1 + word.size() > width) {
            out += '\n';
            out.append(indent, ' ');
            column = indent;
        } else if (!first) {
            out += ' ';
            ++column;
        }
        out += word;
        column += word.size();
        first = false;
    }
    out += '\n';
}

std::string option_help(std::span<const Option> options, std::size_t width) {
    std::vector<const Option*> shown;
    std::size_t longest = 0;
    auto left = [](const Option& option) {
        std::string text = option.letter != 0 ? std::string("  -") + option.letter + ", " : std::string("      ");
        text += "--" + std::string(option.name);
        if (!option.value.empty()) text += " " + std::string(option.value);
        return text;
    };
    for (const Option& option : options) {
        if (option.hidden) continue;
        shown.push_back(&option);
        longest = std::max(longest, left(option).size());
    }
    std::string out;
    for (const Option* option : shown) {
        std::string line = left(*option);
        line.append(longest + 3 - line.size(), ' ');
        out += line;
        std::string text(option->help);
        if (!option->fallback.empty()) text += " (default " + std::string(option->fallback) + ")";
        wrap(out, text, longest + 3, std::max<std::size_t>(width, longest + 35));
    }
    return out;
}

std::string verb_lines(const std::vector<const Command*>& verbs, std::string_view prefix) {
    std::size_t longest = 0;
    auto name = [&](const Command* command) {
        for (std::string_view path : command->names)
            if (prefix.empty() ? path.find(' ') == std::string_view::npos : path.starts_with(prefix))
                return path.substr(prefix.size());
        return std::string_view();
    };
    for (const Command* command : verbs) longest = std::max(longest, name(command).size());
    std::string out;
    for (const Command* command : verbs) {
        std::string line = "  " + std::string(name(command));
        line.append(longest + 5 - line.size(), ' ');
        out += line + std::string(command->summary) + "\n";
    }
    return out;
}

std::vector<const Command*> verbs_of(std::string_view prefix) {
    std::vector<const Command*> verbs;
    for (const Command* command : commands()) {
        if (command->hidden) continue;
        bool belongs = std::ranges::any_of(command->names, [&](std::string_view path) {
            return prefix.empty() ? path.find(' ') == std::string_view::npos : path.starts_with(prefix);
        });
        if (belongs) verbs.push_back(command);
    }
    return verbs;
}

std::string indented(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        auto end = text.find('\n');
        out += "  " + std::string(text.substr(0, end)) + "\n";
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    }
    return out;
}

std::string roff(std::string_view text) {
    std::string out;
    bool line_start = true;
    for (char c : text) {
        if (line_start && (c == '.' || c == '\'')) out += "\\&";
        if (c == '\\')
            out += "\\e";
        else if (c == '-')
            out += "\\-";
        else
            out += c;
        line_start = c == '\n';
    }
    return out;
}

std::string shell_quoted(std::string_view text) {
    std::string out = "'";
    for (char c : text) {
        if (c == '\'')
            out += "'\\''";
        else
            out += c;
    }
    return out + "'";
}

// What an argument of the verb names, for completion: asked from the daemon when it answers.
std::string_view argument_kind(const Command& command) {
    std::string_view usage = command.usage;
    if (usage.find("CONTAINER") != std::string_view::npos) return "containers";
    if (usage.find("IMAGE") != std::string_view::npos || usage.find("REPOSITORY") != std::string_view::npos)
        return "images";
    if (usage.find("VOLUME") != std::string_view::npos) return "volumes";
    if (usage.find("NETWORK") != std::string_view::npos) return "networks";
    if (usage.find("SANDBOX") != std::string_view::npos) return "sandboxes";
    return "files";
}

}  // namespace

std::string short_help(const std::string& program) {
    std::string out = "wherry runs OCI images, fast.\n\nUsage:  " + program + " COMMAND\n\n";
    std::vector<const Command*> verbs;
    for (std::string_view name : common_verbs)
        if (const Command* command = find_command(name)) verbs.push_back(command);
    out += verb_lines(verbs, "");
    out += "\nTry:    " + program + " run --rm -it busybox sh\n        " + program +
           " help            every command\n        " + program +
           " run --help      every option of one, with an example\n";
    return out;
}

std::string program_help(const std::string& program) {
    std::string out = "Usage:  " + program +
                      " [OPTIONS] COMMAND\n\nRuns OCI images as containers; the verbs, flags and tables are "
                      "Docker's.\n\nCommon Commands:\n";
    std::vector<const Command*> common;
    for (std::string_view name : common_verbs)
        if (const Command* command = find_command(name)) common.push_back(command);
    out += verb_lines(common, "");
    out += "\nManagement Commands:\n";
    for (const Group& group : groups()) {
        std::string line = "  " + std::string(group.name);
        line.append(14 - line.size(), ' ');
        out += line + std::string(group.summary) + "\n";
    }
    out += "\nCommands:\n";
    std::vector<const Command*> others;
    for (const Command* command : verbs_of(""))
        if (std::ranges::find(common, command) == common.end()) others.push_back(command);
    out += verb_lines(others, "");
    out += "\nGlobal Options:\n" + option_help(global_options(), terminal_columns());
    out += "\nRun '" + program + " COMMAND --help' for more information on a command.\n";
    return out;
}

std::string group_help(const std::string& program, const Group& group) {
    std::string name(group.name);
    std::string out =
        "Usage:  " + program + " " + name + " COMMAND\n\n" + std::string(group.summary) + "\n\nCommands:\n";
    out += verb_lines(verbs_of(name + " "), name + " ");
    out += "\nRun '" + program + " " + name + " COMMAND --help' for more information on a command.\n";
    return out;
}

std::string command_help(const std::string& program, const std::string& path, const Command& command) {
    std::string out = "Usage:  " + program + " " + path;
    if (!command.usage.empty()) out += " " + std::string(command.usage);
    out += "\n\n" + std::string(command.summary) + "\n";
    if (!command.details.empty()) out += "\n" + std::string(command.details) + "\n";
    if (command.names.size() > 1) {
        out += "\nAliases:\n  ";
        for (std::size_t i = 0; i < command.names.size(); ++i)
            out += (i > 0 ? ", " : "") + program + " " + std::string(command.names[i]);
        out += "\n";
    }
    std::string options = option_help(command.options, terminal_columns());
    if (!options.empty()) out += "\nOptions:\n" + options;
    if (!command.example.empty()) out += "\nExample:\n" + indented(command.example);
    return out;
}

std::string manual(const std::string& program) {
    std::string out = ".TH WHERRY 1 \"\" \"wherry " WHERRY_VERSION "\" \"User Commands\"\n.SH NAME\n" + program +
                      " \\- run OCI images as containers\n.SH SYNOPSIS\n.B " + program +
                      "\n[OPTIONS] COMMAND [ARG...]\n.SH DESCRIPTION\nTalks to the daemon wherryd by Docker's API. The "
                      "verbs, flags, tables and exit codes are Docker's; "
                      "\\fBwhy\\fR and \\fBrun \\-\\-timings\\fR are its own.\n.SH GLOBAL OPTIONS\n";
    auto options = [&](std::span<const Option> table) {
        for (const Option& option : table) {
            if (option.hidden) continue;
            out += ".TP\n\\fB";
            if (option.letter != 0) out += std::string("\\-") + option.letter + "\\fR, \\fB";
            out += "\\-\\-" + roff(option.name) + "\\fR";
            if (!option.value.empty()) out += " \\fI" + roff(option.value) + "\\fR";
            out += "\n" + roff(option.help);
            if (!option.fallback.empty()) out += " (default " + roff(option.fallback) + ")";
            out += "\n";
        }
    };
    options(global_options());
    out += ".SH COMMANDS\n";
    for (const Command* command : commands()) {
        if (command->hidden) continue;
        out += ".SS " + program + " " + roff(command->names.front()) + " " + roff(command->usage) + "\n" +
               roff(command->summary) + ".\n";
        if (!command->details.empty()) out += ".PP\n" + roff(command->details) + "\n";
        if (command->names.size() > 1) {
            out += ".PP\nAlso: ";
            for (std::size_t i = 1; i < command->names.size(); ++i)
                out += (i > 1 ? ", " : "") + roff(command->names[i]);
            out += ".\n";
        }
        options(command->options);
        if (!command->example.empty()) out += ".PP\n.nf\n" + roff(command->example) + "\n.fi\n";
    }
    out +=
        ".SH EXIT STATUS\nOf \\fBrun\\fR, \\fBexec\\fR and \\fBstart \\-a\\fR: that of the container's process, 128 "
        "plus the signal's number when a signal ended it, "
        "127 when the command was not found, 126 when it could not be invoked, 125 when the daemon refused. Other "
        "verbs: 0, or 1 when anything failed. Wrong flags: 125.\n"
        ".SH ENVIRONMENT\n.TP\n\\fBWHERRY_HOST\\fR, \\fBDOCKER_HOST\\fR\nThe daemon's address; default "
        "unix:///run/wherry/wherry.sock.\n.TP\n\\fBDOCKER_TLS_VERIFY\\fR, "
        "\\fBDOCKER_CERT_PATH\\fR\nTLS as with \\-\\-tlsverify, and where ca.pem, cert.pem and key.pem "
        "are.\n.TP\n\\fBDOCKER_CONFIG\\fR\nFolder of config.json, of which "
        "detachKeys, psFormat, imagesFormat and statsFormat are read.\n.TP\n\\fBNO_COLOR\\fR\nNo colours.\n.SH SEE "
        "ALSO\n.BR wherryd (8)\n";
    return out;
}

std::string flag_table(const std::string& program) {
    std::string out = "| verb | flag | state |\n|---|---|---|\n";
    for (const Command* command : commands()) {
        if (command->hidden) continue;
        std::string verb = "`" + program + " " + std::string(command->names.front()) + "`";
        if (command->options.empty()) out += "| " + verb + " | (none) | done |\n";
        for (const Option& option : command->options) {
            std::string flag = "`--" + std::string(option.name) + "`";
            if (option.letter != 0) flag = std::string("`-") + option.letter + "`, " + flag;
            out += "| " + verb + " | " + flag + " | " +
                   (option.refusal.empty() ? "done" : "refused: " + std::string(option.refusal)) + " |\n";
        }
    }
    return out;
}

std::string completion(const std::string& program, const std::string& shell) {
    std::string words;
    for (const Command* command : verbs_of(""))
        words += std::string(command->names.front().find(' ') == std::string_view::npos ? command->names.front()
                                                                                        : command->names[1]) +
                 " ";
    for (const Group& group : groups()) words += std::string(group.name) + " ";
    auto flags = [](const Command& command) {
        std::string text;
        for (const Option& option : command.options)
            if (!option.hidden) text += "--" + std::string(option.name) + " ";
        return text + "--help";
    };
    if (shell == "bash") {
        std::string out = "# bash completion of " + program + "\n_" + program +
                          "() {\n  local current=\"${COMP_WORDS[COMP_CWORD]}\" verb=\"\" i word\n"
                          "  for ((i = 1; i < COMP_CWORD; i++)); do\n    word=\"${COMP_WORDS[i]}\"\n    case \"$word\" "
                          "in\n      -H|--host|--config|-c|--context|--tlscacert|--tlscert|--tlskey) ((i++)) ;;\n"
                          "      -*) ;;\n      container|image|network|system|volume) [ -z \"$verb\" ] && "
                          "verb=\"$word\" || break ;;\n"
                          "      *) if [ -z \"$verb\" ]; then verb=\"$word\"; break; else verb=\"$verb $word\"; break; "
                          "fi ;;\n    esac\n  done\n  local words=\"\" names=\"\"\n  case \"$verb\" in\n";
        out += "    '') words=" + shell_quoted(words) + " ;;\n";
        for (const Group& group : groups()) {
            std::string inside;
            std::string prefix = std::string(group.name) + " ";
            for (const Command* command : verbs_of(prefix))
                for (std::string_view path : command->names)
                    if (path.starts_with(prefix)) inside += std::string(path.substr(prefix.size())) + " ";
            out += "    " + std::string(group.name) + ") words=" + shell_quoted(inside) + " ;;\n";
        }
        for (const Command* command : commands()) {
            if (command->hidden) continue;
            out += "    ";
            for (std::size_t i = 0; i < command->names.size(); ++i)
                out += (i > 0 ? "|" : "") + shell_quoted(command->names[i]);
            out +=
                ") words=" + shell_quoted(flags(*command)) + " names=" + std::string(argument_kind(*command)) + " ;;\n";
        }
        out += "  esac\n  if [[ $current != -* ]]; then\n    case \"$names\" in\n      containers) words=\"$(" +
               program + " ps -a --format '{{.Names}}' 2>/dev/null)\" ;;\n      images) words=\"$(" + program +
               " images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null)\" ;;\n      volumes) words=\"$(" + program +
               " volume ls -q 2>/dev/null)\" ;;\n      networks) words=\"$(" + program +
               " network ls --format '{{.Name}}' 2>/dev/null)\" ;;\n      sandboxes) words=\"$(" + program +
               " sandbox ls --format '{{.Name}}' 2>/dev/null)\" ;;\n      files) COMPREPLY=($(compgen -f -- "
               "\"$current\")); return ;;\n    esac\n  fi\n  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
               "  declare -F __ltrim_colon_completions >/dev/null && __ltrim_colon_completions "
               "\"$current\"\n}\ncomplete -F _" +
               program + " " + program + "\n";
        return out;
    }
    if (shell == "zsh") {
        // zsh can run bash's completion functions; the tables stay in one place.
        return "#compdef " + program + "\n# zsh completion of " + program +
               "\nautoload -U +X bashcompinit && bashcompinit\nsource <(" + program + " completion bash)\n";
    }
    if (shell == "fish") {
        std::string out = "# fish completion of " + program + "\ncomplete -c " + program + " -f\n";
        for (const Command* command : verbs_of("")) {
            std::string_view name;
            for (std::string_view path : command->names)
                if (path.find(' ') == std::string_view::npos) {
                    name = path;
                    break;
                }
            out += "complete -c " + program + " -n __fish_use_subcommand -a " + std::string(name) + " -d " +
                   shell_quoted(command->summary) + "\n";
            std::string condition = " -n '__fish_seen_subcommand_from " + std::string(name) + "'";
            for (const Option& option : command->options) {
                if (option.hidden) continue;
                out += "complete -c " + program + condition + " -l " + std::string(option.name);
                if (option.letter != 0) out += std::string(" -s ") + option.letter;
                if (!option.value.empty()) out += " -r";
                out += " -d " + shell_quoted(option.help) + "\n";
            }
            std::string_view kind = argument_kind(*command);
            if (kind == "containers")
                out += "complete -c " + program + condition + " -a '(" + program +
                       " ps -a --format \"{{.Names}}\" 2>/dev/null)'\n";
            if (kind == "images")
                out += "complete -c " + program + condition + " -a '(" + program +
                       " images --format \"{{.Repository}}:{{.Tag}}\" 2>/dev/null)'\n";
        }
        return out;
    }
    return {};
}

}  // namespace wherry::cli
