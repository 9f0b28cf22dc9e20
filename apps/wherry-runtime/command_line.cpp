#include "command_line.hpp"

#include <array>
#include <string_view>

namespace wherry::runtime {

namespace {

enum class Kind : unsigned char { flag, value };

struct Option {
    std::string_view name;
    std::string_view short_name;
    Kind kind;
};

struct Command {
    std::string_view name;
    std::vector<Option> options;
};

const std::vector<Option>& global_options() {
    static const std::vector<Option> options{{"root", "", Kind::value},          {"log", "", Kind::value},
                                             {"log-format", "", Kind::value},    {"debug", "", Kind::flag},
                                             {"systemd-cgroup", "", Kind::flag}, {"rootless", "", Kind::value},
                                             {"help", "h", Kind::flag},          {"version", "v", Kind::flag}};
    return options;
}

const std::vector<Command>& commands() {
    static const std::vector<Option> create_options{{"bundle", "b", Kind::value},  {"console-socket", "", Kind::value},
                                                    {"pid-file", "", Kind::value}, {"preserve-fds", "", Kind::value},
                                                    {"no-pivot", "", Kind::flag},  {"no-new-keyring", "", Kind::flag},
                                                    {"timings", "", Kind::flag},   {"init", "", Kind::flag}};
    static const std::vector<Command> list = [] {
        std::vector<Option> run_options = create_options;
        run_options.push_back({"detach", "d", Kind::flag});
        run_options.push_back({"keep", "", Kind::flag});
        return std::vector<Command>{
            {"create", create_options},
            {"run", run_options},
            {"start", {}},
            {"state", {}},
            {"kill", {{"all", "a", Kind::flag}}},
            {"delete", {{"force", "f", Kind::flag}}},
            {"exec",
             {{"console-socket", "", Kind::value},
              {"pid-file", "", Kind::value},
              {"process", "p", Kind::value},
              {"cwd", "", Kind::value},
              {"env", "e", Kind::value},
              {"user", "u", Kind::value},
              {"additional-gids", "g", Kind::value},
              {"tty", "t", Kind::flag},
              {"detach", "d", Kind::flag},
              {"cap", "c", Kind::value},
              {"preserve-fds", "", Kind::value},
              {"no-new-privs", "", Kind::flag},
              {"timings", "", Kind::flag}}},
            {"spec", {{"bundle", "b", Kind::value}}},
        };
    }();
    return list;
}

const Option* find(const std::vector<Option>& options, std::string_view word) {
    for (const Option& option : options) {
        if (word == option.name || (!option.short_name.empty() && word == option.short_name)) return &option;
    }
    return nullptr;
}

// Reads options from `at` on until the first word that is none (or "--").
Result<> parse_options(const std::vector<Option>& known, const std::vector<std::string>& words, std::size_t& at,
                       Options& result) {
    while (at < words.size() && words[at].size() > 1 && words[at].front() == '-') {
        const std::string& word = words[at++];
        if (word == "--") return {};
        std::string name = word.substr(word.starts_with("--") ? 2 : 1);
        std::string value;
        bool has_value = false;
        if (auto equals = name.find('='); equals != std::string::npos) {
            value = name.substr(equals + 1);
            name.resize(equals);
            has_value = true;
        }
        const Option* option = find(known, name);
        if (option == nullptr) return fail(Code::invalid_argument, "unknown option " + word);
        if (option->kind == Kind::flag) {
            if (has_value && value != "true" && value != "false")
                return fail(Code::invalid_argument, "option " + word + ": expected true or false");
            if (!has_value || value == "true") result.flags.emplace(option->name);
            continue;
        }
        if (!has_value) {
            if (at == words.size()) return fail(Code::invalid_argument, "option " + word + " needs a value");
            value = words[at++];
        }
        result.values[std::string(option->name)].push_back(std::move(value));
    }
    return {};
}

}  // namespace

std::string Options::value(const std::string& name, const std::string& fallback) const {
    auto found = values.find(name);
    return found == values.end() ? fallback : found->second.back();
}

std::vector<std::string> Options::all(const std::string& name) const {
    auto found = values.find(name);
    return found == values.end() ? std::vector<std::string>() : found->second;
}

Result<CommandLine> parse_command_line(const std::vector<std::string>& words) {
    CommandLine line;
    std::size_t at = 0;
    TRY(parse_options(global_options(), words, at, line.global));
    if (at == words.size()) return line;
    line.command = words[at++];
    for (const Command& command : commands()) {
        if (command.name != line.command) continue;
        // Options may stand before and (as with runc, except for exec's command) after the arguments.
        while (at < words.size()) {
            std::size_t before = at;
            TRY(parse_options(command.options, words, at, line.local));
            if (line.command == "exec" && !line.local.arguments.empty()) at = before;
            if (at < words.size()) line.local.arguments.push_back(words[at++]);
            if (line.command == "exec" || words[at - 1] == "--") {
                if (at < words.size() && line.command == "exec" && words[at] == "--") ++at;
                line.local.arguments.insert(line.local.arguments.end(), words.begin() + static_cast<std::ptrdiff_t>(at),
                                            words.end());
                break;
            }
        }
        return line;
    }
    return fail(Code::invalid_argument, "unknown command " + line.command);
}

std::string usage() {
    return "usage: wherry-runtime [--root DIR] [--log FILE] [--log-format text|json] [--debug] COMMAND\n"
           "  create [-b BUNDLE] [--console-socket SOCKET] [--pid-file FILE] [--preserve-fds N] ID\n"
           "  start ID\n"
           "  run    [-b BUNDLE] [-d] [--keep] [--init] [--timings] [--console-socket SOCKET] [--pid-file FILE] ID\n"
           "  exec   [-t] [-d] [-u USER] [-e NAME=VALUE] [--cwd DIR] [-c CAP] [-p PROCESS.json] ID COMMAND [ARG...]\n"
           "  state ID\n"
           "  kill   [-a] ID [SIGNAL]\n"
           "  delete [-f] ID\n"
           "  spec   [-b BUNDLE]\n";
}

}  // namespace wherry::runtime
