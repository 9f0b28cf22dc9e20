#include "oci/sysctl.hpp"

#include <gtest/gtest.h>

namespace wherry::oci {
namespace {

TEST(Sysctls, BelongToANamespaceOrToTheHost) {
    EXPECT_EQ(sysctl_scope("net.ipv4.ip_forward"), SysctlScope::network);
    EXPECT_EQ(sysctl_scope("net/ipv4/conf/eth0.1/forwarding"), SysctlScope::network);
    EXPECT_EQ(sysctl_scope("kernel.shmmax"), SysctlScope::ipc);
    EXPECT_EQ(sysctl_scope("fs.mqueue.msg_max"), SysctlScope::ipc);
    EXPECT_EQ(sysctl_scope("kernel.domainname"), SysctlScope::uts);
    EXPECT_EQ(sysctl_scope("user.max_user_namespaces"), SysctlScope::user);
    for (const char* name : {"kernel.panic", "vm.swappiness", "fs.file-max", "kernel.shm_next_id", "net", "net/",
                             "/net/x", "net//x", "net/../kernel/panic", "net/./x", "kernel.msgmax.x", ""})
        EXPECT_EQ(sysctl_scope(name), SysctlScope::host) << name;
    EXPECT_EQ(sysctl_path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
    EXPECT_EQ(sysctl_path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
}

TEST(Sysctls, NeedTheirNamespace) {
    LinuxSpec spec;
    spec.sysctl = {{"net.ipv4.ip_forward", "1"}, {"kernel.shmmax", "1"}};
    const std::string all[] = {"ipc", "network"};
    EXPECT_TRUE(check_sysctls(spec, all));
    EXPECT_FALSE(check_sysctls(spec, std::span(all).first(1)));
    EXPECT_FALSE(check_sysctls(spec, std::span(all).last(1)));
    spec.sysctl = {{"vm.swappiness", "1"}};
    EXPECT_FALSE(check_sysctls(spec, all));
}

}  // namespace
}  // namespace wherry::oci
