#include "confine/capabilities.hpp"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>

namespace wherry::confine {
namespace {

using Names = std::vector<std::string>;

TEST(Capabilities, NamesAndNumbers) {
    for (int number = 0; number < capability_count; ++number) {
        ASSERT_FALSE(capability_name(number).empty());
        EXPECT_EQ(capability_number(capability_name(number)), number);
    }
    EXPECT_EQ(capability_name(41), "");
    EXPECT_EQ(capability_name(-1), "");
    EXPECT_EQ(capability_number("net_admin"), CAP_NET_ADMIN);
    EXPECT_EQ(capability_number("Cap_Bpf"), CAP_BPF);
    EXPECT_EQ(capability_number("CAP_CHECKPOINT_RESTORE"), 40);
    EXPECT_EQ(capability_number(""), std::nullopt);
    EXPECT_EQ(capability_number("CAP_"), std::nullopt);
    EXPECT_EQ(all_capabilities().size(), 41);
    EXPECT_EQ(docker_default_capabilities().bits(),
              0xa80425fbU);  // what /proc/self/status shows in Docker's containers
}

TEST(Capabilities, DockersRulesOfAddAndDrop) {
    CapabilitySet base = docker_default_capabilities();
    auto adjust = [&](const Names& add, const Names& drop) { return adjust_capabilities(base, add, drop).value(); };
    EXPECT_EQ(adjust({}, {}), base);
    EXPECT_EQ(adjust({"NET_ADMIN"}, {}), base | CapabilitySet{CAP_NET_ADMIN});
    EXPECT_EQ(adjust({}, {"cap_chown"}), base - CapabilitySet{CAP_CHOWN});
    EXPECT_EQ(adjust({"chown"}, {"all"}), CapabilitySet{CAP_CHOWN});
    EXPECT_EQ(adjust({"ALL"}, {"CHOWN"}), all_capabilities() - CapabilitySet{CAP_CHOWN});
    EXPECT_EQ(adjust({"ALL"}, {"ALL"}), all_capabilities());
    EXPECT_EQ(adjust({}, {"ALL"}), CapabilitySet{});
    EXPECT_EQ(adjust({"KILL"}, {"KILL"}), base);
    auto wrong = adjust_capabilities(base, Names{"NONSENSE"}, Names{});
    ASSERT_FALSE(wrong);
    EXPECT_EQ(wrong.error().code(), Code::invalid_argument);
}

TEST(Capabilities, NeverInheritable) {
    Capabilities caps = container_capabilities(docker_default_capabilities());
    EXPECT_TRUE(caps.inheritable.empty());
    EXPECT_TRUE(caps.ambient.empty());
    EXPECT_EQ(caps.bounding, docker_default_capabilities());
}

int in_child(const std::function<int()>& body) {
    pid_t child = ::fork();
    if (child == 0) ::_exit(body());
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Capabilities, BecomeUser) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    CapabilitySet wanted = docker_default_capabilities() & bounding_set().value();
    for (uid_t uid : {uid_t{0}, uid_t{1000}}) {
        EXPECT_EQ(in_child([&] {
                      const gid_t groups[] = {5, 6};
                      if (post_fork::become_user(uid, 1000, groups, container_capabilities(wanted)) != 0) return 1;
                      if (::getuid() != uid || ::getegid() != 1000 || ::getgroups(0, nullptr) != 2) return 2;
                      return capabilities_of_this_thread().value() == container_capabilities(wanted) ? 0 : 3;
                  }),
                  0);
    }
}

TEST(Capabilities, AmbientAndMoreThanThereIs) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    EXPECT_EQ(in_child([] {
                  CapabilitySet one{CAP_NET_BIND_SERVICE};
                  Capabilities caps{
                      .bounding = one, .effective = one, .permitted = one, .inheritable = one, .ambient = one};
                  if (post_fork::become_user(1000, 1000, {}, caps) != 0) return 1;
                  if (capabilities_of_this_thread().value() != caps) return 2;
                  Capabilities more = container_capabilities({CAP_SYS_ADMIN});
                  return post_fork::set_capabilities(more) == EPERM ? 0 : 3;
              }),
              0);
}

}  // namespace
}  // namespace wherry::confine
