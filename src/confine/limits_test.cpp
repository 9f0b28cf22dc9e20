// rlimits, process attributes, namespaces, resources as documents.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "confine/capabilities.hpp"
#include "confine/cgroup_resources.hpp"
#include "confine/namespaces.hpp"
#include "confine/process_attributes.hpp"
#include "confine/rlimits.hpp"
#include "confine/seccomp_log.hpp"

namespace wherry::confine {
namespace {

TEST(ResourceLimits, Parse) {
    EXPECT_EQ(parse_ulimit("nofile=1024:2048").value(), (ResourceLimit{RLIMIT_NOFILE, 1024, 2048}));
    EXPECT_EQ(parse_ulimit("nproc=7").value(), (ResourceLimit{RLIMIT_NPROC, 7, 7}));
    EXPECT_EQ(parse_ulimit("memlock=-1:-1").value(), (ResourceLimit{RLIMIT_MEMLOCK, unlimited, unlimited}));
    EXPECT_EQ(parse_ulimit("core=0:-1").value(), (ResourceLimit{RLIMIT_CORE, 0, unlimited}));
    for (const char* bad : {"", "nofile", "nofile=", "nofile=a", "nofile=1:2:3", "nofile=2:1", "files=1", "nofile=-2",
                            "nofile=-1:5", "nofile=99999999999999999999", "nofile= 1"})
        EXPECT_EQ(parse_ulimit(bad).error().code(), Code::invalid_argument) << bad;
    EXPECT_EQ(resource_number("RLIMIT_NOFILE"), RLIMIT_NOFILE);
    EXPECT_EQ(resource_name(RLIMIT_RTTIME), "RLIMIT_RTTIME");
    EXPECT_EQ(ulimit_name(99), "");
}

TEST(ResourceLimits, WhatCannotBeRaisedIsSaid) {
    ResourceLimit now = get_resource_limit(RLIMIT_NOFILE).value();
    ResourceLimit more{RLIMIT_NOFILE, now.hard + 1, now.hard + 1};
    auto checked = check_resource_limits({&more, 1});
    if (capabilities_of_this_thread()->effective.contains(CAP_SYS_RESOURCE)) {
        EXPECT_TRUE(checked);
        return;
    }
    ASSERT_FALSE(checked);
    EXPECT_EQ(checked.error().code(), Code::permission_denied);
    EXPECT_NE(checked.error().describe().find("RLIMIT_NOFILE: a hard limit of"), std::string::npos)
        << checked.error().describe();
    EXPECT_EQ(clamp_resource_limit(more).value().hard, now.hard);
    unsigned failed = 9;
    EXPECT_EQ(post_fork::set_resource_limits({&more, 1}, &failed), EPERM);
    EXPECT_EQ(failed, 0U);
}

TEST(ProcessAttributes, OomScore) {
    EXPECT_EQ(check_oom_score_adj(1001).error().code(), Code::invalid_argument);
    int now = get_oom_score_adj().value();
    EXPECT_TRUE(check_oom_score_adj(now));
    if (!capabilities_of_this_thread()->effective.contains(CAP_SYS_RESOURCE) && now > -1000) {
        EXPECT_EQ(check_oom_score_adj(now - 1).error().code(), Code::permission_denied);
        EXPECT_EQ(set_oom_score_adj(0, -1000).error().code(), Code::permission_denied);
    }
    pid_t child = ::fork();
    if (child == 0) ::_exit(post_fork::set_oom_score_adj(567) == 0 && get_oom_score_adj().value() == 567 ? 0 : 1);
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
}

TEST(ProcessAttributes, Personality) {
    EXPECT_EQ(parse_personality("LINUX").value(), 0U);
    EXPECT_EQ(parse_personality("LINUX32").value(), 8U);
    EXPECT_FALSE(parse_personality("HURD"));
}

TEST(Namespaces, Names) {
    for (Namespace kind : all_namespaces) EXPECT_EQ(parse_namespace(to_string(kind)), kind);
    EXPECT_EQ(proc_name(Namespace::mount), "mnt");
    EXPECT_EQ(clone_flag(Namespace::network), static_cast<std::uint64_t>(CLONE_NEWNET));
    EXPECT_EQ(parse_namespace("net"), std::nullopt);
}

TEST(Namespaces, OnlyTheRealThingIsTaken) {
    auto network = open_namespace("/proc/self/ns/net", Namespace::network);
    ASSERT_TRUE(network) << network.error().describe();
    EXPECT_EQ(open_namespace("/proc/self/ns/net", Namespace::pid).error().code(), Code::invalid_argument);
    EXPECT_EQ(open_namespace("/etc/hostname", Namespace::network).error().code(), Code::invalid_argument);
    EXPECT_EQ(open_namespace("/dev/null", Namespace::network).error().code(), Code::invalid_argument);
    EXPECT_EQ(open_namespace("/nowhere", Namespace::network).error().code(), Code::not_found);
    EXPECT_TRUE(same_namespace(network->get(), open_namespace_of(::getpid(), Namespace::network)->get()).value());
}

TEST(Namespaces, IdMappings) {
    std::vector<IdMapping> good{{0, 100'000, 65'536}, {65'536, 1000, 1}};
    EXPECT_TRUE(validate_id_mappings(good));
    EXPECT_EQ(map_to_host(good, 5), 100'005U);
    EXPECT_EQ(map_to_host(good, 65'536), 1000U);
    EXPECT_EQ(map_to_host(good, 70'000), std::nullopt);
    EXPECT_FALSE(validate_id_mappings(std::vector<IdMapping>{{0, 0, 0}}));
    EXPECT_FALSE(validate_id_mappings(std::vector<IdMapping>{{0, 0xffffffff, 1}}));
    EXPECT_FALSE(validate_id_mappings(std::vector<IdMapping>{{0, 0, 10}, {9, 20, 5}}));
    EXPECT_FALSE(validate_id_mappings(std::vector<IdMapping>{{0, 0, 10}, {10, 9, 5}}));
    EXPECT_FALSE(validate_id_mappings(std::vector<IdMapping>(341, IdMapping{0, 0, 1})));
}

TEST(Namespaces, WritesIdMaps) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    int fds[2];
    ASSERT_EQ(::pipe(fds), 0);
    pid_t child = ::fork();
    if (child == 0) {
        if (post_fork::unshare_namespaces(CLONE_NEWUSER) != 0) ::_exit(1);
        (void)!::write(fds[1], "x", 1);
        while (true) ::pause();
    }
    char byte = 0;
    ASSERT_EQ(::read(fds[0], &byte, 1), 1);
    std::vector<IdMapping> maps{{0, 100'000, 10}};
    auto written = write_id_maps(child, maps, maps);
    EXPECT_TRUE(written) << written.error().describe();
    EXPECT_NE(read_file("/proc/" + std::to_string(child) + "/uid_map")->find("100000"), std::string::npos);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ::close(fds[0]);
    ::close(fds[1]);
}

TEST(CgroupResources, DocumentsAndBack) {
    constexpr std::string_view text = R"({
      "memory": {"limit": 1048576, "reservation": 1, "swap": -1, "swappiness": 60, "disableOOMKiller": true},
      "cpu": {"shares": 1024, "quota": -1, "period": 100000, "burst": 5, "cpus": "0-1,3", "mems": "0", "idle": 1},
      "pids": {"limit": 5},
      "blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 20}],
                  "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}]},
      "hugepageLimits": [{"pageSize": "2MB", "limit": 9223372036854771712}],
      "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}],
      "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 5}, {"name": "lo", "priority": 0}]},
      "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "a": {"hcaObjects": 0}, "none": {}},
      "unified": {"memory.high": "1"}
    })";
    auto document = parse_json_object(text).value();
    auto resources = parse_cgroup_resources(JsonReader(document, "linux.resources"));
    ASSERT_TRUE(resources) << resources.error().describe();
    EXPECT_EQ(resources->devices[1].access(), "rw");
    EXPECT_EQ(resources->cpu.quota_us, -1);
    EXPECT_EQ(resources->network.priorities[0].second, 5U);
    ASSERT_EQ(resources->rdma.size(), 2U);
    EXPECT_EQ(resources->rdma[0].device, "a");
    EXPECT_EQ(resources->rdma[1].hca_handles, 3U);
    auto again = to_oci_json(*resources);
    EXPECT_EQ(parse_cgroup_resources(JsonReader(again)).value(), *resources);
    for (const char* bad : {R"({"memory": 1})", R"({"memory": {"limit": "1"}})", R"({"memory": {"swappiness": 101}})",
                            R"({"cpu": {"cpus": "a"}})", R"({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]})",
                            R"({"network": {"classID": -1}})", R"({"network": {"classID": 4294967296}})",
                            R"({"network": {"priorities": [{"name": "a b", "priority": 1}]}})",
                            R"({"network": {"priorities": [{"name": "eth0"}]}})", R"({"rdma": {"a": 1}})",
                            R"({"rdma": {"a\nb": {"hcaHandles": 1}}})", R"({"rdma": {"": {"hcaHandles": 1}}})",
                            R"({"devices": [{"access": "rwm"}]})", R"({"devices": [{"allow": true, "access": "x"}]})",
                            R"({"devices": [{"allow": true, "major": -2}]})"}) {
        auto wrong = parse_json_object(bad).value();
        EXPECT_FALSE(parse_cgroup_resources(JsonReader(wrong))) << bad;
    }
}

TEST(CgroupResources, DeviceRulesOfTheCommandLine) {
    EXPECT_EQ(parse_device_cgroup_rule("c 42:* rmw").value(), (DeviceRule{.allow = true, .type = 'c', .major = 42}));
    EXPECT_EQ(parse_device_cgroup_rule("a *:* r").value().access(), "r");
    for (const char* bad : {"", "c", "d 1:1 r", "c 1 r", "c 1:1", "c 1:1 x", "c 1:1 rwmr", "c -1:1 r", "c 1:1  r"})
        EXPECT_FALSE(parse_device_cgroup_rule(bad)) << bad;
}

TEST(CgroupResources, Conversions) {
    EXPECT_EQ(cpu_shares_to_weight(2), 1U);
    EXPECT_EQ(cpu_shares_to_weight(1024), 100U);
    EXPECT_EQ(cpu_shares_to_weight(262'144), 10'000U);
    EXPECT_EQ(cpu_shares_to_weight(999'999), 10'000U);
    EXPECT_EQ(block_io_weight_to_io_weight(10), 1U);
    EXPECT_EQ(block_io_weight_to_io_weight(1000), 10'000U);
    EXPECT_EQ(memory_swap_to_v2(300, 100).value(), 200);
    EXPECT_EQ(memory_swap_to_v2(-1, 100).value(), -1);
    EXPECT_FALSE(memory_swap_to_v2(50, 100));
    EXPECT_FALSE(memory_swap_to_v2(50, std::nullopt));
    for (const char* good : {"", "0", "0-3", "0,2-3,7"}) EXPECT_TRUE(validate_cpu_list(good)) << good;
    for (const char* bad : {"-", "1-", "3-1", "1,", ",1", "a", "0 1", "99999999999"})
        EXPECT_FALSE(validate_cpu_list(bad)) << bad;
}

TEST(SeccompRecords, Parse) {
    auto denial = parse_seccomp_record(
        "audit(1700000000.123:45): auid=4294967295 uid=1000 gid=1000 ses=4294967295 pid=4242 comm=\"sleep\" "
        "exe=\"/bin/busybox\" sig=0 "
        "arch=c000003e syscall=250 compat=0 ip=0x7f00 code=0x50001");
    ASSERT_TRUE(denial);
    EXPECT_EQ(denial->pid, 4242);
    EXPECT_EQ(denial->uid, 1000U);
    EXPECT_EQ(denial->command, "sleep");
    EXPECT_EQ(denial->arch, 0xc000003eU);
    EXPECT_EQ(denial->syscall, 250);
    EXPECT_EQ(denial->action, 0x50001U);
    // A name made to deceive comes in hexadecimal; what is not printable does not get through.
    EXPECT_EQ(parse_seccomp_record("pid=1 comm=61207069643D39 arch=c000003e syscall=1")->command, "a pid=9");
    EXPECT_EQ(parse_seccomp_record("pid=1 comm=1B5B326A arch=c000003e syscall=1")->command, "?[2j");
    for (const char* bad : {"", "pid=1", "pid=x arch=c000003e syscall=1", "pid=1 arch=zz syscall=1",
                            "pid=1 arch=c000003e syscall=", "=", "===="})
        EXPECT_FALSE(parse_seccomp_record(bad)) << bad;
}

}  // namespace
}  // namespace wherry::confine
