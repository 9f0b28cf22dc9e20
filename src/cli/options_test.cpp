#include "cli/options.hpp"

#include <gtest/gtest.h>

#include <array>

#include "cli/command.hpp"
#include "cli/help.hpp"

namespace wherry::cli {
namespace {

constexpr Option table[] = {
    {"all", 'a', {}, "everything"},
    {"interactive", 'i', {}, "input"},
    {"tty", 't', {}, "terminal"},
    {"publish", 'p', "list", "ports"},
    {"time", 0, "int", "seconds", check_integer},
    {"gpus", 0, "string", "none", nullptr, {}, true, "there are none"},
};

Result<ParsedArguments> parse(std::vector<std::string> words, bool stop = false) {
    return parse_options(table, words, stop);
}
std::string problem(std::vector<std::string> words) {
    auto parsed = parse(std::move(words));
    return parsed ? "" : parsed.error().describe();
}

TEST(options, values_in_every_spelling) {
    auto parsed =
        parse({"-itp80:80", "--publish", "81", "--publish=82", "-p", "83", "-p=84", "-a", "x", "--time=-5", "y"});
    ASSERT_TRUE(parsed) << parsed.error().describe();
    EXPECT_EQ(parsed->options.list("publish"), (std::vector<std::string>{"80:80", "81", "82", "83", "84"}));
    EXPECT_TRUE(parsed->options.flag("interactive"));
    EXPECT_TRUE(parsed->options.flag("tty"));
    EXPECT_EQ(parsed->options.integer("time"), -5);
    EXPECT_EQ(parsed->arguments, (std::vector<std::string>{"x", "y"}));
}

TEST(options, booleans_can_be_taken_back) {
    auto parsed = parse({"-a", "--all=false"});
    ASSERT_TRUE(parsed);
    EXPECT_TRUE(parsed->options.given("all"));
    EXPECT_FALSE(parsed->options.flag("all", true));
    EXPECT_TRUE(parse({"-a=T"})->options.flag("all"));
}

TEST(options, what_follows_the_first_argument_is_the_commands) {
    auto parsed = parse({"-a", "image", "-i", "--unknown", "--"}, true);
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->arguments, (std::vector<std::string>{"image", "-i", "--unknown", "--"}));
    EXPECT_EQ(parse({"--", "-a"})->arguments, (std::vector<std::string>{"-a"}));
    EXPECT_EQ(parse({"-"})->arguments, (std::vector<std::string>{"-"}));
}

TEST(options, errors_have_dockers_words) {
    EXPECT_EQ(problem({"--fooo"}), "unknown flag: --fooo");
    EXPECT_EQ(problem({"--pulbish"}), "unknown flag: --pulbish (did you mean --publish?)");
    EXPECT_EQ(problem({"-Z"}), "unknown shorthand flag: 'Z' in -Z");
    EXPECT_EQ(problem({"-aZx"}), "unknown shorthand flag: 'Z' in -Zx");
    EXPECT_EQ(problem({"-p"}), "flag needs an argument: 'p' in -p");
    EXPECT_EQ(problem({"--publish"}), "flag needs an argument: --publish");
    EXPECT_EQ(problem({"--time", "x"}),
              "invalid argument \"x\" for \"--time\" flag: strconv.ParseInt: parsing \"x\": invalid syntax");
    EXPECT_EQ(problem({"--time", "99999999999999999999"}),
              "invalid argument \"99999999999999999999\" for \"--time\" flag: strconv.ParseInt: parsing "
              "\"99999999999999999999\": value out of range");
    EXPECT_EQ(problem({"-a=foo"}),
              "invalid argument \"foo\" for \"-a, --all\" flag: strconv.ParseBool: parsing \"foo\": invalid syntax");
    EXPECT_EQ(problem({"--=x"}), "bad flag syntax: --=x");
    EXPECT_EQ(problem({"--gpus", "all"}), "--gpus: there are none");
    EXPECT_TRUE(parse({"--help"})->help);
    EXPECT_TRUE(parse({"-h"})->help);
}

TEST(options, near_misses) {
    static constexpr std::array<std::string_view, 4> words = {"run", "rename", "restart", "ps"};
    EXPECT_EQ(closest("rnu", words), "run");
    EXPECT_EQ(closest("restrat", words), "restart");
    EXPECT_EQ(closest("xyzzy", words), "");
}

TEST(commands, every_verb_is_whole) {
    for (const Command* command : commands()) {
        std::string name(command->names.front());
        ASSERT_NE(command->run, nullptr) << name;
        EXPECT_FALSE(command->summary.empty()) << name;
        EXPECT_FALSE(command->example.empty()) << name;
        for (std::string_view path : command->names) EXPECT_EQ(find_command(path), command) << path;
        for (std::size_t i = 0; i < command->options.size(); ++i) {
            const Option& option = command->options[i];
            EXPECT_FALSE(option.help.empty()) << name << " --" << option.name;
            for (std::size_t j = i + 1; j < command->options.size(); ++j) {
                EXPECT_NE(option.name, command->options[j].name) << name;
                EXPECT_TRUE(option.letter == 0 || option.letter != command->options[j].letter)
                    << name << " -" << option.letter;
            }
        }
        EXPECT_NE(command_help("wherry", name, *command).find("Example:"), std::string::npos) << name;
    }
}

TEST(commands, dockers_verbs_are_there) {
    for (std::string_view verb :
         {"version",      "info",         "images",    "rmi",          "tag",           "load",      "save",
          "import",       "inspect",      "run",       "create",       "start",         "stop",      "kill",
          "restart",      "rm",           "ps",        "logs",         "exec",          "attach",    "wait",
          "top",          "rename",       "pause",     "unpause",      "port",          "history",   "events",
          "stats",        "cp",           "diff",      "export",       "push",          "login",     "logout",
          "search",       "image verify", "commit",    "update",       "pull",          "why",       "help",
          "container ls", "image rm",     "system df", "system prune", "volume create", "network ls"})
        EXPECT_NE(find_command(verb), nullptr) << verb;
}

TEST(commands, run_has_the_flags_people_use) {
    const Command* run = find_command("run");
    for (std::string_view flag : {"detach",
                                  "interactive",
                                  "tty",
                                  "rm",
                                  "env",
                                  "env-file",
                                  "workdir",
                                  "user",
                                  "volume",
                                  "publish",
                                  "publish-all",
                                  "name",
                                  "hostname",
                                  "network",
                                  "entrypoint",
                                  "read-only",
                                  "tmpfs",
                                  "memory",
                                  "cpus",
                                  "cpuset-cpus",
                                  "pids-limit",
                                  "ulimit",
                                  "cap-add",
                                  "cap-drop",
                                  "privileged",
                                  "security-opt",
                                  "device",
                                  "init",
                                  "restart",
                                  "label",
                                  "log-opt",
                                  "stop-signal",
                                  "stop-timeout",
                                  "timings",
                                  "mount",
                                  "sysctl",
                                  "shm-size",
                                  "add-host",
                                  "dns",
                                  "group-add",
                                  "ipc",
                                  "pid",
                                  "uts",
                                  "userns",
                                  "oom-score-adj",
                                  "oom-kill-disable",
                                  "cgroup-parent",
                                  "volumes-from",
                                  "expose",
                                  "domainname",
                                  "log-driver",
                                  "label-file",
                                  "cidfile",
                                  "gpus",
                                  "health-cmd",
                                  "no-healthcheck",
                                  "memory-swap",
                                  "memory-reservation",
                                  "cpu-shares",
                                  "cpu-period",
                                  "cpu-quota",
                                  "blkio-weight",
                                  "device-cgroup-rule",
                                  "detach-keys",
                                  "sig-proxy",
                                  "attach",
                                  "pull",
                                  "platform",
                                  "quiet",
                                  "ip",
                                  "mac-address",
                                  "network-alias",
                                  "isolation",
                                  "storage-opt"}) {
        bool found = false;
        for (const Option& option : run->options) found = found || option.name == flag;
        EXPECT_TRUE(found) << flag;
    }
}

TEST(help, scripts_and_pages_name_every_verb) {
    std::string bash = completion("wherry", "bash");
    std::string fish = completion("wherry", "fish");
    std::string page = manual("wherry");
    EXPECT_NE(bash.find("'container ls'"), std::string::npos);
    EXPECT_NE(fish.find("-a rename"), std::string::npos);
    EXPECT_NE(page.find(".SS wherry run"), std::string::npos);
    EXPECT_FALSE(completion("wherry", "zsh").empty());
    EXPECT_TRUE(completion("wherry", "tcsh").empty());
    EXPECT_NE(flag_table("wherry").find("| `wherry run` | `-d`, `--detach` | done |"), std::string::npos);
}

}  // namespace
}  // namespace wherry::cli
