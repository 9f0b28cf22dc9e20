#include "engine/health.hpp"

#include <gtest/gtest.h>

#include "engine/process_table.hpp"
#include "engine/sandbox.hpp"
#include "engine/times.hpp"

namespace wherry::engine {
namespace {

using std::chrono::seconds;

Config with(Healthcheck check) {
    Config config;
    config.healthcheck = std::move(check);
    return config;
}

HealthLogEntry result(int code, WallTime start) {
    return {.start = start, .end = start, .exit_code = code, .output = {}};
}

TEST(HealthPlan, KindsOfTests) {
    EXPECT_FALSE(health_plan(Config{}));
    EXPECT_FALSE(health_plan(with({})));
    EXPECT_FALSE(health_plan(with({.test = {"NONE"}})));
    EXPECT_FALSE(health_plan(with({.test = {"CMD"}})));
    EXPECT_FALSE(health_plan(with({.test = {"SOMETHING", "x"}})));
    const auto exec = health_plan(with({.test = {"CMD", "a", "b"}, .retries = 7}));
    ASSERT_TRUE(exec);
    EXPECT_EQ(exec->command, (Strings{"a", "b"}));
    EXPECT_EQ(exec->retries, 7);
    EXPECT_EQ(exec->interval, seconds(30));
    Config own_shell = with({.test = {"CMD-SHELL", "x y"}});
    EXPECT_EQ(health_plan(own_shell)->command, (Strings{"/bin/sh", "-c", "x y"}));
    own_shell.shell = Strings{"/bin/bash", "-ec"};
    EXPECT_EQ(health_plan(own_shell)->command, (Strings{"/bin/bash", "-ec", "x y"}));
}

TEST(Health, DockersRules) {
    const HealthPlan plan{.command = {"x"}, .start_period = seconds(10), .retries = 2};
    const WallTime start(seconds(1000));
    HealthView health{.status = "starting", .failing_streak = 0, .log = {}};
    EXPECT_EQ(health_delay(plan, health, start, start + seconds(1)), plan.start_interval);
    EXPECT_EQ(health_delay(plan, health, start, start + seconds(11)), plan.interval);
    EXPECT_FALSE(take_health_result(plan, health, result(1, start + seconds(1)), start));
    EXPECT_EQ(health.failing_streak, 0) << "in the start period a failure does not count";
    EXPECT_TRUE(take_health_result(plan, health, result(0, start + seconds(2)), start));
    EXPECT_EQ(health.status, "healthy");
    EXPECT_EQ(health_delay(plan, health, start, start + seconds(3)), plan.interval);
    EXPECT_FALSE(take_health_result(plan, health, result(1, start + seconds(3)), start));
    EXPECT_EQ(health.failing_streak, 1) << "after a success it does";
    EXPECT_TRUE(take_health_result(plan, health, result(-1, start + seconds(4)), start));
    EXPECT_EQ(health.status, "unhealthy");
    for (int i = 0; i < 9; ++i) EXPECT_FALSE(take_health_result(plan, health, result(3, start + seconds(20)), start));
    EXPECT_EQ(health.log.size(), 5U);
    EXPECT_TRUE(take_health_result(plan, health, result(0, start + seconds(30)), start));
    EXPECT_EQ(health.failing_streak, 0);
}

TEST(Health, OutputIsValidText) {
    EXPECT_EQ(valid_utf8("caf\xc3\xa9"), "caf\xc3\xa9");
    EXPECT_EQ(valid_utf8("\xff"
                         "a\xc3"),
              "\xef\xbf\xbd"
              "a\xef\xbf\xbd");
    EXPECT_EQ(valid_utf8(""), "");
}

TEST(Health, Durations) {
    EXPECT_EQ(duration_text(250), "250ms");
    EXPECT_EQ(duration_text(5000), "5s");
    EXPECT_EQ(duration_text(90'500), "1m30.5s");
    EXPECT_EQ(duration_text(3'600'000), "1h0m0s");
}

TEST(Times, Durations) {
    EXPECT_EQ(*parse_duration("1h30m"), seconds(5400));
    EXPECT_EQ(*parse_duration("500ms"), std::chrono::milliseconds(500));
    EXPECT_EQ(*parse_duration("0"), Nanoseconds{0});
    for (const char* bad : {"", "5", "m", "-1s", "1d", "1h1", "99999999999999999h", "9999999999h", "800000h800000h"})
        EXPECT_FALSE(parse_duration(bad)) << bad;
}

TEST(Times, Until) {
    EXPECT_EQ(*parse_until("1000000000"), WallTime(seconds(1'000'000'000)));
    EXPECT_EQ(*parse_until("2001-09-09T01:46:40Z"), WallTime(seconds(1'000'000'000)));
    EXPECT_EQ(*parse_until("2001-09-09T01:46:40"), WallTime(seconds(1'000'000'000)));
    EXPECT_EQ(*parse_until("2001-09-09"), WallTime(seconds(999'993'600)));
    EXPECT_LT(*parse_until("10m"), wall_now() - seconds(590));
    for (const char* bad : {"", "yesterday", "-5", "99999999999999999999", "9999999999999"})
        EXPECT_FALSE(parse_until(bad)) << bad;
}

TEST(InterfaceStats, KernelsTable) {
    const auto interfaces = parse_interface_stats(
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls "
        "carrier compressed\n"
        "    lo:       5       6    0    0    0     0          0         0        5       6    0    0    0     0       "
        "0          0\n"
        "  eth0:    1026      13    1    2    0     0          0         0      866      11    3    4    0     0       "
        "0          0\n"
        "broken: 1 2 3\n");
    ASSERT_EQ(interfaces.size(), 1U);
    const InterfaceStats& eth0 = interfaces.at("eth0");
    EXPECT_EQ(eth0.received_bytes, 1026U);
    EXPECT_EQ(eth0.received_packets, 13U);
    EXPECT_EQ(eth0.received_dropped, 2U);
    EXPECT_EQ(eth0.sent_bytes, 866U);
    EXPECT_EQ(eth0.sent_errors, 3U);
}

TEST(Sandbox, RecordKeepsEverything) {
    Sandbox sandbox;
    sandbox.id = "abc";
    sandbox.name = "shop";
    sandbox.created = WallTime(seconds(5));
    sandbox.spec.hostname = "h";
    sandbox.spec.network_mode = "none";
    sandbox.spec.port_bindings["80/tcp"] = {{.host_ip = "127.0.0.1", .host_port = "8080"}};
    sandbox.spec.labels = {{"a", "b"}};
    sandbox.spec.share_pid = true;
    sandbox.up = true;
    sandbox.started_at = WallTime(seconds(6));
    sandbox.ports = {{.container = *net::ContainerPort::parse("80/tcp"), .host_address = {}, .host_port = 8080}};
    const auto back = sandbox_from_record(to_record(sandbox));
    ASSERT_TRUE(back);
    EXPECT_EQ(to_record(**back), to_record(sandbox));
    EXPECT_EQ((*back)->ports, sandbox.ports);
    EXPECT_TRUE((*back)->spec.share_pid);
}

}  // namespace
}  // namespace wherry::engine
