#include "oci/spec.hpp"

#include <gtest/gtest.h>

#include "oci/default_spec.hpp"

namespace wherry::oci {
namespace {

const char* const full = R"({
  "ociVersion": "1.2.0",
  "process": {
    "terminal": true, "consoleSize": {"height": 25, "width": 80},
    "user": {"uid": 1, "gid": 2, "additionalGids": [5, 6], "umask": 18, "username": "bob", "additionalGroupNames": ["audio"]},
    "args": ["sh", "-c", "true"], "env": ["A=b"], "cwd": "/root",
    "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"],
                     "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 18446744073709551615}],
    "noNewPrivileges": true, "apparmorProfile": "p", "selinuxLabel": "l", "oomScoreAdj": -5,
    "scheduler": {"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RECLAIM"], "runtime": 1, "deadline": 2, "period": 3,
                  "nice": 4, "priority": 5},
    "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
    "execCPUAffinity": {"initial": "0-2", "final": "3,7"}
  },
  "root": {"path": "rootfs", "readonly": true},
  "hostname": "h", "domainname": "d",
  "mounts": [{"destination": "/data", "type": "bind", "source": "/x", "options": ["rbind", "rro"],
              "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
              "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]}],
  "hooks": {"prestart": [{"path": "/a"}], "createRuntime": [{"path": "/b", "args": ["b"], "env": ["X=1"], "timeout": 5}],
            "createContainer": [{"path": "/c"}], "startContainer": [{"path": "/d"}], "poststart": [{"path": "/e"}],
            "poststop": [{"path": "/f"}]},
  "annotations": {"k": "v"},
  "linux": {
    "namespaces": [{"type": "pid"}, {"type": "network", "path": "/proc/1/ns/net"}, {"type": "mount"}, {"type": "time"}],
    "uidMappings": [{"containerID": 0, "hostID": 5, "size": 7}], "gidMappings": [{"containerID": 0, "hostID": 5, "size": 7}],
    "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 432, "uid": 1, "gid": 2},
                {"path": "/dev/p", "type": "p"}],
    "cgroupsPath": "/a/b", "resources": {"memory": {"limit": 1000000}, "pids": {"limit": 3}},
    "rootfsPropagation": "rslave", "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}, "sysctl": {"net.a": "1"},
    "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"], "mountLabel": "m",
    "intelRdt": {"closID": "c", "l3CacheSchema": "s", "memBwSchema": "w", "enableCMT": true, "enableMBM": true},
    "personality": {"domain": "LINUX32"},
    "timeOffsets": {"monotonic": {"secs": -3, "nanosecs": 5}, "boottime": {"secs": 9}}
  }
})";

TEST(Spec, EverythingIsReadAndWrittenBack) {
    auto spec = parse_spec(full);
    ASSERT_TRUE(spec) << spec.error().describe();
    EXPECT_EQ(spec->process->user.umask, 18U);
    EXPECT_EQ(spec->process->user.username, "bob");
    EXPECT_EQ(spec->process->rlimits[0].hard, ~std::uint64_t{0});
    EXPECT_EQ(spec->process->exec_cpu_affinity_initial, (std::vector<int>{0, 1, 2}));
    EXPECT_EQ(spec->mounts[0].uid_mappings[0].host_id, 1000U);
    EXPECT_EQ(spec->hooks.create_runtime[0].timeout_s, 5);
    EXPECT_EQ(spec->linux_spec.find_namespace("network")->path, "/proc/1/ns/net");
    EXPECT_EQ(spec->linux_spec.find_namespace("user"), nullptr);
    EXPECT_EQ(spec->linux_spec.resources.pids_limit, 3);
    EXPECT_EQ(spec->linux_spec.time_offsets.at("monotonic").seconds, -3);

    json::object once = to_json(*spec);
    auto again = spec_from_json(once);
    ASSERT_TRUE(again) << again.error().describe();
    EXPECT_EQ(to_json(*again), once);
    // Nothing of the document was lost, but for the order of members.
    auto given = parse_json_object(full);
    ASSERT_TRUE(given);
    for (const auto& [name, value] : *given) {
        ASSERT_TRUE(once.contains(name)) << name;
        if (!value.is_object()) continue;
        for (const auto& [inner, ignored] : value.get_object())
            EXPECT_TRUE(once.at(name).as_object().contains(inner)) << std::string(name) << "." << std::string(inner);
    }
}

TEST(Spec, WhatIsWrongIsNamed) {
    struct Case {
        const char* text;
        const char* expected;
    };
    const Case cases[] = {
        {R"([])", "expected an object"},
        {R"({})", "ociVersion: missing"},
        {R"({"ociVersion": "2.0"})", "unsupported version"},
        {R"({"ociVersion": "1.0", "process": {"cwd": "/", "args": "sh"}})", "process.args: expected an array"},
        {R"({"ociVersion": "1.0", "process": {"cwd": "tmp"}})", "process.cwd: must be absolute"},
        {R"({"ociVersion": "1.0", "process": {"cwd": "/", "args": ["a\u0000b"]}})", "process.args: contains a NUL"},
        {R"({"ociVersion": "1.0", "process": {"cwd": "/", "user": {"uid": 4294967296}}})",
         "process.user.uid: out of range"},
        {R"({"ociVersion": "1.0", "process": {"cwd": "/", "user": {"uid": 4294967295}}})",
         "process.user.uid: out of range"},
        {R"({"ociVersion": "1.0", "process": {"cwd": "/", "user": {"gid": -1}}})", "process.user.gid"},
        {R"({"ociVersion": "1.0", "process": {"cwd": "/", "oomScoreAdj": 1001}})", "oomScoreAdj: expected"},
        {R"({"ociVersion": "1.0", "process": {"cwd": "/", "rlimits": [{"type": "A", "soft": 1, "hard": 1},
            {"type": "A", "soft": 1, "hard": 1}]}})",
         "process.rlimits[1].type: duplicated A"},
        {R"({"ociVersion": "1.0", "root": {}})", "root.path: missing"},
        {R"({"ociVersion": "1.0", "mounts": [{"type": "proc"}]})", "mounts[0].destination: missing"},
        {R"({"ociVersion": "1.0", "hooks": {"poststop": [{"path": "relative"}]}})",
         "hooks.poststop[0].path: must be absolute"},
        {R"({"ociVersion": "1.0", "hooks": {"poststop": [{"path": "/a", "timeout": 0}]}})", "timeout: must be greater"},
        {R"({"ociVersion": "1.0", "linux": {"namespaces": [{"type": "net"}]}})", "unknown namespace net"},
        {R"({"ociVersion": "1.0", "linux": {"namespaces": [{"type": "pid"}, {"type": "pid"}]}})",
         "duplicated namespace pid"},
        {R"({"ociVersion": "1.0", "linux": {"namespaces": [{"type": "pid", "path": "x"}]}})", "must be absolute"},
        {R"({"ociVersion": "1.0", "linux": {"devices": [{"path": "/x", "type": "z"}]}})", "expected c, b, u or p"},
        {R"({"ociVersion": "1.0", "linux": {"devices": [{"path": "/x", "type": "c"}]}})", "major: missing"},
        {R"({"ociVersion": "1.0", "linux": {"maskedPaths": ["x"]}})", "maskedPaths: must be absolute"},
        {R"({"ociVersion": "1.0", "linux": {"rootfsPropagation": "sideways"}})", "rootfsPropagation: unknown"},
        {R"({"ociVersion": "1.0", "linux": {"uidMappings": [{"containerID": 0, "hostID": 0, "size": 0}]}})",
         "must not be 0"},
        {R"({"ociVersion": "1.0", "linux": {"personality": {"domain": "BSD"}}})", "expected LINUX or LINUX32"},
        {R"({"ociVersion": "1.0", "process": {"cwd": "/", "execCPUAffinity": {"initial": "3-1"}}})",
         "list of processors"},
        {R"({"ociVersion": "1.0", "process": {"cwd": "/", "execCPUAffinity": {"initial": "99999"}}})",
         "list of processors"},
    };
    for (const Case& item : cases) {
        auto spec = parse_spec(item.text);
        ASSERT_FALSE(spec) << item.text;
        EXPECT_EQ(spec.error().code(), Code::invalid_argument) << item.text;
        EXPECT_NE(spec.error().describe().find(item.expected), std::string::npos) << item.text << "\n"
                                                                                  << spec.error().describe();
    }
}

TEST(Spec, UnknownMembersAreIgnored) {
    EXPECT_TRUE(parse_spec(R"({"ociVersion": "1.9.1-dev", "future": {"x": [1]}, "linux": {"more": 1}})"));
}

TEST(DefaultSpec, IsDockers) {
    Spec spec = default_spec();
    EXPECT_EQ(spec.process->capabilities->bounding.size(), 14U);
    EXPECT_TRUE(spec.process->capabilities->inheritable.empty());
    EXPECT_TRUE(spec.process->capabilities->ambient.empty());
    EXPECT_GE(spec.linux_spec.masked_paths.size(), 12U);
    EXPECT_EQ(spec.linux_spec.readonly_paths.size(), 5U);
    EXPECT_EQ(spec.linux_spec.namespaces.size(), 6U);
    EXPECT_EQ(spec.mounts.size(), 7U);
    EXPECT_TRUE(spec_from_json(to_json(spec)));

    Spec privileged = default_spec({.privileged = true});
    EXPECT_TRUE(privileged.linux_spec.masked_paths.empty());
    EXPECT_GT(privileged.process->capabilities->bounding.size(), 14U);
}

}  // namespace
}  // namespace wherry::oci
