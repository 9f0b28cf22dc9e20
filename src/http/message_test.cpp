#include "http/message.hpp"

#include <gtest/gtest.h>

#include "http/router.hpp"

namespace wherry::http {
namespace {

TEST(Headers, NamesCompareWithoutCase) {
    Headers headers;
    headers.add("Content-Type", "a");
    headers.add("Connection", "keep-alive, Upgrade");
    EXPECT_EQ(headers.get("content-TYPE"), "a");
    EXPECT_TRUE(headers.lists("connection", "upgrade"));
    EXPECT_FALSE(headers.lists("connection", "grade"));
    headers.set("CONTENT-type", "b");
    EXPECT_EQ(headers.get("Content-Type"), "b");
    EXPECT_FALSE(headers.has("Host"));
}

TEST(Query, DecodesAndKeepsOrder) {
    auto query = Query::parse("a=1&b=x%20y+z&a=2&flag&&c=%7B%22k%22%3A1%7D");
    ASSERT_TRUE(query);
    EXPECT_EQ(query->get("a"), "1");
    EXPECT_EQ(query->all("a").size(), 2U);
    EXPECT_EQ(query->get("b"), "x y z");
    EXPECT_TRUE(query->has("flag"));
    EXPECT_EQ(query->get("c"), R"({"k":1})");
    EXPECT_FALSE(Query::parse("a=%2"));
    EXPECT_FALSE(Query::parse("a=%zz"));
}

TEST(Query, EncodesWhatItParses) {
    Query query;
    query.add("filters", R"({"name":["a b"]})");
    query.add("x", "1+1=2&3");
    auto again = Query::parse(query.encode());
    ASSERT_TRUE(again);
    EXPECT_EQ(again->get("filters"), R"({"name":["a b"]})");
    EXPECT_EQ(again->get("x"), "1+1=2&3");
}

TEST(Percent, RoundTrip) {
    std::string all;
    for (int c = 1; c < 256; ++c) all += static_cast<char>(c);
    auto decoded = percent_decode(percent_encode(all));
    ASSERT_TRUE(decoded);
    EXPECT_EQ(*decoded, all);
    EXPECT_EQ(percent_encode_path("docker.io/library/busybox:1.36"), "docker.io/library/busybox:1.36");
}

TEST(Router, MatchesOneAndManySegments) {
    Router<int> router;
    router.add("GET", "/images/json", 1);
    router.add("GET", "/images/{name:.*}/json", 2);
    router.add("DELETE", "/images/{name:.*}", 3);
    router.add("GET", "/containers/{name}/attach/ws", 4);
    router.add("GET", "/_ping", 5);

    auto match = router.find("GET", "/images/json");
    ASSERT_NE(match.target, nullptr);
    EXPECT_EQ(*match.target, 1);
    match = router.find("GET", "/images/quay.io/a/b:1/json");
    ASSERT_NE(match.target, nullptr);
    EXPECT_EQ(*match.target, 2);
    EXPECT_EQ(match.parameters.get("name"), "quay.io/a/b:1");
    match = router.find("DELETE", "/images/a/json");
    ASSERT_NE(match.target, nullptr);
    EXPECT_EQ(match.parameters.get("name"), "a/json");
    match = router.find("GET", "/containers/x/attach/ws");
    ASSERT_NE(match.target, nullptr);
    EXPECT_EQ(match.parameters.get("name"), "x");

    EXPECT_EQ(router.find("GET", "/containers//attach/ws").target, nullptr);
    EXPECT_EQ(router.find("GET", "/containers/a/b/attach/ws").target, nullptr);
    EXPECT_EQ(router.find("GET", "/_ping/").target, nullptr);
    EXPECT_EQ(router.find("GET", "/images/").target, nullptr);
    EXPECT_EQ(router.find("GET", "").target, nullptr);
    EXPECT_TRUE(router.find("POST", "/_ping").path_known);
    EXPECT_FALSE(router.find("POST", "/pong").path_known);
}

}  // namespace
}  // namespace wherry::http
