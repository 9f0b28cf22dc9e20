#include "jailer/command_line.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

namespace wherry::jailer {
namespace {

using testing::HasSubstr;
using Words = std::vector<std::string_view>;

Words least(const Words& more = {}) {
    Words words{"--id", "vm-1", "--exec-file", "/opt/bin/wherry-vmm", "--uid", "1000", "--gid", "1001"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

std::string refused(const Words& words) {
    auto parsed = parse_command_line(words);
    if (parsed) return "accepted";
    EXPECT_EQ(parsed.error().code(), Code::invalid_argument);
    return parsed.error().describe();
}

TEST(JailerCommandLine, LeastAndDefaults) {
    auto options = parse_command_line(least());
    ASSERT_TRUE(options) << options.error().describe();
    EXPECT_EQ(options->id, "vm-1");
    EXPECT_EQ(options->uid, 1000U);
    EXPECT_EQ(options->gid, 1001U);
    EXPECT_EQ(options->exec_name(), "wherry-vmm");
    EXPECT_EQ(options->chroot_base, "/srv/jailer");
    EXPECT_EQ(options->effective_parent_cgroup(), "wherry-vmm");
    EXPECT_FALSE(options->daemonize);
    EXPECT_FALSE(options->new_pid_namespace);
    EXPECT_EQ(options->cgroup_version, CgroupVersion::by_controller);
    ASSERT_EQ(options->limits.size(), 1U);
    EXPECT_EQ(options->limits[0], (confine::ResourceLimit{RLIMIT_NOFILE, 2048, 2048}));
    EXPECT_TRUE(options->monitor_arguments.empty());
}

TEST(JailerCommandLine, Everything) {
    auto options = parse_command_line(least({"--chroot-base-dir=/jails",
                                             "--netns",
                                             "/run/netns/a",
                                             "--daemonize",
                                             "--new-pid-ns",
                                             "--cgroup",
                                             "cpu.shares=10",
                                             "--cgroup",
                                             "cpuset.cpus=0",
                                             "--cgroup-version",
                                             "2",
                                             "--parent-cgroup",
                                             "all/vms",
                                             "--resource-limit",
                                             "no-file=100",
                                             "--resource-limit",
                                             "fsize=4096",
                                             "--",
                                             "--api-sock",
                                             "/run/a.sock",
                                             "--",
                                             "--id"}));
    ASSERT_TRUE(options) << options.error().describe();
    EXPECT_EQ(options->chroot_base, "/jails");
    EXPECT_EQ(options->network_namespace, "/run/netns/a");
    EXPECT_TRUE(options->daemonize);
    EXPECT_TRUE(options->new_pid_namespace);
    EXPECT_EQ(options->cgroups,
              (std::vector<CgroupSetting>{{"cpu", "cpu.shares", "10"}, {"cpuset", "cpuset.cpus", "0"}}));
    EXPECT_EQ(options->cgroup_version, CgroupVersion::v2);
    EXPECT_EQ(options->effective_parent_cgroup(), "all/vms");
    EXPECT_EQ(options->limits,
              (std::vector<confine::ResourceLimit>{{RLIMIT_NOFILE, 100, 100}, {RLIMIT_FSIZE, 4096, 4096}}));
    EXPECT_EQ(options->monitor_arguments, (std::vector<std::string>{"--api-sock", "/run/a.sock", "--", "--id"}));
}

TEST(JailerCommandLine, WhatIsMissing) {
    EXPECT_THAT(refused({}), HasSubstr("--id is missing"));
    EXPECT_THAT(refused({"--id", "a", "--uid", "1", "--gid", "1"}), HasSubstr("--exec-file is missing"));
    EXPECT_THAT(refused({"--id", "a", "--exec-file", "/x", "--gid", "1"}), HasSubstr("--uid is missing"));
    EXPECT_THAT(refused({"--id", "a", "--exec-file", "/x", "--uid", "1"}), HasSubstr("--gid is missing"));
    EXPECT_THAT(refused({"--id"}), HasSubstr("--id needs a value"));
    EXPECT_THAT(refused(least({"--netns", "--"})), HasSubstr("--netns needs a value"));
    EXPECT_THAT(refused(least({"--netns="})), HasSubstr("--netns needs a value"));
}

TEST(JailerCommandLine, WhatIsWrong) {
    EXPECT_THAT(refused(least({"--nothing"})), HasSubstr("unknown argument \"--nothing\""));
    EXPECT_THAT(refused(least({"word"})), HasSubstr("unknown argument"));
    EXPECT_THAT(refused(least({"--id", "b"})), HasSubstr("--id was given twice"));
    EXPECT_THAT(refused(least({"--cgroup-version", "3"})), HasSubstr("neither 1 nor 2"));
    for (const char* number : {"-1", "4294967296", "1x", "0x10", " 1", "4294967295"})
        EXPECT_THAT(refused({"--id", "a", "--exec-file", "/x", "--gid", "1", "--uid", number}), HasSubstr("--uid"))
            << number;
    for (const char* file : {"/", "..", "/opt/..", "/opt/."})
        EXPECT_THAT(refused({"--id", "a", "--exec-file", file, "--gid", "1", "--uid", "1"}), HasSubstr("names no file"))
            << file;
}

TEST(JailerCommandLine, Ids) {
    EXPECT_TRUE(validate_id("a"));
    EXPECT_TRUE(validate_id(std::string(64, 'a')));
    EXPECT_TRUE(validate_id("Ab-09"));
    for (const std::string& id :
         {std::string(), std::string(65, 'a'), std::string("a/b"), std::string(".."), std::string("a_b"),
          std::string("a b"), std::string("\xc3\xa4"), std::string("a\0b", 3)})
        EXPECT_FALSE(validate_id(id)) << id;
}

TEST(JailerCommandLine, CgroupSettings) {
    EXPECT_EQ(*parse_cgroup_setting("memory.limit_in_bytes=1=2"),
              (CgroupSetting{"memory", "memory.limit_in_bytes", "1=2"}));
    EXPECT_EQ(parse_cgroup_setting("hugetlb.2MB.max=0")->controller, "hugetlb");
    for (const char* text : {"", "=", "cpu.shares", "cpu.shares=", "=1", "shares=1", ".shares=1", "cpu.=1",
                             "../cpu.shares=1", "cpu/a.shares=1", "cpu..shares=1", "cpu.sha res=1", "/cpu.shares=1"})
        EXPECT_FALSE(parse_cgroup_setting(text)) << text;
}

TEST(JailerCommandLine, ParentCgroups) {
    for (const char* path : {"a", "a/b", "a.slice", "..a"}) EXPECT_TRUE(validate_parent_cgroup(path)) << path;
    for (const char* path : {"", "/a", "a/../b", "..", ".", "a//b", "a/", "a/./b", "a\nb"})
        EXPECT_FALSE(validate_parent_cgroup(path)) << path;
}

TEST(JailerCommandLine, ResourceLimits) {
    EXPECT_EQ(*parse_resource_limit("fsize=0"), (confine::ResourceLimit{RLIMIT_FSIZE, 0, 0}));
    for (const char* text :
         {"", "fsize", "fsize=", "fsize=-1", "fsize=18446744073709551616", "nofile=1", "cpu=1", "=1"})
        EXPECT_FALSE(parse_resource_limit(text)) << text;
    auto twice = parse_command_line(least({"--resource-limit", "no-file=5", "--resource-limit", "no-file=6"}));
    ASSERT_TRUE(twice);
    EXPECT_EQ(twice->limits, (std::vector<confine::ResourceLimit>{{RLIMIT_NOFILE, 6, 6}}));
}

TEST(JailerCommandLine, HelpAndVersionNeedNothingElse) {
    EXPECT_EQ(parse_command_line(Words{"--help"})->action, Action::help);
    EXPECT_EQ(parse_command_line(Words{"--version"})->action, Action::version);
    for (std::string_view flag :
         {"--id", "--exec-file", "--uid", "--gid", "--chroot-base-dir", "--netns", "--daemonize", "--new-pid-ns",
          "--cgroup", "--cgroup-version", "--parent-cgroup", "--resource-limit", "--version"})
        EXPECT_THAT(std::string(usage()), HasSubstr(std::string(flag)));
}

}  // namespace
}  // namespace wherry::jailer
