#include "net/address.hpp"

#include <gtest/gtest.h>

#include "net/pool.hpp"

namespace wherry::net {
namespace {

IpPrefix prefix(const char* text) {
    return *IpPrefix::parse(text);
}
IpAddress address(const char* text) {
    return *IpAddress::parse(text);
}

TEST(Address, parses_and_prints) {
    for (const char* text : {"0.0.0.0", "192.0.2.1", "255.255.255.255", "::", "::1", "2001:db8::1", "fe80::1"})
        EXPECT_EQ(address(text).to_string(), text);
    for (const char* text :
         {"", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.4 ", "::g", "[::1]", "fe80::1%eth0", "1.2.3.4/8"})
        EXPECT_FALSE(IpAddress::parse(text)) << text;
    EXPECT_FALSE(IpAddress::parse(std::string_view("1.2.3.4\0x", 9)));
    EXPECT_TRUE(address("127.9.9.9").is_loopback());
    EXPECT_TRUE(address("::1").is_loopback());
    EXPECT_FALSE(address("::2").is_loopback());
    EXPECT_TRUE(address("::").is_any());
    EXPECT_FALSE(IpAddress().is_any());
}

TEST(Address, arithmetic) {
    EXPECT_EQ(address("10.0.0.255").plus(1).to_string(), "10.0.1.0");
    EXPECT_EQ(address("255.255.255.255").plus(1).to_string(), "0.0.0.0");
    EXPECT_EQ(address("2001:db8::ffff:ffff").plus(2).to_string(), "2001:db8::1:0:1");
    EXPECT_EQ(address("10.0.0.0").plus(65'537).to_string(), "10.1.0.1");
}

TEST(Prefix, parses) {
    EXPECT_EQ(prefix("10.1.2.3/8").network().to_string(), "10.0.0.0/8");
    EXPECT_EQ(prefix("10.1.2.3/8").last().to_string(), "10.255.255.255");
    EXPECT_EQ(prefix("10.1.2.3").length, 32U);
    EXPECT_EQ(prefix("10.1.2.3/0").network().to_string(), "0.0.0.0/0");
    EXPECT_EQ(prefix("10.77.200.3/20").network().to_string(), "10.77.192.0/20");
    EXPECT_EQ(prefix("2001:db8:1:2::5/60").network().to_string(), "2001:db8:1::/60");
    EXPECT_EQ(prefix("2001:db8::/64").last().to_string(), "2001:db8::ffff:ffff:ffff:ffff");
    for (const char* text :
         {"", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/-1", "10.0.0.0/8/8", "::/129", "x/8"})
        EXPECT_FALSE(IpPrefix::parse(text)) << text;
}

TEST(Prefix, contains_and_overlaps) {
    EXPECT_TRUE(prefix("172.16.0.0/12").contains(address("172.31.255.255")));
    EXPECT_FALSE(prefix("172.16.0.0/12").contains(address("172.32.0.0")));
    EXPECT_FALSE(prefix("0.0.0.0/0").contains(address("::")));
    EXPECT_TRUE(prefix("10.0.0.0/8").overlaps(prefix("10.5.0.0/16")));
    EXPECT_TRUE(prefix("10.5.0.0/16").overlaps(prefix("10.0.0.0/8")));
    EXPECT_FALSE(prefix("10.5.0.0/16").overlaps(prefix("10.6.0.0/16")));
}

TEST(Mac, parses_and_derives) {
    EXPECT_EQ(MacAddress::from_ip(address("172.17.0.2")).to_string(), "02:42:ac:11:00:02");
    EXPECT_EQ(MacAddress::parse("02-42-AC-11-00-02")->to_string(), "02:42:ac:11:00:02");
    for (const char* text : {"", "02:42:ac:11:00", "02:42:ac:11:00:0g", "02:42:ac:11:00:02:03", "02:42-ac:11:00:02",
                             "00:00:00:00:00:00", "01:00:5e:00:00:01", "024:2:ac:11:00:02"})
        EXPECT_FALSE(MacAddress::parse(text)) << text;
}

TEST(Pool, hands_out_in_turn) {
    AddressPool pool(prefix("10.0.0.0/29"), prefix("10.0.0.0/29"), address("10.0.0.1"));
    for (const char* expected : {"10.0.0.2", "10.0.0.3", "10.0.0.4"}) EXPECT_EQ(pool.allocate()->to_string(), expected);
    pool.release(address("10.0.0.3"));
    EXPECT_EQ(pool.allocate()->to_string(), "10.0.0.5") << "what was just freed rests";
    EXPECT_EQ(pool.allocate()->to_string(), "10.0.0.6");
    EXPECT_EQ(pool.allocate()->to_string(), "10.0.0.3");
    auto none = pool.allocate();
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().code(), Code::resource_exhausted);
    pool.release(address("10.0.0.1"));
    EXPECT_FALSE(pool.allocate()) << "the gateway is never free";
    pool.release(address("10.0.0.4"));
    EXPECT_EQ(pool.allocate(address("10.0.0.4")).has_value(), true);
}

TEST(Pool, wanted_addresses) {
    AddressPool pool(prefix("10.0.0.0/24"), prefix("10.0.0.128/30"), address("10.0.0.1"));
    EXPECT_TRUE(pool.allocate(address("10.0.0.77")));
    EXPECT_EQ(pool.allocate(address("10.0.0.77")).error().code(), Code::conflict);
    EXPECT_EQ(pool.allocate(address("10.0.0.1")).error().code(), Code::conflict);
    for (const char* bad : {"10.0.0.0", "10.0.0.255", "10.0.1.1", "::1"})
        EXPECT_EQ(pool.allocate(address(bad)).error().code(), Code::invalid_argument) << bad;
    // Out of the range alone; its ends are ordinary addresses of the subnet.
    EXPECT_EQ(pool.allocate()->to_string(), "10.0.0.128");
    pool.mark_used(address("10.0.0.129"));
    pool.mark_used(address("192.0.2.1"));
    EXPECT_EQ(pool.allocate()->to_string(), "10.0.0.130");
    EXPECT_EQ(pool.allocate()->to_string(), "10.0.0.131");
    EXPECT_FALSE(pool.allocate());
}

TEST(Pool, ipv6) {
    AddressPool pool(prefix("fd00::/64"), prefix("fd00::/64"), address("fd00::1"));
    EXPECT_EQ(pool.allocate()->to_string(), "fd00::2");
    EXPECT_TRUE(pool.allocate(address("fd00::ffff:ffff:ffff:ffff")));
    EXPECT_FALSE(AddressPool().allocate());
}

TEST(Pool, chooses_a_free_subnet) {
    EXPECT_EQ(choose_subnet({})->to_string(), "172.30.0.0/16");
    std::vector<IpPrefix> taken{prefix("172.17.0.0/16"), prefix("172.30.5.0/24"), prefix("0.0.0.0/0"),
                                prefix("fd00::/8")};
    EXPECT_EQ(choose_subnet(taken)->to_string(), "172.29.0.0/16");
    taken.push_back(prefix("172.16.0.0/12"));
    EXPECT_EQ(choose_subnet(taken)->to_string(), "192.168.240.0/20");
    taken.push_back(prefix("192.168.0.0/16"));
    EXPECT_EQ(choose_subnet(taken)->to_string(), "10.255.0.0/16");
    taken.push_back(prefix("10.0.0.0/8"));
    EXPECT_FALSE(choose_subnet(taken));
}

}  // namespace
}  // namespace wherry::net
