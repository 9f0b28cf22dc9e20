#include "api/containerd/shim.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "api/containerd/metrics.hpp"
#include "api/containerd/rootfs.hpp"
#include "api/containerd/stdio.hpp"
#include "api/containerd/task_spec.hpp"

namespace wherry::api::containerd {
namespace {

TEST(Flags, AreGos) {
    std::vector<std::string> words{"-namespace", "k8s.io", "--address=/run/c.sock", "-id", "x", "-debug", "start"};
    auto flags = parse_flags(words);
    ASSERT_TRUE(flags.has_value());
    EXPECT_EQ(flags->name_space, "k8s.io");
    EXPECT_EQ(flags->address, "/run/c.sock");
    EXPECT_EQ(flags->id, "x");
    EXPECT_TRUE(flags->debug);
    EXPECT_EQ(flags->command, "start");
}

TEST(Flags, UnknownOnesAreRefused) {
    for (const std::vector<std::string>& words :
         {std::vector<std::string>{"-nonsense"}, {"-id"}, {"start", "again"}, {"-debug=maybe", "-x=1"}}) {
        EXPECT_FALSE(parse_flags(words).has_value());
    }
}

TEST(Groups, AreNamedByAnnotations) {
    auto group = [](const char* text) { return group_of(*parse_json_object(text), "own"); };
    EXPECT_EQ(group("{}"), "own");
    EXPECT_EQ(group(R"({"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}})"), "pod");
    EXPECT_EQ(group(R"({"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}})"),
              "g");
    EXPECT_EQ(group(R"({"annotations":{"io.kubernetes.cri.sandbox-id":""}})"), "own");
    EXPECT_EQ(group(R"({"annotations":5})"), "own");
}

TEST(CgroupPaths, SystemdsNamesAreExpanded) {
    auto path = [](const char* text) { return cgroup_path_of(text).value_or("refused"); };
    EXPECT_EQ(path(""), "");
    EXPECT_EQ(path("/default/x"), "/default/x");
    EXPECT_EQ(path("docker/x"), "/docker/x");
    EXPECT_EQ(path("system.slice:docker:x"), "/system.slice/docker-x.scope");
    EXPECT_EQ(path("kubepods-burstable-pod1.slice:cri-containerd:x"),
              "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-x.scope");
    EXPECT_EQ(path(":docker:x"), "/system.slice/docker-x.scope");
    EXPECT_EQ(path("-.slice::x"), "/x.scope");
    EXPECT_EQ(path("a.slice:p:b.slice"), "/a.slice/b.slice");
    for (const char* bad : {"a:b:c", "a:b", "a.slice:b:", "a.slice:b:c:d", "-a.slice:b:c", "a--b.slice:b:c",
                            "x/a.slice:b:c", ".slice:b:c"})
        EXPECT_EQ(path(bad), "refused") << bad;
}

TEST(Roots, AnOverlayGoesIntoTheContainersNamespace) {
    std::vector<Mount> mounts{{"overlay", "overlay", "", {"index=off", "lowerdir=/a:/b", "upperdir=/u", "workdir=/w"}}};
    PlannedRoot planned = plan_root(mounts, false);
    ASSERT_TRUE(planned.overlay.has_value());
    supervisor::RootFilesystem root = planned.overlay.value_or(supervisor::RootFilesystem{});
    EXPECT_EQ(root.lower_directories, (std::vector<std::string>{"/a", "/b"}));
    EXPECT_EQ(root.upper_directory, "/u");
    EXPECT_EQ(root.options, std::vector<std::string>{"index=off"});
    EXPECT_FALSE(planned.mount_on_host);
    EXPECT_TRUE(plan_root(mounts, true).mount_on_host);
}

TEST(Roots, ABindIsTheRootItself) {
    PlannedRoot planned = plan_root({{"bind", "/snapshot", "", {"rbind", "ro"}}}, false);
    EXPECT_EQ(planned.directory, "/snapshot");
    EXPECT_TRUE(planned.readonly);
}

TEST(Roots, WhatIsUnusualIsMountedOnTheHost) {
    for (const Mount& mount :
         {Mount{"overlay", "overlay", "", {"lowerdir=/a\\:b"}}, Mount{"overlay", "overlay", "", {"lowerdir=a"}},
          Mount{"overlay", "overlay", "", {"lowerdir=/a", "upperdir=/u"}},
          Mount{"overlay", "overlay", "", {"lowerdir=/a", "strange=1"}}, Mount{"bind", "/x", "", {"rw"}},
          Mount{"bind", "/x", "", {"rbind", "nosuid"}}, Mount{"ext4", "/dev/x", "", {}},
          Mount{"bind", "/x", "sub", {"rbind"}}}) {
        EXPECT_TRUE(plan_root({mount}, false).mount_on_host) << mount.type << " " << mount.source;
    }
    EXPECT_FALSE(plan_root({}, true).mount_on_host);
}

TEST(Outputs, NamesAreParsed) {
    auto fifo = parse_output_target("/run/x y");
    ASSERT_TRUE(fifo.has_value());
    EXPECT_EQ(fifo->scheme, OutputScheme::fifo);
    auto file = parse_output_target("file:///var/log/a%20b?x=1");
    ASSERT_TRUE(file.has_value());
    EXPECT_EQ(file->path, "/var/log/a b");
    auto binary = parse_output_target("binary:///bin/log?id=a%26b&flag&x=+y");
    ASSERT_TRUE(binary.has_value());
    EXPECT_EQ(binary->parameters,
              (std::vector<std::pair<std::string, std::string>>{{"id", "a&b"}, {"flag", ""}, {"x", " y"}}));
    EXPECT_EQ(parse_output_target("")->scheme, OutputScheme::none);
    for (const char* bad :
         {"relative", "ftp:///x", "file://relative", "file:///a%2", "file:///a%zz", "file:///a%00b", "binary://"})
        EXPECT_FALSE(parse_output_target(bad).has_value()) << bad;
}

TEST(Metrics, AreOfTheKindOfTheCgroup) {
    confine::CgroupStatistics statistics;
    statistics.cpu.usage_ns = 5000;
    statistics.cpu.per_cpu_ns = {1, 300};
    statistics.memory.usage = 7;
    statistics.memory.raw = {{"cache", 3}, {"anon", 4}};
    statistics.io_bytes.push_back({8, 0, "read", 512});
    Any v1 = metrics_of(statistics);
    EXPECT_EQ(v1.type_url, metrics_v1_type);
    // pids {}, cpu {usage {total 5000, per_cpu [1, 300]}, throttling {}}, memory {cache 3, usage {usage 7}, swap {}},
    // ...
    EXPECT_EQ(v1.value.substr(0, 2), std::string("\x12\x00", 2));
    EXPECT_EQ(v1.value.substr(2, 14), std::string("\x1a\x0c\x0a\x08\x08\x88\x27\x22\x03\x01\xac\x02\x12\x00", 14));
    EXPECT_NE(v1.value.find("Read"), std::string::npos);
    statistics.v2 = true;
    Any v2 = metrics_of(statistics);
    EXPECT_EQ(v2.type_url, metrics_v2_type);
    EXPECT_EQ(v2.value.substr(0, 6), std::string("\x0a\x00\x12\x02\x08\x05", 6));
}

}  // namespace
}  // namespace wherry::api::containerd
