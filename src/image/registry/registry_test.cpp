#include <gtest/gtest.h>

#include <thread>

#include "base/encoding.hpp"
#include "image/registry/auth.hpp"
#include "image/registry/channel.hpp"
#include "image/registry/client.hpp"

namespace wherry::image {
namespace {

TEST(registry_auth, challenges) {
    auto challenges = parse_challenges(
        R"(Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push", Basic realm="x\"y")");
    ASSERT_EQ(challenges.size(), 2U);
    EXPECT_EQ(challenges[0].scheme, "bearer");
    EXPECT_EQ(challenges[0].realm, "https://auth.example/token");
    EXPECT_EQ(challenges[0].scope, "repository:a/b:pull,push");
    EXPECT_EQ(challenges[1].scheme, "basic");
    EXPECT_EQ(challenges[1].realm, "x\"y");
    EXPECT_TRUE(parse_challenges("").empty());
    EXPECT_TRUE(parse_challenges("=,=\"").empty());
    EXPECT_EQ(parse_challenges("Bearer realm=\"never ends").size(), 1U);
}

TEST(registry_auth, header) {
    auto credentials = parse_registry_auth(base64_encode(R"({"username":"u","password":"p:q"})"));
    ASSERT_TRUE(credentials);
    EXPECT_EQ(credentials->username, "u");
    EXPECT_EQ(credentials->password, "p:q");
    credentials = parse_registry_auth(base64_encode(R"({"auth":")" + base64_encode("a:b:c") + R"("})"));
    ASSERT_TRUE(credentials);
    EXPECT_EQ(credentials->username, "a");
    EXPECT_EQ(credentials->password, "b:c");
    EXPECT_TRUE(parse_registry_auth("")->anonymous());
    EXPECT_TRUE(parse_registry_auth(base64_encode("{}"))->anonymous());
    EXPECT_FALSE(parse_registry_auth("!"));
    EXPECT_FALSE(parse_registry_auth(base64_encode("[1]")));
    EXPECT_FALSE(parse_registry_auth(base64_encode(R"({"username":"a\r\nHost: x"})")));
}

TEST(registry_client, loopback_is_known) {
    for (const char* host : {"localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"})
        EXPECT_TRUE(is_loopback_registry(host)) << host;
    for (const char* host : {"docker.io", "localhost.example", "10.0.0.1:5000", "[::2]:5000"})
        EXPECT_FALSE(is_loopback_registry(host)) << host;
}

TEST(channel, hands_everything_over_in_order_and_bounded) {
    Channel channel(10);
    std::thread writer([&] {
        for (int i = 0; i < 1000; ++i) ASSERT_TRUE(channel.write(std::to_string(i) + ","));
        channel.finish({});
    });
    std::string all;
    std::array<std::byte, 7> buffer{};
    while (true) {
        auto got = channel.read(buffer);
        ASSERT_TRUE(got);
        if (*got == 0) break;
        all += as_text(std::span(buffer).first(*got));
    }
    writer.join();
    EXPECT_TRUE(all.starts_with("0,1,2,"));
    EXPECT_TRUE(all.ends_with("998,999,"));
}

TEST(channel, errors_reach_the_other_side) {
    Channel channel(10);
    channel.finish(fail(Code::data_loss, "broken"));
    std::array<std::byte, 4> buffer{};
    EXPECT_EQ(channel.read(buffer).error().message(), "broken");
    Channel other(1);
    ASSERT_TRUE(other.write("xx"));
    other.abandon();
    EXPECT_EQ(other.write("y").error().code(), Code::cancelled);
}

}  // namespace
}  // namespace wherry::image
