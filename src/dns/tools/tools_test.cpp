#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cmath>

#include "dns/tools/client.hpp"
#include "dns/tools/path.hpp"
#include "dns/tools/present.hpp"
#include "dns/tools/probe_wire.hpp"
#include "dns/tools/query.hpp"

namespace wherry::dns::tools {
namespace {

Name name(std::string_view text) {
    auto parsed = Name::parse(text);
    EXPECT_TRUE(parsed) << text;
    return parsed.value_or(Name());
}

SocketAddress address(std::string_view text) {
    auto parsed = SocketAddress::parse(text, 0);
    EXPECT_TRUE(parsed) << text;
    return parsed.value_or(SocketAddress());
}

TEST(Query, CarriesWhatWasAskedFor) {
    QueryOptions options;
    options.dnssec_ok = true;
    options.ask_nsid = true;
    auto subnet = ClientSubnet::parse("192.0.2.255/25");
    ASSERT_TRUE(subnet);
    options.subnet = *subnet;
    auto query = make_query({.name = name("www.example.org"), .type = Type::AAAA}, options, 0x1234);
    ASSERT_TRUE(query);
    auto message = Message::parse(*query);
    ASSERT_TRUE(message);
    EXPECT_EQ(message->header.id, 0x1234);
    EXPECT_TRUE(message->header.recursion_desired);
    ASSERT_EQ(message->questions.size(), 1U);
    EXPECT_EQ(message->questions[0].name, name("www.example.org"));
    ASSERT_TRUE(message->has_edns);
    EXPECT_TRUE(message->edns.dnssec_ok);
    EXPECT_TRUE(message->edns.option(EdnsOption::NSID).has_value());
    auto data = message->edns.option(EdnsOption::client_subnet);
    ASSERT_TRUE(data.has_value());
    // Family 1, 25 bits, scope 0, and only the bits that count (RFC 7871 section 6).
    EXPECT_EQ(Bytes(data->begin(), data->end()), (Bytes{0, 1, 25, 0, 192, 0, 2, 128}));
}

TEST(Query, RefusesEdnsOptionsWithoutEdns) {
    QueryOptions options;
    options.edns = false;
    EXPECT_TRUE(make_query({.name = name("example.org")}, options, 1));
    options.dnssec_ok = true;
    EXPECT_FALSE(make_query({.name = name("example.org")}, options, 1));
}

TEST(Query, BelievesOnlyItsOwnAnswer) {
    Question question{.name = name("example.org"), .type = Type::A};
    auto query = make_query(question, {}, 7);
    ASSERT_TRUE(query);
    EXPECT_FALSE(answers(*query, question, 7)) << "a query is no answer";
    std::vector<std::uint8_t> answer = *query;
    answer[2] |= 0x80U;
    EXPECT_TRUE(answers(answer, question, 7));
    EXPECT_FALSE(answers(answer, question, 8));
    EXPECT_FALSE(answers(answer, {.name = name("example.com"), .type = Type::A}, 7));
    EXPECT_FALSE(answers(answer, {.name = name("example.org"), .type = Type::AAAA}, 7));
    EXPECT_FALSE(answers(std::span(answer).first(11), question, 7));
}

TEST(ClientSubnet, IsReadAndRefused) {
    EXPECT_TRUE(ClientSubnet::parse("2001:db8::/56"));
    EXPECT_EQ(ClientSubnet::parse("192.0.2.1").value_or(ClientSubnet()).prefix, 32U);
    EXPECT_EQ(ClientSubnet::parse("0").value_or(ClientSubnet{.address = {}, .prefix = 9}).prefix, 0U);
    for (const char* bad :
         {"", "192.0.2.0/33", "192.0.2.0/", "192.0.2.0/x", "example.org/24", "2001:db8::/129", "192.0.2.0:53/24"})
        EXPECT_FALSE(ClientSubnet::parse(bad)) << bad;
}

TEST(ReverseName, OfBothFamilies) {
    EXPECT_EQ(reverse_name(address("192.0.2.7")).to_text(), "7.2.0.192.in-addr.arpa.");
    EXPECT_EQ(reverse_name(address("2001:db8::567:89ab")).to_text(),
              "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.");
}

TEST(ResolverConfiguration, IsReadTolerantly) {
    auto found = parse_resolver_configuration(
        "# comment\nnameserver 192.0.2.53 ; here\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\nsearch a.test "
        "b.test\noptions rotate ndots:3 "
        "timeout:1\nnameserver\nnonsense here\nnameserver 192.0.2.54\nnameserver 192.0.2.55");
    ASSERT_EQ(found.servers.size(), 3U);
    EXPECT_EQ(found.servers[0].to_text(), "192.0.2.53:53");
    EXPECT_EQ(found.servers[1].to_text(), "[2001:db8::53]:53");
    ASSERT_EQ(found.search.size(), 2U);
    EXPECT_EQ(found.search[1].to_text(), "b.test.");
    EXPECT_EQ(found.ndots, 3U);
    EXPECT_EQ(parse_resolver_configuration("options ndots:99999999999 ndots:900").ndots, 15U);
}

TEST(Probe, EchoKeepsItsChecksum) {
    auto first = make_echo(AF_INET, 0x1111, 1, 32);
    for (unsigned number : {2U, 77U, 40000U, 65535U}) {
        auto sequence = static_cast<std::uint16_t>(number);
        auto other = make_echo(AF_INET, 0x1111, sequence, 32);
        EXPECT_EQ(load_u16(&first[2]), load_u16(&other[2])) << sequence;
        EXPECT_EQ(internet_checksum(other), 0) << "a packet with its checksum sums to nothing";
    }
}

TEST(Probe, SynHasARightChecksum) {
    auto source = address("192.0.2.1");
    auto target = address("198.51.100.9");
    source.set_port(40000);
    target.set_port(80);
    auto syn = make_syn(source, target, 0xABCD, 5);
    std::uint32_t pseudo = 6 + 20 + 0xC000 + 0x0201 + 0xC633 + 0x6409;
    EXPECT_EQ(internet_checksum(syn, pseudo), 0);
    EXPECT_EQ(load_u32(&syn[4]), 0xABCD0005U);
}

TEST(Probe, FindsWhatAnErrorQuotes) {
    std::vector<std::uint8_t> error(8);  // an ICMP error's header
    error[0] = 11;
    std::vector<std::uint8_t> header(20);
    header[0] = 0x45;
    header[8] = 1;
    header[9] = IPPROTO_ICMP;
    for (std::size_t i = 0; i < 4; ++i) header[16 + i] = static_cast<std::uint8_t>(10 + i);
    auto echo = make_echo(AF_INET, 0x2222, 9, 4);
    error.insert(error.end(), header.begin(), header.end());
    error.insert(error.end(), echo.begin(), echo.begin() + 8);
    auto quoted = quoted_packet(AF_INET, error, IPPROTO_ICMP);
    ASSERT_TRUE(quoted.has_value());
    EXPECT_EQ(quoted->destination.host(), "10.11.12.13");
    EXPECT_EQ(load_u16(quoted->transport.data() + 6), 9);
    EXPECT_FALSE(quoted_packet(AF_INET, error, IPPROTO_TCP).has_value());
    for (std::size_t length = 0; length < error.size(); ++length)
        EXPECT_FALSE(quoted_packet(AF_INET, std::span(error).first(length), IPPROTO_ICMP).has_value()) << length;
    error[8] = 0x4F;  // a header longer than what is there
    EXPECT_FALSE(quoted_packet(AF_INET, error, IPPROTO_ICMP).has_value());
}

TEST(RoundTrips, Statistics) {
    RoundTrips times;
    for (int i = 0; i < 4; ++i) times.add_sent();
    for (std::int64_t value : {10, 20, 30}) times.add_reply(value);
    EXPECT_DOUBLE_EQ(times.loss(), 0.25);
    EXPECT_EQ(times.best(), 10);
    EXPECT_EQ(times.worst(), 30);
    EXPECT_DOUBLE_EQ(times.average(), 20);
    EXPECT_NEAR(times.deviation(), std::sqrt(200.0 / 3), 1e-9);
    EXPECT_DOUBLE_EQ(times.jitter(), 10);
}

}  // namespace
}  // namespace wherry::dns::tools
