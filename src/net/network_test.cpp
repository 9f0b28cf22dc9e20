// The whole of it against the kernel, in namespaces of the test's own; needs root.
#include "net/network.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "net/ruleset.hpp"
#include "net/test_world.hpp"

namespace wherry::net {
namespace {

using test::ask;
using test::in;
using test::Responder;
using ::testing::HasSubstr;
using ::testing::StartsWith;

template <class T>
T must(Result<T> result) {
    if (!result) {
        ADD_FAILURE() << result.error().describe();
        std::abort();
    }
    if constexpr (!std::is_void_v<T>) return std::move(*result);
}

PortRequest request(const std::string& text) {
    return must(parse_publish(text)).front();
}

class NetworkTest : public ::testing::Test {
  protected:
    void SetUp() override {
        if (!test::can_make_namespaces()) GTEST_SKIP() << "needs root: network namespaces";
        world_ = std::make_unique<test::World>();
        in(world_->host, [&] {
            manager_ = must(NetworkManager::open({.table = "wherry"}));
            must(manager_->ensure_bridge(bridge_options()));
        });
    }

    static BridgeOptions bridge_options() {
        BridgeOptions options;
        options.name = "wherry0";
        options.subnet = must(IpPrefix::parse("10.88.0.0/24"));
        return options;
    }

    const Fd& host() const { return world_->host; }
    const Fd& neighbour() const { return world_->neighbour; }

    Attachment attach(const std::string& id, const std::string& bridge = "wherry0") {
        Attachment attachment;
        in(host(), [&] { attachment = must(manager_->attach(bridge, {.sandbox_id = id})); });
        return attachment;
    }
    std::vector<PublishedPort> publish(const Attachment& attachment, std::vector<std::string> specs) {
        std::vector<PublishedPort> ports;
        in(host(), [&] {
            std::vector<PortRequest> requests;
            for (const std::string& spec : specs) requests.push_back(request(spec));
            ports = must(manager_->publish(attachment.endpoint, requests));
        });
        return ports;
    }

    std::unique_ptr<test::World> world_;
    std::unique_ptr<NetworkManager> manager_;
};

TEST_F(NetworkTest, endpoint_is_configured) {
    Attachment a = attach("a");
    EXPECT_EQ(a.endpoint.address.to_string(), "10.88.0.2");
    EXPECT_EQ(a.endpoint.gateway.to_string(), "10.88.0.1");
    EXPECT_EQ(a.endpoint.mac.to_string(), "02:42:0a:58:00:02");
    in(a.netns, [&] {
        NetlinkSocket socket = must(NetlinkSocket::open());
        Link link = must(socket.link("eth0"));
        EXPECT_TRUE(link.up);
        EXPECT_EQ(link.mac, a.endpoint.mac);
        EXPECT_EQ(link.mtu, a.endpoint.mtu);
        EXPECT_TRUE(must(socket.link("lo")).up);
        EXPECT_EQ(must(read_file("/proc/sys/net/ipv4/ip_unprivileged_port_start")), "0\n");
        EXPECT_EQ(must(read_file("/proc/sys/net/ipv6/conf/eth0/disable_ipv6")), "1\n");
    });
}

TEST_F(NetworkTest, container_reaches_outside_by_the_hosts_address) {
    Attachment a = attach("a");
    Responder outside(neighbour(), SOCK_STREAM, 7000, "outside");
    Responder outside_udp(neighbour(), SOCK_DGRAM, 7000, "outside");
    EXPECT_EQ(ask(a.netns, SOCK_STREAM, "198.51.100.2", 7000), "outside 198.51.100.1");
    EXPECT_EQ(ask(a.netns, SOCK_DGRAM, "198.51.100.2", 7000), "outside 198.51.100.1");
}

TEST_F(NetworkTest, published_port_is_reachable_from_everywhere) {
    Attachment a = attach("a");
    Attachment b = attach("b");
    publish(a, {"8080:80", "5353:53/udp"});
    Responder web(a.netns, SOCK_STREAM, 80, "web");
    Responder dns(a.netns, SOCK_DGRAM, 53, "dns");
    EXPECT_EQ(ask(neighbour(), SOCK_STREAM, "198.51.100.1", 8080), "web 198.51.100.2");
    EXPECT_EQ(ask(neighbour(), SOCK_DGRAM, "198.51.100.1", 5353), "dns 198.51.100.2");
    EXPECT_EQ(ask(host(), SOCK_STREAM, "198.51.100.1", 8080), "web 198.51.100.1");
    EXPECT_EQ(ask(host(), SOCK_DGRAM, "198.51.100.1", 5353), "dns 198.51.100.1");
    EXPECT_EQ(ask(host(), SOCK_STREAM, "127.0.0.1", 8080), "web 10.88.0.1");
    EXPECT_EQ(ask(host(), SOCK_DGRAM, "127.0.0.1", 5353), "dns 10.88.0.1");
    // Another container of the network, and the container itself, by the host's address.
    EXPECT_EQ(ask(b.netns, SOCK_STREAM, "198.51.100.1", 8080), "web 10.88.0.1");
    EXPECT_EQ(ask(a.netns, SOCK_STREAM, "198.51.100.1", 8080), "web 10.88.0.1");
    EXPECT_EQ(ask(a.netns, SOCK_DGRAM, "198.51.100.1", 5353), "dns 10.88.0.1");
    EXPECT_EQ(ask(a.netns, SOCK_STREAM, "10.88.0.1", 8080), "web 10.88.0.1");
    // And directly.
    EXPECT_EQ(ask(b.netns, SOCK_STREAM, "10.88.0.2", 80), "web 10.88.0.3");
    EXPECT_EQ(ask(host(), SOCK_STREAM, "10.88.0.2", 80), "web 10.88.0.1");

    in(host(), [&] { must(manager_->unpublish("a")); });
    EXPECT_EQ(ask(neighbour(), SOCK_STREAM, "198.51.100.1", 8080), "refused");
    EXPECT_EQ(ask(host(), SOCK_STREAM, "127.0.0.1", 8080), "refused");
}

TEST_F(NetworkTest, attach_is_quick) {
    std::vector<Attachment> all;
    auto start = std::chrono::steady_clock::now();
    in(host(), [&] {
        for (int i = 0; i < 50; ++i) {
            auto one = must(manager_->attach("wherry0", {.sandbox_id = std::to_string(i)}));
            all.push_back(std::move(one));
        }
    });
    auto took = std::chrono::steady_clock::now() - start;
    double ms = std::chrono::duration<double, std::milli>(took).count() / 50;
    RecordProperty("attach_ms", std::to_string(ms));
    std::printf("attach: %.2f ms each\n", ms);
    EXPECT_LT(ms, 50);
}

}  // namespace
}  // namespace wherry::net
