#include "confine/resctrl.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "confine/resctrl_double.hpp"

namespace wherry::confine {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

ResctrlRequest asks(std::string clos_id, std::string l3_cache = "", std::string memory_bandwidth = "") {
    ResctrlRequest request;
    request.clos_id = std::move(clos_id);
    request.container_id = "box";
    request.schemata = {.l3_cache = std::move(l3_cache), .memory_bandwidth = std::move(memory_bandwidth)};
    return request;
}

TEST(Resctrl, IsFoundInMountinfo) {
    auto found = find_resctrl(
        "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
        "61 23 0:50 /some/group /mnt/part rw - resctrl resctrl rw\n"
        "62 23 0:50 / /mnt/a\\040b rw,relatime shared:7 - resctrl resctrl rw,mba_MBps\n"
        "63 23 0:50 / /sys/fs/resctrl rw - resctrl none rw,cdp\n");
    ASSERT_EQ(found.size(), 2U);
    EXPECT_EQ(found[0].path, "/mnt/a b");
    EXPECT_TRUE(found[0].bandwidth_in_megabytes);
    EXPECT_EQ(found[1].path, "/sys/fs/resctrl");
    EXPECT_FALSE(found[1].bandwidth_in_megabytes);
    EXPECT_TRUE(find_resctrl("").empty());
    EXPECT_TRUE(find_resctrl("resctrl - resctrl\n").empty());
}

TEST(Resctrl, LinesInTheOrderOfTheSpecification) {
    auto lines = [](std::string l3_cache, std::string memory_bandwidth) {
        return ResctrlSchemata{.l3_cache = std::move(l3_cache), .memory_bandwidth = std::move(memory_bandwidth)}
            .lines()
            .value();
    };
    EXPECT_THAT(lines("", ""), ElementsAre());
    EXPECT_THAT(lines("L3:0=7f0;1=1f", ""), ElementsAre("L3:0=7f0;1=1f"));
    EXPECT_THAT(lines("", "MB:0=20"), ElementsAre("MB:0=20"));
    EXPECT_THAT(lines("MB:0=90\nL3DATA:0=f\n\nL3CODE:0=f0\n", "MB:0=20"),
                ElementsAre("L3DATA:0=f", "L3CODE:0=f0", "MB:0=20"));
    EXPECT_THAT(lines("L3:0=f\nMB:0=90", ""), ElementsAre("L3:0=f"));
}

TEST(Resctrl, WhatIsNoSchemaIsRefused) {
    for (const char* bad : {"7f0", "L3", "L3:", "L3:;", "L3:0", "L3:a=f", "L3:0=", ":0=f", "../L3:0=f", "L3:0=\x01",
                            "l3:0=f", "MB:0=20"}) {
        auto lines = ResctrlSchemata{.l3_cache = bad, .memory_bandwidth = ""}.lines();
        ASSERT_FALSE(lines) << bad;
        EXPECT_EQ(lines.error().code(), Code::invalid_argument) << bad;
        EXPECT_THAT(lines.error().describe(), HasSubstr("l3CacheSchema")) << bad;
    }
    for (const char* bad : {"L3:0=f", "MB", "MB:0=20\nL3:0=f", " MB:0=20", "MB:0=20\n", "mb:0=20"}) {
        auto lines = ResctrlSchemata{.l3_cache = "", .memory_bandwidth = bad}.lines();
        ASSERT_FALSE(lines) << bad;
        EXPECT_EQ(lines.error().code(), Code::invalid_argument) << bad;
        EXPECT_THAT(lines.error().describe(), HasSubstr("memBwSchema")) << bad;
    }
}

TEST(Resctrl, AGroupOfTheContainersOwnComesAndGoes) {
    FakeResctrl resctrl;
    auto group = ResctrlGroup::make(resctrl.mount(), asks("", "MB:0=90\nL3:0=7f0;1=1f", "MB:0=20;1=70"));
    ASSERT_TRUE(group) << group.error().describe();
    EXPECT_EQ(group->path(), resctrl.mount().path + "/box");
    EXPECT_EQ(resctrl.read("box/schemata"), "L3:0=7f0;1=1f\nMB:0=20;1=70\n");
    // The deletion is another process's.
    auto later = ResctrlGroup::restore(group->state());
    ASSERT_TRUE(later) << later.error().describe();
    EXPECT_TRUE(later->remove());
    EXPECT_FALSE(resctrl.has("box"));
    EXPECT_TRUE(later->remove());
}

TEST(Resctrl, WithoutSchemataNothingIsWritten) {
    FakeResctrl resctrl;
    ASSERT_TRUE(ResctrlGroup::make(resctrl.mount(), asks("")));
    EXPECT_EQ(resctrl.read("box/schemata"), "    L3:0=7ff;1=7ff\n    MB:0=100;1=100\n");
}

TEST(Resctrl, AGroupThatWasThereStays) {
    FakeResctrl resctrl;
    resctrl.add_group("box", "    L3:0=7ff;1=7ff\n");
    auto group = ResctrlGroup::make(resctrl.mount(), asks("", "L3:0=f"));
    ASSERT_TRUE(group) << group.error().describe();
    EXPECT_EQ(resctrl.read("box/schemata"), "L3:0=f\n");
    EXPECT_TRUE(group->remove());
    EXPECT_TRUE(resctrl.has("box"));
}

TEST(Resctrl, AClosIdAloneJoins) {
    FakeResctrl resctrl;
    auto missing = ResctrlGroup::make(resctrl.mount(), asks("gold"));
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code(), Code::not_found);
    EXPECT_THAT(missing.error().describe(), HasSubstr("closID: there is no group gold"));
    EXPECT_FALSE(resctrl.has("gold"));
    resctrl.add_group("gold", "L3:0=3\n");
    auto group = ResctrlGroup::make(resctrl.mount(), asks("gold"));
    ASSERT_TRUE(group) << group.error().describe();
    EXPECT_EQ(resctrl.read("gold/schemata"), "L3:0=3\n");
    EXPECT_TRUE(group->remove());
    EXPECT_TRUE(resctrl.has("gold"));
}

TEST(Resctrl, AClosIdWithSchemataIsMadeAndShared) {
    FakeResctrl resctrl;
    auto first = ResctrlGroup::make(resctrl.mount(), asks("gold", "L3:0=7f0;1=1f", "MB:0=20;1=70"));
    ASSERT_TRUE(first) << first.error().describe();
    EXPECT_EQ(resctrl.read("gold/schemata"), "L3:0=7f0;1=1f\nMB:0=20;1=70\n");
    // As the kernel shows it.
    resctrl.write("gold/schemata", "    MB:0= 20;1= 70\n    L3:0=7f0;1=01f\n");
    for (const auto& [l3_cache, memory_bandwidth] :
         {std::pair{"L3:1=1f;0=0x7F0", ""}, {"L3:0=7f0", "MB:1=70;0=20"}, {"", "MB:0=15"}, {"L3:1=01f;", "MB:1=61"}}) {
        auto same = ResctrlGroup::make(resctrl.mount(), asks("gold", l3_cache, memory_bandwidth));
        EXPECT_TRUE(same) << same.error().describe();
    }
    for (const auto& [l3_cache, memory_bandwidth] : {std::pair{"L3:0=7f1", ""},
                                                     {"L3:0=7f0;2=1", ""},
                                                     {"L3:0=xyz", ""},
                                                     {"", "MB:0=9"},
                                                     {"", "MB:0=21"},
                                                     {"", "MB:0=99999999999999999999"},
                                                     {"L3:0=7f0", "MB:0=30"}}) {
        auto other = ResctrlGroup::make(resctrl.mount(), asks("gold", l3_cache, memory_bandwidth));
        ASSERT_FALSE(other) << l3_cache << " " << memory_bandwidth;
        EXPECT_EQ(other.error().code(), Code::conflict);
        EXPECT_THAT(other.error().describe(), HasSubstr("but MB:0= 20;1= 70, L3:0=7f0;1=01f"));
    }
    EXPECT_EQ(resctrl.read("gold/schemata"), "    MB:0= 20;1= 70\n    L3:0=7f0;1=01f\n");
    // Others may count on it: runc and specification 1.3 leave it as well.
    EXPECT_TRUE(first->remove());
    EXPECT_TRUE(resctrl.has("gold"));
}

TEST(Resctrl, MegabytesAreNotRounded) {
    FakeResctrl resctrl;
    resctrl.add_group("gold", "    MB:0=5010;1=7000\n");
    ResctrlMount mount = resctrl.mount();
    EXPECT_TRUE(ResctrlGroup::make(mount, asks("gold", "", "MB:0=5001")));
    mount.bandwidth_in_megabytes = true;
    EXPECT_TRUE(ResctrlGroup::make(mount, asks("gold", "", "MB:0=5010")));
    EXPECT_EQ(ResctrlGroup::make(mount, asks("gold", "", "MB:0=5001")).error().code(), Code::conflict);
}

TEST(Resctrl, NamesAreNames) {
    FakeResctrl resctrl;
    for (const std::string& bad :
         {std::string("."), std::string(".."), std::string("/"), std::string("a/b"), std::string("../a"),
          std::string("a\nb"), std::string("a\0b", 3), std::string(256, 'a'), std::string("info")}) {
        auto group = ResctrlGroup::make(resctrl.mount(), asks(bad, "L3:0=f"));
        ASSERT_FALSE(group) << bad;
        EXPECT_EQ(group.error().code(), Code::invalid_argument) << bad;
        EXPECT_THAT(group.error().describe(), HasSubstr("closID")) << bad;
    }
    ResctrlRequest request = asks("gold", "L3:0=f");
    request.container_id = "../box";
    EXPECT_EQ(ResctrlGroup::make(resctrl.mount(), request).error().code(), Code::invalid_argument);
    EXPECT_FALSE(resctrl.has("gold"));
}

TEST(Resctrl, WhatTheHostLacksIsNamed) {
    FakeResctrl resctrl;
    auto refusal = [&](const ResctrlRequest& request) {
        auto group = ResctrlGroup::make(resctrl.mount(), request);
        if (group) return std::string("(made)");
        EXPECT_EQ(group.error().code(), Code::unimplemented);
        return group.error().describe();
    };
    ResctrlRequest cmt = asks("");
    cmt.monitors_cache = true;
    ResctrlRequest mbm = asks("");
    mbm.monitors_bandwidth = true;
    EXPECT_THAT(refusal(asks("", "L2:0=f")), AllOf(HasSubstr("l3CacheSchema"), HasSubstr("info/L2")));
    resctrl.write("info/L3_MON/mon_features", "mbm_local_bytes\n");
    EXPECT_THAT(refusal(cmt), AllOf(HasSubstr("enableCMT"), HasSubstr("llc_occupancy")));
    resctrl.write("info/L3_MON/mon_features", "llc_occupancy\n");
    EXPECT_THAT(refusal(mbm), AllOf(HasSubstr("enableMBM"), HasSubstr("mbm_total_bytes")));
    resctrl.lose("info/L3_MON");
    EXPECT_THAT(refusal(cmt), HasSubstr("CMT"));
    resctrl.lose("info/L3");
    EXPECT_THAT(refusal(asks("", "L3:0=f", "MB:0=20")), AllOf(HasSubstr("l3CacheSchema"), HasSubstr("CAT: info/L3")));
    resctrl.write("info/L3CODE", "");
    EXPECT_THAT(refusal(asks("", "L3:0=f")), HasSubstr("cdp"));
    resctrl.lose("info/MB");
    EXPECT_THAT(refusal(asks("", "", "MB:0=20")), AllOf(HasSubstr("memBwSchema"), HasSubstr("MBA: info/MB")));
    EXPECT_FALSE(resctrl.has("box"));
    EXPECT_EQ(refusal(asks("")), "(made)");
}

TEST(Resctrl, RefusalsCarryTheKernelsWords) {
    FakeResctrl resctrl;
    resctrl.write("info/last_cmd_status", "Out of CLOSIDs\n");
    resctrl.mkdir_error = ENOSPC;
    auto full = ResctrlGroup::make(resctrl.mount(), asks("", "L3:0=f"));
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().code(), Code::resource_exhausted);
    EXPECT_THAT(full.error().describe(), HasSubstr("the kernel says \"Out of CLOSIDs\""));
    resctrl.mkdir_error = 0;
    resctrl.refuses_schemata = true;
    resctrl.write("info/last_cmd_status", "Mask out of range\n");
    for (const char* clos_id : {"", "gold"}) {
        auto refused = ResctrlGroup::make(resctrl.mount(), asks(clos_id, "L3:0=fffff", "MB:0=20"));
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Code::invalid_argument);
        EXPECT_THAT(refused.error().describe(), AllOf(HasSubstr("schemata L3:0=fffff MB:0=20"),
                                                      HasSubstr("the kernel says \"Mask out of range\"")));
    }
    EXPECT_FALSE(resctrl.has("box"));
    EXPECT_FALSE(resctrl.has("gold"));
    resctrl.write("info/last_cmd_status", "ok\n");
    EXPECT_THAT(ResctrlGroup::make(resctrl.mount(), asks("", "L3:0=f")).error().describe(),
                testing::Not(HasSubstr("the kernel says")));
}

TEST(Resctrl, MonitoringGroups) {
    FakeResctrl resctrl;
    resctrl.add_group("gold", "L3:0=3\n");
    ResctrlRequest request = asks("gold");
    request.monitors_bandwidth = true;
    auto group = ResctrlGroup::make(resctrl.mount(), request);
    ASSERT_TRUE(group) << group.error().describe();
    EXPECT_TRUE(resctrl.has("gold/mon_groups/box/tasks"));
    EXPECT_EQ(ResctrlGroup::make(resctrl.mount(), request).error().code(), Code::already_exists);
    EXPECT_TRUE(resctrl.has("gold/mon_groups/box"));
    ASSERT_TRUE(ResctrlGroup::restore(group->state())->remove());
    EXPECT_FALSE(resctrl.has("gold/mon_groups/box"));
    EXPECT_TRUE(resctrl.has("gold"));

    request.clos_id.clear();
    request.monitors_cache = true;
    auto own = ResctrlGroup::make(resctrl.mount(), request);
    ASSERT_TRUE(own) << own.error().describe();
    EXPECT_TRUE(resctrl.has("box/mon_groups/box"));
    EXPECT_TRUE(own->remove());
    EXPECT_FALSE(resctrl.has("box"));
}

TEST(Resctrl, AProcessEntersGroupAndMonitoringGroup) {
    FakeResctrl resctrl;
    ResctrlRequest request = asks("");
    request.monitors_cache = true;
    auto group = ResctrlGroup::make(resctrl.mount(), request);
    ASSERT_TRUE(group) << group.error().describe();
    auto join = group->prepare_join();
    ASSERT_TRUE(join) << join.error().describe();
    pid_t child = ::fork();
    if (child == 0) ::_exit(join->enter() ? 0 : 1);
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(resctrl.read("box/tasks"), "0");
    EXPECT_EQ(resctrl.read("box/mon_groups/box/tasks"), "0");
    EXPECT_EQ(resctrl.read("tasks"), "");

    // Taken away by somebody in between, or before.
    resctrl.lose("box");
    EXPECT_EQ(group->prepare_join().error().code(), Code::not_found);
}

TEST(Resctrl, ARefusedEntryCarriesTheKernelsWords) {
    FakeResctrl resctrl;
    auto group = ResctrlGroup::make(resctrl.mount(), asks(""));
    ASSERT_TRUE(group) << group.error().describe();
    resctrl.lose("box/tasks");
    std::filesystem::create_symlink("/dev/full", resctrl.mount().path + "/box/tasks");
    resctrl.write("info/last_cmd_status", "Kernel thread\n");
    auto join = group->prepare_join();
    ASSERT_TRUE(join) << join.error().describe();
    auto entered = join->enter();
    ASSERT_FALSE(entered);
    EXPECT_EQ(entered.error().os_errno(), ENOSPC);
    EXPECT_THAT(entered.error().describe(), HasSubstr("the kernel says \"Kernel thread\""));
}

TEST(Resctrl, UpdateWritesWhatIsGiven) {
    FakeResctrl resctrl;
    auto group = ResctrlGroup::make(resctrl.mount(), asks("gold", "L3:0=f", "MB:0=20"));
    ASSERT_TRUE(group) << group.error().describe();
    EXPECT_TRUE(group->update({.l3_cache = "L3:0=3", .memory_bandwidth = ""}));
    EXPECT_EQ(resctrl.read("gold/schemata"), "L3:0=3\n");
    EXPECT_TRUE(group->update({.l3_cache = "L3:0=1", .memory_bandwidth = "MB:0=30"}));
    EXPECT_EQ(resctrl.read("gold/schemata"), "L3:0=1\nMB:0=30\n");
    EXPECT_EQ(group->update({.l3_cache = "", .memory_bandwidth = "L3:0=1"}).error().code(), Code::invalid_argument);
    resctrl.lose("info/MB");
    auto lacks = group->update({.l3_cache = "L3:0=7", .memory_bandwidth = "MB:0=30"});
    ASSERT_FALSE(lacks);
    EXPECT_EQ(lacks.error().code(), Code::unimplemented);
    EXPECT_EQ(resctrl.read("gold/schemata"), "L3:0=1\nMB:0=30\n");
    resctrl.lose("gold");
    EXPECT_EQ(group->update({.l3_cache = "L3:0=7", .memory_bandwidth = ""}).error().code(), Code::not_found);
}

TEST(Resctrl, WaitsForOthersWhoHoldTheLock) {
    FakeResctrl resctrl;
    Fd holder = open_file(resctrl.mount().path, O_RDONLY | O_DIRECTORY).value();
    ASSERT_EQ(::flock(holder.get(), LOCK_EX), 0);
    bool made_before = true;
    std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        made_before = resctrl.has("box");
        holder.reset();
    });
    auto group = ResctrlGroup::make(resctrl.mount(), asks("", "L3:0=f"));
    other.join();
    EXPECT_TRUE(group) << group.error().describe();
    EXPECT_FALSE(made_before);
    // And lets it go.
    Fd next = open_file(resctrl.mount().path, O_RDONLY | O_DIRECTORY).value();
    EXPECT_EQ(::flock(next.get(), LOCK_EX | LOCK_NB), 0);
}

TEST(Resctrl, StateOfOthersIsRead) {
    EXPECT_FALSE(ResctrlGroup::restore(json::object()));
    EXPECT_FALSE(ResctrlGroup::restore(json::object{{"mount", "/m"}, {"group", 1}}));
}

}  // namespace
}  // namespace wherry::confine
