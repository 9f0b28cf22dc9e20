// The rules as nft(8) reads them back from the kernel, against golden files; needs root, and nft for the golden parts.
#include "net/ruleset.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>

#include "test_world.hpp"

namespace wherry::net {
namespace {

using test::in;

using test::have;
using test::run;

std::string golden(const std::string& name) {
    std::string path = std::string(WHERRY_NETWORK_TESTS "/golden/") + name;
    auto text = read_file(path);
    return text ? *text : std::string("missing golden file ") + path;
}

RulesetNetwork network(const std::string& bridge, const std::string& subnet, const std::string& subnet6 = {}) {
    RulesetNetwork result;
    result.bridge = bridge;
    result.subnet = *IpPrefix::parse(subnet);
    if (!subnet6.empty()) result.subnet6 = *IpPrefix::parse(subnet6);
    return result;
}

PortMapping port(Protocol protocol, const std::string& host, std::uint16_t host_port, const std::string& to,
                 std::uint16_t to_port, const std::string& sandbox = "0123456789abcdef") {
    return {protocol, *IpAddress::parse(host), host_port, *IpAddress::parse(to), to_port, sandbox};
}

class RulesetTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (!test::can_make_namespaces()) GTEST_SKIP() << "needs root: network namespaces";
        host_ = std::move(*create_network_namespace());
    }
    Fd host_;
};

TEST_F(RulesetTest, golden_table) {
    if (!have("nft")) GTEST_SKIP() << "needs nft (package nftables)";
    in(host_, [] {
        auto rules = Ruleset::open("wherry");
        ASSERT_TRUE(rules);
        RulesetNetwork quiet = network("wherry2", "10.90.0.0/24");
        quiet.container_traffic = false;
        RulesetNetwork internal = network("wherry3", "10.91.0.0/24");
        internal.internal = true;
        std::vector<RulesetNetwork> networks{network("wherry0", "10.88.0.0/20", "fd00:88::/64"), quiet, internal};
        std::vector<PortMapping> ports{port(Protocol::tcp, "0.0.0.0", 8080, "10.88.0.2", 80),
                                       port(Protocol::udp, "127.0.0.1", 5353, "10.88.0.2", 53),
                                       port(Protocol::tcp, "::", 8080, "fd00:88::2", 80),
                                       port(Protocol::sctp, "fd00::1", 9, "fd00:88::2", 9)};
        auto outcome = rules->apply(networks, ports);
        ASSERT_TRUE(outcome) << outcome.error().describe();
        std::string text = run("nft list ruleset");
        EXPECT_EQ(text, golden("table.nft")) << text;
        // Again: nothing doubles.
        ASSERT_TRUE(rules->apply(networks, ports));
        EXPECT_EQ(run("nft list ruleset"), text);
        auto there = rules->ports();
        ASSERT_TRUE(there);
        EXPECT_EQ(there->size(), 4U);
        ASSERT_TRUE(rules->remove());
        EXPECT_EQ(run("nft list ruleset"), "");
    });
}

}  // namespace
}  // namespace wherry::net
