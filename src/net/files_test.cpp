#include "net/files.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "base/fd.hpp"

namespace wherry::net {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

IpAddress address(const char* text) {
    return *IpAddress::parse(text);
}

TEST(Files, hosts) {
    HostsFile hosts;
    hosts.hostname = "web";
    hosts.addresses = {address("172.30.0.2"), address("fd00::2")};
    hosts.extra = {{"db", "10.0.0.9"}, {"db", "10.0.0.10"}};
    EXPECT_EQ(make_hosts_file(hosts),
              "127.0.0.1\tlocalhost\n"
              "::1\tlocalhost ip6-localhost ip6-loopback\n"
              "fe00::\tip6-localnet\n"
              "ff00::\tip6-mcastprefix\n"
              "ff02::1\tip6-allnodes\n"
              "ff02::2\tip6-allrouters\n"
              "10.0.0.9\tdb\n"
              "10.0.0.10\tdb\n"
              "172.30.0.2\tweb\n"
              "fd00::2\tweb\n");
    hosts = {};
    hosts.hostname = "web";
    hosts.domainname = "example.org";
    hosts.addresses = {address("10.0.0.2")};
    EXPECT_THAT(make_hosts_file(hosts), ::testing::EndsWith("10.0.0.2\tweb.example.org web\n"));
    hosts.hostname = "a.b.c";
    hosts.domainname.clear();
    EXPECT_THAT(make_hosts_file(hosts), ::testing::EndsWith("10.0.0.2\ta.b.c a\n"));
    EXPECT_EQ(make_hostname_file("web"), "web\n");
}

TEST(Files, extra_hosts) {
    auto parse = [](const char* text) {
        auto entry = parse_extra_host(text, address("172.30.0.1"));
        return entry ? entry->name + " " + entry->address : entry.error().message();
    };
    EXPECT_EQ(parse("db:10.0.0.9"), "db 10.0.0.9");
    EXPECT_EQ(parse("db=10.0.0.9"), "db 10.0.0.9");
    EXPECT_EQ(parse("db:2001:db8::1"), "db 2001:db8::1");
    EXPECT_EQ(parse("db:[2001:db8::1]"), "db 2001:db8::1");
    EXPECT_EQ(parse("host.docker.internal:host-gateway"), "host.docker.internal 172.30.0.1");
    EXPECT_EQ(parse("db"), "invalid add-host: \"db\"");
    EXPECT_EQ(parse(":1.2.3.4"), "invalid add-host: \":1.2.3.4\"");
    EXPECT_EQ(parse("db:"), "invalid add-host: \"db:\"");
    EXPECT_EQ(parse("db:x"), "invalid IP address in add-host: \"x\"");
    EXPECT_EQ(parse("d b:1.2.3.4"), "invalid add-host: \"d b:1.2.3.4\"");
    EXPECT_EQ(parse("a\nb:1.2.3.4"), "invalid add-host: \"a\nb:1.2.3.4\"");
    EXPECT_FALSE(parse_extra_host("x:host-gateway", {}));
}

TEST(Files, resolver_is_parsed) {
    ResolverConfig config = parse_resolver_config(
        "# a comment\n; another\nnameserver 192.0.2.53 # behind\nnameserver\t2001:db8::53\nnameserver fe80::1%eth0\n"
        "nameserver nonsense\nnameserver\nsearch old.example\ndomain a.example b.example\nsearch one.example "
        "two.example\n"
        "options ndots:2 timeout:1\noptions rotate\nsortlist 1.2.3.4\nnameserver 127.0.0.53");
    EXPECT_THAT(config.servers, ElementsAre("192.0.2.53", "2001:db8::53", "fe80::1%eth0", "127.0.0.53"));
    EXPECT_THAT(config.search, ElementsAre("one.example", "two.example"));
    EXPECT_THAT(config.options, ElementsAre("ndots:2", "timeout:1", "rotate"));
    EXPECT_THAT(parse_resolver_config("domain a.example b.example").search, ElementsAre("a.example"));
    EXPECT_THAT(parse_resolver_config(std::string_view("nameserver 1.2.3.4\0\n", 20)).servers, IsEmpty());
}

TEST(Files, resolver_of_a_container) {
    ResolverConfig host = parse_resolver_config(
        "nameserver 127.0.0.1\nnameserver ::1\nnameserver fe80::1%eth0\nsearch host.example\noptions rotate\n");
    ResolverConfig own = container_resolver(host, {}, ResolverNetwork::own);
    EXPECT_EQ(make_resolver_file(own), "nameserver 8.8.8.8\nnameserver 8.8.4.4\nsearch host.example\noptions rotate\n");
    EXPECT_THAT(container_resolver(host, {}, ResolverNetwork::host).servers,
                ElementsAre("127.0.0.1", "::1", "fe80::1%eth0"));
    host.servers.emplace_back("192.0.2.53");
    EXPECT_THAT(container_resolver(host, {}, ResolverNetwork::own).servers, ElementsAre("192.0.2.53"));
    ResolverOverrides given{{"127.0.0.9"}, {"."}, {"ndots:0"}};
    EXPECT_EQ(make_resolver_file(container_resolver(host, given, ResolverNetwork::own)),
              "nameserver 127.0.0.9\noptions ndots:0\n");
}

TEST(Files, overrides_are_checked) {
    EXPECT_TRUE(
        validate(ResolverOverrides{{"1.1.1.1", "2606:4700::1111"}, {"example.org", ".", "a_b.example."}, {"ndots:1"}}));
    EXPECT_EQ(validate(ResolverOverrides{{"one"}, {}, {}}).error().message(),
              "bad nameserver address: one is not an ip address");
    EXPECT_FALSE(validate(ResolverOverrides{{"fe80::1%a\nb"}, {}, {}}));
    EXPECT_FALSE(validate(ResolverOverrides{{}, {"exa mple"}, {}}));
    EXPECT_FALSE(validate(ResolverOverrides{{}, {"-a"}, {}}));
    EXPECT_FALSE(validate(ResolverOverrides{{}, {}, {"a\nnameserver 6.6.6.6"}}));
}

TEST(Files, hostnames) {
    for (const char* good : {"a", "web-1", "db.example.org", "A_b"}) EXPECT_TRUE(validate_hostname(good)) << good;
    for (const char* bad : {"", "-a", "a-", "a b", "a..b", "a/b", "\n", "."})
        EXPECT_FALSE(validate_hostname(bad)) << bad;
    EXPECT_TRUE(validate_hostname(std::string(63, 'a')));
    EXPECT_FALSE(validate_hostname(std::string(64, 'a')));
}

TEST(Files, hosts_resolver_behind_a_stub) {
    std::string folder = (std::filesystem::temp_directory_path() / "wherry-net-XXXXXX").string();
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    std::string stub = folder + "/stub";
    std::string real = folder + "/real";
    ASSERT_TRUE(write_file_atomic(stub, "nameserver 127.0.0.53\n", 0644, Durability::none));
    EXPECT_THAT(read_host_resolver(stub, real)->servers, ElementsAre("127.0.0.53"));
    ASSERT_TRUE(write_file_atomic(real, "nameserver 192.0.2.1\n", 0644, Durability::none));
    EXPECT_THAT(read_host_resolver(stub, real)->servers, ElementsAre("192.0.2.1"));
    EXPECT_THAT(read_host_resolver(folder + "/missing", real)->servers, IsEmpty());
    ASSERT_TRUE(remove_tree(folder));
}

}  // namespace
}  // namespace wherry::net
