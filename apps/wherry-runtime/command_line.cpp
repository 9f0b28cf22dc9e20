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

constexpr Kind flag = Kind::flag;
constexpr Kind value = Kind::value;

const std::vector<Command>& commands() {
    static const std::vector<Option> create_options{
        {"bundle", "b", value},     {"console-socket", "", value}, {"pid-file", "", value}, {"preserve-fds", "", value},
        {"no-pivot", "", flag},     {"no-new-keyring", "", flag},  {"timings", "", flag},   {"init", "", flag},
        {"pidfd-socket", "", value}};
    static const std::vector<Option> criu_options{{"image-path", "", value},          {"work-path", "", value},
                                                  {"tcp-established", "", flag},      {"ext-unix-sk", "", flag},
                                                  {"file-locks", "", flag},           {"shell-job", "", flag},
                                                  {"auto-dedup", "", flag},           {"lazy-pages", "", flag},
                                                  {"manage-cgroups-mode", "", value}, {"empty-ns", "", value}};
    auto with = [](std::vector<Option> options, std::initializer_list<Option> more) {
        options.insert(options.end(), more);
        return options;
    };
    static const std::vector<Command> list{
        {"create", create_options},
        {"run", with(create_options, {{"detach", "d", flag}, {"keep", "", flag}, {"no-subreaper", "", flag}})},
        {"start", {}},
        {"state", {}},
        {"kill", {{"all", "a", flag}}},
        {"delete", {{"force", "f", flag}}},
        {"list", {{"format", "f", value}, {"quiet", "q", flag}}},
        {"ps", {{"format", "f", value}}},
        {"pause", {}},
        {"resume", {}},
        {"events", {{"interval", "", value}, {"stats", "", flag}}},
        {"features", {}},
        {"update",
         {{"resources", "r", value},
          {"blkio-weight", "", value},
          {"cpu-period", "", value},
          {"cpu-quota", "", value},
          {"cpu-burst", "", value},
          {"cpu-share", "", value},
          {"cpu-rt-period", "", value},
          {"cpu-rt-runtime", "", value},
          {"cpu-idle", "", value},
          {"cpuset-cpus", "", value},
          {"cpuset-mems", "", value},
          {"kernel-memory", "", value},
          {"kernel-memory-tcp", "", value},
          {"memory", "", value},
          {"memory-reservation", "", value},
          {"memory-swap", "", value},
          {"pids-limit", "", value},
          {"l3-cache-schema", "", value},
          {"mem-bw-schema", "", value}}},
        {"exec",
         {{"console-socket", "", value},
          {"pid-file", "", value},
          {"process", "p", value},
          {"cwd", "", value},
          {"env", "e", value},
          {"user", "u", value},
          {"additional-gids", "g", value},
          {"tty", "t", flag},
          {"detach", "d", flag},
          {"cap", "c", value},
          {"preserve-fds", "", value},
          {"no-new-privs", "", flag},
          {"process-label", "", value},
          {"apparmor", "", value},
          {"cgroup", "", value},
          {"ignore-paused", "", flag},
          {"pidfd-socket", "", value},
          {"timings", "", flag}}},
        {"checkpoint", with(criu_options, {{"parent-path", "", value},
                                           {"leave-running", "", flag},
                                           {"pre-dump", "", flag},
                                           {"status-fd", "", value},
                                           {"page-server", "", value}})},
        {"restore", with(criu_options, {{"bundle", "b", value},
                                        {"detach", "d", flag},
                                        {"pid-file", "", value},
                                        {"no-subreaper", "", flag},
                                        {"no-pivot", "", flag},
                                        {"console-socket", "", value},
                                        {"lsm-profile", "", value},
                                        {"lsm-mount-context", "", value},
                                        {"preserve-fds", "", value}})},
        {"spec", {{"bundle", "b", value}, {"rootless", "", flag}}},
    };
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
        std::string given;
        bool has_value = false;
        if (auto equals = name.find('='); equals != std::string::npos) {
            given = name.substr(equals + 1);
            name.resize(equals);
            has_value = true;
        }
        const Option* option = find(known, name);
        if (option == nullptr) return fail(Code::invalid_argument, "unknown option " + word);
        if (option->kind == Kind::flag) {
            if (has_value && given != "true" && given != "false")
                return fail(Code::invalid_argument, "option " + word + ": expected true or false");
            if (!has_value || given == "true") result.flags.emplace(option->name);
            continue;
        }
        if (!has_value) {
            if (at == words.size()) return fail(Code::invalid_argument, "option " + word + " needs a value");
            given = words[at++];
        }
        result.values[std::string(option->name)].push_back(std::move(given));
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
    return "usage: wherry-runtime [--root DIR] [--log FILE] [--log-format text|json] [--debug] [--systemd-cgroup]\n"
           "                      [--rootless true|false|auto] COMMAND\n"
           "  create  [-b BUNDLE] [--console-socket SOCKET] [--pid-file FILE] [--pidfd-socket SOCKET]\n"
           "          [--preserve-fds N] [--no-pivot] [--no-new-keyring] [--init] [--timings] ID\n"
           "  start   ID\n"
           "  run     [-d] [--keep] [as create] ID\n"
           "  exec    [-t] [-d] [-u USER] [-g GROUP] [-e NAME=VALUE] [--cwd DIR] [-c CAP] [-p PROCESS.json] "
           "[--pid-file FILE]\n"
           "          [--pidfd-socket SOCKET] [--console-socket SOCKET] [--preserve-fds N] [--no-new-privs] "
           "[--apparmor PROFILE]\n"
           "          [--process-label LABEL] [--cgroup PATH] [--ignore-paused] [--timings] ID COMMAND [ARG...]\n"
           "  state   ID\n"
           "  list    [-f table|json] [-q]\n"
           "  ps      [-f table|json] ID\n"
           "  kill    [-a] ID [SIGNAL]\n"
           "  pause   ID\n"
           "  resume  ID\n"
           "  update  [-r FILE|-] [--memory BYTES] [--cpu-quota US] [--pids-limit N] ... ID\n"
           "  events  [--interval 5s] [--stats] ID\n"
           "  delete  [-f] ID\n"
           "  checkpoint [--image-path DIR] [--work-path DIR] [--parent-path DIR] [--leave-running] [--pre-dump] ... "
           "ID\n"
           "  restore [-b BUNDLE] [-d] [--image-path DIR] [--pid-file FILE] ... ID\n"
           "  spec    [-b BUNDLE] [--rootless]\n"
           "  features\n";
}

}  // namespace wherry::runtime
