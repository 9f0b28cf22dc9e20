#include <gtest/gtest.h>

#include "base/encoding.hpp"
#include "image/registry/auth.hpp"
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

TEST(registry_location, insecure_by_name_and_subnet) {
    RegistryConfig config;
    ASSERT_TRUE(config.add_insecure("10.1.0.0/16"));
    ASSERT_TRUE(config.add_insecure("plain.example"));
    ASSERT_TRUE(config.add_insecure("other.example:5000"));
    for (const char* host : {"10.1.255.1", "10.1.0.1:5000", "plain.example", "plain.example:443", "other.example:5000"})
        EXPECT_TRUE(is_insecure_registry(config, host)) << host;
    for (const char* host : {"10.2.0.1", "plain.example.org", "other.example", "other.example:5001"})
        EXPECT_FALSE(is_insecure_registry(config, host)) << host;
    for (const char* wrong : {"https://x", "10.0.0.0/33", "x/y", ""}) EXPECT_FALSE(config.add_insecure(wrong)) << wrong;
}

TEST(registry_location, mirrors_first_then_the_registry) {
    RegistryConfig config;
    ASSERT_TRUE(config.add_mirror("http://mirror.example:5000/sub/"));
    ASSERT_TRUE(config.add_mirror("quay.io=https://quay.mirror"));
    auto hub = pull_locations(config, "docker.io");
    ASSERT_EQ(hub.size(), 2U);
    EXPECT_EQ(hub[0].host, "mirror.example:5000");
    EXPECT_EQ(hub[0].prefix, "/sub");
    EXPECT_EQ(hub[0].plain, true);
    EXPECT_TRUE(hub[0].mirror);
    EXPECT_EQ(hub[1].host, "registry-1.docker.io");
    EXPECT_FALSE(hub[1].mirror);
    auto quay = pull_locations(config, "quay.io");
    ASSERT_EQ(quay.size(), 2U);
    EXPECT_EQ(quay[0].host, "quay.mirror");
    EXPECT_EQ(quay[0].plain, false);
    EXPECT_EQ(pull_locations(config, "localhost:5000").size(), 1U);
    for (const char* wrong : {"mirror.example", "ftp://x", "https://", "https://u:p@x", "https://x?y", "=https://x"})
        EXPECT_FALSE(config.add_mirror(wrong)) << wrong;
}

TEST(registry_headers, retry_after) {
    const WallTime now = *parse_rfc3339("2015-10-21T07:27:30Z");
    EXPECT_EQ(parse_retry_after("7", now), std::chrono::seconds(7));
    EXPECT_EQ(parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT", now), std::chrono::seconds(31));
    EXPECT_EQ(parse_retry_after("Wed, 21 Oct 2015 07:00:00 GMT", now), std::chrono::seconds(0));
    for (const char* wrong : {"", "-1", "soon", "7x", "Wed, 21 Oct 2015"})
        EXPECT_FALSE(parse_retry_after(wrong, now)) << wrong;
}

TEST(registry_headers, next_link) {
    EXPECT_EQ(next_link(R"(</v2/x/tags/list?last=a&n=2>; rel="next")"), "/v2/x/tags/list?last=a&n=2");
    EXPECT_EQ(next_link(R"(<a>; rel=prev, <b>; title="x, y"; REL=NEXT)"), "b");
    for (const char* wrong : {"", "<a>", "<a; rel=next", "a; rel=next", R"(<a>; rel="nextish")"})
        EXPECT_EQ(next_link(wrong), "") << wrong;
}

TEST(platform, names) {
    EXPECT_EQ(parse_platform_name("linux/arm64/v8")->variant, "v8");
    EXPECT_EQ(parse_platform_name("aarch64")->architecture, "arm64");
    EXPECT_EQ(parse_platform_name("linux")->architecture, host_platform().architecture);
    EXPECT_EQ(parse_platform_name("LINUX/X86_64")->architecture, "amd64");
    for (const char* wrong : {"", "linux/", "a/b/c/d", "nonsense", "linux/a b"})
        EXPECT_FALSE(parse_platform_name(wrong)) << wrong;
}

}  // namespace
}  // namespace wherry::image
