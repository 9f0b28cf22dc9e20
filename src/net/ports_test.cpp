#include "net/ports.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace wherry::net {
namespace {

// "host address:first-last>container", the whole of a request in a line.
std::string show(const PortRequest& request) {
    return request.host_address.to_string() + ":" + std::to_string(request.host_ports.first) + "-" +
           std::to_string(request.host_ports.last) + ">" + request.container.to_string();
}

std::vector<std::string> publish(const char* spec) {
    auto requests = parse_publish(spec);
    if (!requests) return {requests.error().describe()};
    std::vector<std::string> shown;
    for (const PortRequest& request : *requests) shown.push_back(show(request));
    return shown;
}

using ::testing::ElementsAre;

TEST(Ports, publish) {
    EXPECT_THAT(publish("80"), ElementsAre(":0-0>80/tcp"));
    EXPECT_THAT(publish("80/udp"), ElementsAre(":0-0>80/udp"));
    EXPECT_THAT(publish("8080:80"), ElementsAre(":8080-8080>80/tcp"));
    EXPECT_THAT(publish("8080:80/SCTP"), ElementsAre(":8080-8080>80/sctp"));
    EXPECT_THAT(publish("127.0.0.1:8080:80"), ElementsAre("127.0.0.1:8080-8080>80/tcp"));
    EXPECT_THAT(publish("127.0.0.1::80"), ElementsAre("127.0.0.1:0-0>80/tcp"));
    EXPECT_THAT(publish("[::1]:8080:80"), ElementsAre("::1:8080-8080>80/tcp"));
    EXPECT_THAT(publish("::1:8080:80"), ElementsAre("::1:8080-8080>80/tcp"));
    EXPECT_THAT(publish("[::]::80/udp"), ElementsAre(":::0-0>80/udp"));
    EXPECT_THAT(publish(":80"), ElementsAre(":0-0>80/tcp"));
    EXPECT_THAT(publish("0:80"), ElementsAre(":0-0>80/tcp"));
    EXPECT_THAT(publish("80/"), ElementsAre(":0-0>80/tcp"));
}

TEST(Ports, publish_ranges) {
    EXPECT_THAT(publish("8000-8002:80-82/udp"),
                ElementsAre(":8000-8000>80/udp", ":8001-8001>81/udp", ":8002-8002>82/udp"));
    EXPECT_THAT(publish("8000-8010:80"), ElementsAre(":8000-8010>80/tcp"));
    EXPECT_THAT(publish("80-81"), ElementsAre(":0-0>80/tcp", ":0-0>81/tcp"));
    EXPECT_THAT(publish("127.0.0.1:8000-8001:80-81"),
                ElementsAre("127.0.0.1:8000-8000>80/tcp", "127.0.0.1:8001-8001>81/tcp"));
}

TEST(Ports, publish_errors) {
    EXPECT_THAT(publish(""), ElementsAre("no port specified: <empty>"));
    EXPECT_THAT(publish("8080:"), ElementsAre("no port specified: 8080:<empty>"));
    EXPECT_THAT(publish("8080:/tcp"), ElementsAre("no port specified: 8080:/tcp<empty>"));
    EXPECT_THAT(publish("abc"), ElementsAre("invalid containerPort: abc"));
    EXPECT_THAT(publish("65536"), ElementsAre("invalid containerPort: 65536"));
    EXPECT_THAT(publish("8080:0"), ElementsAre("invalid containerPort: 0"));
    EXPECT_THAT(publish("abc:80"), ElementsAre("invalid hostPort: abc"));
    EXPECT_THAT(publish("70000:80"), ElementsAre("invalid hostPort: 70000"));
    EXPECT_THAT(publish("8080:80/icmp"), ElementsAre("invalid proto: icmp"));
    EXPECT_THAT(publish("localhost:8080:80"), ElementsAre("invalid IP address: localhost"));
    EXPECT_THAT(publish("8000-8001:80-82"),
                ElementsAre("invalid ranges specified for container and host Ports: 80-82 and 8000-8001"));
    EXPECT_THAT(publish("82-80"), ElementsAre("invalid containerPort: 82-80"));
    EXPECT_THAT(publish("-80"), ElementsAre("invalid containerPort: -80"));
    EXPECT_THAT(publish("0-5:80"), ElementsAre("invalid hostPort: 0-5"));
    EXPECT_THAT(publish("+80"), ElementsAre("invalid containerPort: +80"));
    EXPECT_THAT(publish(" 80"), ElementsAre("invalid containerPort:  80"));
}

TEST(Ports, expose) {
    EXPECT_EQ(parse_expose("80")->size(), 1U);
    EXPECT_EQ(parse_expose("80-90/udp")->size(), 11U);
    EXPECT_EQ(parse_expose("80-90/udp")->back().to_string(), "90/udp");
    EXPECT_EQ(parse_expose("1-65535")->size(), 65535U);
    for (const char* bad : {"", "0", "x", "80-", "80/tls", "8080:80"}) EXPECT_FALSE(parse_expose(bad)) << bad;
    EXPECT_EQ(parse_expose("9-1").error().message(), "invalid range format for --expose: 9-1");
}

TEST(Ports, bindings_of_the_api) {
    EXPECT_EQ(show(*parse_binding("80/tcp", "", "")), ":0-0>80/tcp");
    EXPECT_EQ(show(*parse_binding("53/udp", "::", "5353")), ":::5353-5353>53/udp");
    EXPECT_EQ(show(*parse_binding("80", "0.0.0.0", "8000-8009")), "0.0.0.0:8000-8009>80/tcp");
    EXPECT_FALSE(parse_binding("80-81/tcp", "", ""));
    EXPECT_FALSE(parse_binding("", "", "80"));
    EXPECT_FALSE(parse_binding("80/tcp", "host", ""));
    EXPECT_FALSE(parse_binding("80/tcp", "", "http"));
}

}  // namespace
}  // namespace wherry::net
