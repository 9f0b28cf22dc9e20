// Real containers in a directory tree that plays resctrl.
#include "oci/intel_rdt.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "confine/resctrl_double.hpp"
#include "oci/container.hpp"

namespace wherry::oci {
namespace {

namespace fs = std::filesystem;

using testing::HasSubstr;

class IntelRdtTest : public testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root";
        std::string pattern = fs::temp_directory_path() / "wherry-intel-rdt-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        bundle_ = pattern;
        root_ = bundle_ + "/root";
        for (const char* folder : {"usr", "proc", "dev"}) fs::create_directories(root_ + "/" + folder);
        for (const char* link : {"bin", "sbin", "lib", "lib64"})
            fs::create_symlink("usr/" + std::string(link), root_ + "/" + link);
    }
    void TearDown() override {
        if (!bundle_.empty()) EXPECT_TRUE(remove_tree(bundle_));
    }
    CreateRequest request() const {
        CreateRequest request;
        request.id = "box";
        request.bundle = bundle_;
        request.resctrl = resctrl_.mount();
        Spec& spec = request.spec;
        spec.root.path = root_;
        spec.process.emplace();
        spec.process->args = {"/bin/sleep", "1000"};
        spec.mounts.push_back({"/usr", "bind", "/usr", {"rbind", "ro"}, {}, {}});
        for (const char* kind : {"mount", "pid", "ipc", "uts"}) spec.linux_spec.namespaces.push_back({kind, {}});
        spec.linux_spec.intel_rdt = IntelRdt{.l3_cache_schema = "L3:0=f", .mem_bw_schema = "MB:0=20"};
        return request;
    }
    static void end(Container& container) {
        ASSERT_TRUE(container.signal(SIGKILL));
        ASSERT_TRUE(wait_exit(container.pidfd()));
    }

    std::string bundle_, root_;
    confine::FakeResctrl resctrl_;
};

TEST_F(IntelRdtTest, FirstProcessAndExecsAreInTheGroup) {
    CreateRequest create = request();
    create.spec.linux_spec.intel_rdt->enable_cmt = true;
    auto made = Container::create(create);
    ASSERT_TRUE(made) << made.error().describe();
    // Before its program: start has not been called.
    EXPECT_EQ(resctrl_.read("box/schemata"), "L3:0=f\nMB:0=20\n");
    EXPECT_EQ(resctrl_.read("box/tasks"), "0");
    EXPECT_EQ(resctrl_.read("box/mon_groups/box/tasks"), "0");
    ASSERT_TRUE(made->start());

    // A later process of the runtime knows all from the state.
    json::object state = made->state();
    auto later = Container::restore(state);
    ASSERT_TRUE(later) << later.error().describe();
    EXPECT_EQ(later->state(), state);
    resctrl_.write("box/tasks", "");
    resctrl_.write("box/mon_groups/box/tasks", "");
    ExecRequest exec;
    exec.process.args = {"/bin/true"};
    auto process = later->exec(std::move(exec));
    ASSERT_TRUE(process) << process.error().describe();
    EXPECT_EQ(wait_exit(process->pidfd.get()).value().code, 0);
    EXPECT_EQ(resctrl_.read("box/tasks"), "0");
    EXPECT_EQ(resctrl_.read("box/mon_groups/box/tasks"), "0");

    EXPECT_TRUE(update_intel_rdt(state, {.l3_cache = "L3:0=3", .memory_bandwidth = ""}));
    EXPECT_EQ(resctrl_.read("box/schemata"), "L3:0=3\n");
    end(*made);
    EXPECT_TRUE(remove_intel_rdt(state));
    EXPECT_FALSE(resctrl_.has("box"));
}

TEST_F(IntelRdtTest, AnExecDoesWithoutAGroupThatIsGone) {
    auto made = Container::create(request());
    ASSERT_TRUE(made) << made.error().describe();
    ASSERT_TRUE(made->start());
    resctrl_.lose("box");
    ExecRequest exec;
    exec.process.args = {"/bin/true"};
    auto process = made->exec(std::move(exec));
    ASSERT_TRUE(process) << process.error().describe();
    EXPECT_EQ(wait_exit(process->pidfd.get()).value().code, 0);
    end(*made);
    EXPECT_TRUE(remove_intel_rdt(made->state()));
}

TEST_F(IntelRdtTest, AContainerThatFailsLeavesNoGroup) {
    CreateRequest create = request();
    create.spec.hooks.create_runtime.push_back({"/bin/false", {"false"}, {}, {}});
    auto made = Container::create(create);
    ASSERT_FALSE(made);
    EXPECT_THAT(made.error().describe(), HasSubstr("createRuntime"));
    EXPECT_FALSE(resctrl_.has("box"));
}

TEST_F(IntelRdtTest, ARefusalEndsTheCreation) {
    resctrl_.lose("info/MB");
    auto made = Container::create(request());
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code(), Code::unimplemented);
    EXPECT_THAT(made.error().describe(), HasSubstr("linux.intelRdt: memBwSchema"));
    EXPECT_FALSE(resctrl_.has("box"));
}

TEST_F(IntelRdtTest, WithoutItResctrlIsNotTouched) {
    CreateRequest create = request();
    create.spec.linux_spec.intel_rdt.reset();
    auto made = Container::create(create);
    ASSERT_TRUE(made) << made.error().describe();
    EXPECT_FALSE(resctrl_.has("box"));
    EXPECT_EQ(resctrl_.read("tasks"), "");
    json::object state = made->state();
    EXPECT_FALSE(state.contains("intelRdt"));
    auto updated = update_intel_rdt(state, {.l3_cache = "L3:0=3", .memory_bandwidth = ""});
    ASSERT_FALSE(updated);
    EXPECT_EQ(updated.error().code(), Code::conflict);
    EXPECT_TRUE(remove_intel_rdt(state));
    end(*made);
}

TEST_F(IntelRdtTest, AHostWithoutResctrlSaysSo) {
    if (confine::resctrl_of_this_host()) GTEST_SKIP() << "this machine has resctrl";
    auto group = make_intel_rdt(request().spec, "box", std::nullopt);
    ASSERT_FALSE(group);
    EXPECT_EQ(group.error().code(), Code::unimplemented);
    EXPECT_THAT(group.error().describe(), HasSubstr("linux.intelRdt: no resctrl file system is mounted"));
}

}  // namespace
}  // namespace wherry::oci
