#include "jailer/cgroups.hpp"

#include <gtest/gtest.h>

#include "jailer/chroot.hpp"

namespace wherry::jailer {
namespace {

using confine::CgroupSystem;

constexpr const char* hybrid_mounts =
    "30 20 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    "31 20 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 20 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
constexpr const char* hybrid_own = "5:memory:/\n4:cpu,cpuacct:/\n0::/\n";

Options with(std::vector<CgroupSetting> settings, CgroupVersion version = CgroupVersion::by_controller) {
    Options options;
    options.id = "one";
    options.exec_file = "/opt/monitor";
    options.cgroups = std::move(settings);
    options.cgroup_version = version;
    return options;
}

TEST(JailerCgroups, OneDirectoryForSettingsOfOneHierarchy) {
    auto system = CgroupSystem::parse(hybrid_mounts, hybrid_own, "pids").value();
    auto plans = plan_cgroups(
        with({{"cpu", "cpu.shares", "5"}, {"memory", "memory.limit_in_bytes", "1"}, {"cpuacct", "cpuacct.usage", "0"}}),
        system);
    ASSERT_TRUE(plans) << plans.error().describe();
    ASSERT_EQ(plans->size(), 2U);
    EXPECT_EQ((*plans)[0].mount_point + (*plans)[0].path, "/sys/fs/cgroup/cpu,cpuacct/monitor/one");
    EXPECT_EQ((*plans)[0].settings.size(), 2U);
    EXPECT_FALSE((*plans)[0].unified);
    EXPECT_EQ((*plans)[1].mount_point, "/sys/fs/cgroup/memory");
}

TEST(JailerCgroups, TheVersionAskedForDecides) {
    auto system = CgroupSystem::parse(hybrid_mounts, hybrid_own, "pids").value();
    std::vector<CgroupSetting> pids{{"pids", "pids.max", "5"}};
    EXPECT_TRUE(plan_cgroups(with(pids), system)->front().unified);
    EXPECT_EQ(plan_cgroups(with(pids, CgroupVersion::v1), system).error().code(), Code::not_found);
    EXPECT_EQ(plan_cgroups(with({{"memory", "memory.max", "5"}}, CgroupVersion::v2), system).error().code(),
              Code::not_found);
    EXPECT_EQ(plan_cgroups(with({{"rdma", "rdma.max", "5"}}), system).error().code(), Code::not_found);
}

TEST(JailerCgroups, OnlyAParentMeansTheParentItself) {
    auto system = CgroupSystem::parse(hybrid_mounts, hybrid_own, "pids").value();
    Options options = with({}, CgroupVersion::v2);
    EXPECT_TRUE(plan_cgroups(options, system)->empty());
    options.parent_cgroup = "a/b";
    auto plans = plan_cgroups(options, system).value();
    ASSERT_EQ(plans.size(), 1U);
    EXPECT_EQ(plans[0].path, "/a/b");
    EXPECT_FALSE(plans[0].create);
    options.cgroup_version = CgroupVersion::by_controller;
    EXPECT_TRUE(plan_cgroups(options, system)->empty());
}

TEST(JailerChroot, MinorOfUserfaultfd) {
    EXPECT_EQ(userfaultfd_minor("200 tun\n126 userfaultfd\n232 kvm\n"), 126U);
    EXPECT_EQ(userfaultfd_minor(" 61 userfaultfd"), 61U);
    EXPECT_EQ(userfaultfd_minor("61 userfaultfd2\nuserfaultfd\n\n  \nx y\n"), std::nullopt);
    EXPECT_EQ(userfaultfd_minor(""), std::nullopt);
}

}  // namespace
}  // namespace wherry::jailer
