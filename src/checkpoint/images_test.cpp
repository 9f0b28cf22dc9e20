#include "checkpoint/images.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/fd.hpp"
#include "checkpoint/descriptors.hpp"

namespace wherry::checkpoint {
namespace {

class Images : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_NE(::mkdtemp(folder_.data()), nullptr); }
    void TearDown() override { static_cast<void>(remove_tree(folder_)); }

    Options options() const {
        Options options;
        options.images = options.work = folder_;
        return options;
    }
    void put(const std::string& name, std::string_view text) const {
        ASSERT_TRUE(write_file_atomic(folder_ + "/" + name, text, 0600, Durability::none));
    }

    std::string folder_ = ::testing::TempDir() + "wherry-images-XXXXXX";
};

oci::Spec spec_of(const char* text) {
    return oci::parse_spec(text).value();
}

const char* const plain = R"({"ociVersion":"1.2.0","root":{"path":"rootfs"},
  "process":{"args":["x"],"cwd":"/","user":{"uid":0,"gid":0}},
  "mounts":[{"destination":"/data","type":"none","source":"data","options":["rbind","ro"]},
            {"destination":"/etc/hosts","type":"bind","source":"/hosts"},
            {"destination":"/proc","type":"proc","source":"proc"}],
  "linux":{"namespaces":[{"type":"mount"},{"type":"network","path":"/proc/self/ns/net"},{"type":"pid"}],
           "maskedPaths":["/proc/kcore","/proc/bus","/nonexistent-wherry"]}})";

// Whether `words` come one after the other.
bool has(const std::vector<std::string>& arguments, const std::vector<std::string>& words) {
    return std::ranges::search(arguments, words).begin() != arguments.end();
}

TEST_F(Images, OptionsAreChecked) {
    Options bad = options();
    bad.cgroups_mode = "loose";
    EXPECT_EQ(check_options(bad).error().code(), Code::invalid_argument);
    bad = options();
    bad.empty_namespaces = {"network", "ipc"};
    EXPECT_EQ(check_options(bad).error().code(), Code::invalid_argument);
    for (const char* mode : {"soft", "full", "strict", "ignore"}) {
        Options good = options();
        good.cgroups_mode = mode;
        EXPECT_TRUE(check_options(good)) << mode;
    }
}

TEST_F(Images, ADumpNamesWhatComesFromOutside) {
    DumpRequest request{options(), {spec_of(plain), "/bundle", "", "/group"}};
    request.pid = ::getpid();
    request.leave_running = true;
    auto run = prepare_dump(request);
    ASSERT_TRUE(run.has_value()) << run.error().describe();
    const std::vector<std::string>& words = run->arguments;
    EXPECT_EQ(words.front(), "dump");
    EXPECT_TRUE(has(words, {"--tree", std::to_string(::getpid())}));
    EXPECT_TRUE(has(words, {"--images-dir", folder_, "--work-dir", folder_}));
    EXPECT_TRUE(has(words, {"--leave-running"}));
    EXPECT_TRUE(has(words, {"--external", "mnt[/data]:/data"}));
    EXPECT_TRUE(has(words, {"--external", "mnt[/etc/hosts]:/etc/hosts"}));
    EXPECT_FALSE(has(words, {"--external", "mnt[/proc]:/proc"}));
    if (path_exists("/proc/kcore")) {
        EXPECT_TRUE(has(words, {"--external", "mnt[/proc/kcore]:/proc/kcore"}));
    }
    EXPECT_FALSE(has(words, {"mnt[/proc/bus]:/proc/bus"}));
    struct stat info{};
    ASSERT_EQ(::stat("/proc/self/ns/net", &info), 0);
    EXPECT_TRUE(has(words, {"--external", "net[" + std::to_string(info.st_ino) + "]:extRootnetNS"}));
    EXPECT_FALSE(has(words, {"--root"}));
    EXPECT_FALSE(has(words, {"--freeze-cgroup"}));
    EXPECT_EQ(run->log, folder_ + "/dump.log");
    EXPECT_TRUE(path_exists(folder_ + "/" + descriptors_file));
}

TEST_F(Images, APreDumpIsOfMemoryAlone) {
    DumpRequest request{options(), {spec_of(plain), "/bundle", "/root", ""}};
    request.pid = ::getpid();
    request.pre_dump = request.leave_running = true;
    request.parent = "../before";
    auto run = prepare_dump(request);
    ASSERT_TRUE(run.has_value());
    EXPECT_EQ(run->arguments.front(), "pre-dump");
    EXPECT_FALSE(has(run->arguments, {"--leave-running"}));
    EXPECT_TRUE(has(run->arguments, {"--prev-images-dir", "../before", "--track-mem"}));
    EXPECT_TRUE(has(run->arguments, {"--root", "/root"}));
    EXPECT_FALSE(path_exists(folder_ + "/" + descriptors_file));
}

TEST_F(Images, ARestoreSaysWhereItComesFrom) {
    put("inventory.img", "x");
    put("pid", "1");
    put(descriptors_file, R"(["file[1f:4]","pipe:[7]","/dev/null"])");
    RestoreRequest request{options(), {spec_of(plain), "/bundle", "/bundle/rootfs", "/group"}};
    request.root_mount = "/bundle/rootfs";
    request.pid_file = folder_ + "/pid";
    request.stdio = {-1, 2, 2};
    request.lsm_profile = "apparmor:x";
    auto run = prepare_restore(request);
    ASSERT_TRUE(run.has_value()) << run.error().describe();
    const std::vector<std::string>& words = run->arguments;
    EXPECT_EQ(words.front(), "restore");
    EXPECT_TRUE(has(words, {"--pidfile", request.pid_file, "--root", "/bundle/rootfs"}));
    EXPECT_FALSE(path_exists(request.pid_file));
    EXPECT_TRUE(has(words, {"--cgroup-root", "/group"}));
    EXPECT_TRUE(has(words, {"--external", "mnt[/data]:/bundle/data"}));
    EXPECT_TRUE(has(words, {"--external", "mnt[/etc/hosts]:/hosts"}));
    EXPECT_TRUE(has(words, {"--inherit-fd", "fd[20]:extRootnetNS"}));
    EXPECT_TRUE(has(words, {"--inherit-fd", "fd[10]:file[1f:4]"}));
    EXPECT_TRUE(has(words, {"--inherit-fd", "fd[11]:pipe:[7]"}));
    EXPECT_TRUE(has(words, {"--lsm-profile", "apparmor:x"}));
    ASSERT_EQ(run->descriptors.size(), 3U);
    EXPECT_EQ(run->descriptors[2], (std::pair{2, 11}));
    EXPECT_EQ(run->kept.size(), 2U);  // the namespace and /dev/null
    EXPECT_EQ(run->root_source, "/bundle/rootfs");
}

TEST_F(Images, WhatIsNoCheckpointIsRefused) {
    EXPECT_EQ(check_images(folder_).error().code(), Code::not_found);
    EXPECT_EQ(check_images(folder_ + "/nowhere").error().code(), Code::not_found);
    EXPECT_EQ(check_images("/etc/passwd").error().code(), Code::invalid_argument);
    put("inventory.img", "x");
    EXPECT_TRUE(check_images(folder_));
    oci::Spec spec = spec_of(plain);
    EXPECT_TRUE(check_restorable(spec) && check_dumpable(spec));
    if (spec.process) spec.process->terminal = true;
    EXPECT_EQ(check_restorable(spec).error().code(), Code::unimplemented);
    EXPECT_EQ(check_dumpable(spec).error().code(), Code::unimplemented);
}

TEST_F(Images, ARestoredProcessHasToBeThere) {
    RestoreRequest request{options(), {spec_of(plain), "/bundle", "/bundle/rootfs", ""}};
    request.pid_file = folder_ + "/pid";
    EXPECT_EQ(restored_container(request, "x").error().code(), Code::internal);
    put("pid", "nonsense");
    EXPECT_EQ(restored_container(request, "x").error().code(), Code::internal);
    put("pid", "99999999");
    EXPECT_EQ(restored_container(request, "x").error().code(), Code::conflict);
    put("pid", std::to_string(::getpid()));
    auto container = restored_container(request, "x");
    ASSERT_TRUE(container.has_value());
    EXPECT_EQ(container->pid(), ::getpid());
    EXPECT_TRUE(container->started());
}

}  // namespace
}  // namespace wherry::checkpoint
