#include "dns/steering/command_checks.hpp"

#include <gtest/gtest.h>

#include <future>

namespace wherry::dns::steering {
namespace {

using std::chrono::milliseconds;

std::string problem(const Result<>& result) {
    return result ? "" : result.error().describe();
}

TEST(CommandChecks, RunsWhatIsConfiguredAndNothingElse) {
    const std::vector<Command> allowed{{"/bin/true"},
                                       {"/bin/sh", "-c", "exit 3"},
                                       {"/bin/sh", "-c", "kill -9 $$"},
                                       {"/bin/sleep", "1000"},
                                       {"/no/such/program"}};
    // The second reading has a command more, the third fails.
    int readings = 0;
    auto checks = CommandChecks::start([]() -> Result<> { return {}; },
                                       [allowed, readings]() mutable -> Result<std::vector<Command>> {
                                           auto commands = allowed;
                                           if (++readings == 2) commands.push_back({"/bin/echo", "more"});
                                           if (readings == 3) return fail(Code::invalid_argument, "unreadable");
                                           return commands;
                                       });
    ASSERT_TRUE(checks) << checks.error().describe();
    const CommandChecks& process = **checks;
    EXPECT_EQ(problem(process.run({"/bin/true"}, milliseconds(20'000))), "");
    EXPECT_EQ(problem(process.run({"/bin/sh", "-c", "exit 3"}, milliseconds(20'000))), "exit code 3");
    EXPECT_EQ(problem(process.run({"/bin/sh", "-c", "kill -9 $$"}, milliseconds(20'000))), "ended by signal 9");
    EXPECT_NE(problem(process.run({"/no/such/program"}, milliseconds(20'000))).find("No such file"), std::string::npos);
    for (const Command& other : {Command{"/bin/false"}, Command{"/bin/true", "x"}, Command{"/bin/sh", "-c", "exit 3 "}})
        EXPECT_EQ(problem(process.run(other, milliseconds(20'000))), "the command is not in the configuration");
    // One that takes too long holds nobody up.
    auto slow =
        std::async(std::launch::async, [&] { return problem(process.run({"/bin/sleep", "1000"}, milliseconds(300))); });
    EXPECT_EQ(problem(process.run({"/bin/true"}, milliseconds(20'000))), "");
    EXPECT_EQ(slow.get(), "not done within 300 ms");
    EXPECT_EQ(problem(process.run({"/bin/echo", "more"}, milliseconds(20'000))),
              "the command is not in the configuration");
    EXPECT_EQ(problem(process.reload()), "");
    EXPECT_EQ(problem(process.run({"/bin/echo", "more"}, milliseconds(20'000))), "");
    EXPECT_EQ(problem(process.reload()), "unreadable");
    EXPECT_EQ(problem(process.run({"/bin/echo", "more"}, milliseconds(20'000))), "");
}

}  // namespace
}  // namespace wherry::dns::steering
