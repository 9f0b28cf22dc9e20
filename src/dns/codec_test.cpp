#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "dns/master_file.hpp"
#include "dns/message.hpp"
#include "dns/name.hpp"
#include "dns/rdata.hpp"
#include "dns/types.hpp"

namespace wherry::dns {
namespace {

Name name(std::string_view text) {
    return *Name::parse(text);
}

std::vector<Token> tokens(std::string_view text) {
    MasterScanner scanner(text);
    auto line = scanner.next();
    if (!line || !*line) return {};
    return {(*line)->begin(), (*line)->end()};
}

TEST(name, text_round_trip_and_case) {
    EXPECT_EQ(name("www.Example.COM.").to_text(), "www.Example.COM.");
    EXPECT_EQ(name("www.example.com"), name("WWW.EXAMPLE.com."));
    EXPECT_EQ(name("WWW.example.com").hash(), name("www.EXAMPLE.com").hash());
    EXPECT_EQ(name(R"(a\.b.c\009\\x.)").to_text(), R"(a\.b.c\009\\x.)");
    EXPECT_EQ(name("a.b.c").label_count(), 3U);
    EXPECT_EQ(name("a.b.c").parent(), name("b.c"));
    EXPECT_EQ(name("a.b.c").suffix(1), name("c"));
    EXPECT_TRUE(name("a.b.c").is_within(name("B.C")));
    EXPECT_FALSE(name("ab.c").is_within(name("b.c")));
    EXPECT_TRUE(name("b.c").is_within(Name()));
    Name origin = name("example.");
    EXPECT_EQ(*Name::parse("www", &origin), name("www.example."));
    EXPECT_EQ(*Name::parse("@", &origin), origin);
}

TEST(name, bad_ones_are_refused) {
    for (const std::string& text : {std::string(), std::string("a..b"), std::string(".a"), std::string("a\\"),
                                    std::string("a\\25"), std::string("a\\256."), std::string(64, 'x')})
        EXPECT_FALSE(Name::parse(text)) << text;
    std::string longest;
    for (int i = 0; i < 127; ++i) longest += "a.";
    EXPECT_TRUE(Name::parse(longest));
    EXPECT_FALSE(Name::parse(longest + "a."));
}

TEST(name, canonical_order_is_rfc_4034s) {
    // The example of RFC 4034 section 6.1.
    std::vector<Name> sorted{name("example"),           name("a.example"),      name("yljkjljk.a.example"),
                             name("Z.a.example"),       name("zABC.a.EXAMPLE"), name("z.example"),
                             name(R"(\001.z.example)"), name("*.z.example"),    name(R"(\200.z.example)")};
    auto shuffled = sorted;
    std::ranges::reverse(shuffled);
    std::ranges::sort(shuffled, [](const Name& a, const Name& b) { return a.canonical_order(b) < 0; });
    for (std::size_t i = 0; i < sorted.size(); ++i) EXPECT_EQ(shuffled[i], sorted[i]) << shuffled[i].to_text();
}

TEST(message, writes_and_reads_with_compression) {
    std::array<std::uint8_t, 512> buffer{};
    MessageWriter writer(buffer);
    ASSERT_TRUE(writer.write_header({.id = 7, .response = true, .authoritative = true, .questions = 1, .answers = 2}));
    ASSERT_TRUE(writer.write_question({name("www.example.com"), Type::MX, Class::IN}));
    std::size_t before = writer.size();
    Bytes mx = *parse_rdata(Type::MX, tokens("10 mail.example.com."), Name());
    ASSERT_TRUE(writer.write_record(name("www.example.com"), Type::MX, Class::IN, 300, mx));
    EXPECT_EQ(writer.size() - before, 2U + 10 + 2 + 5 + 2) << "owner is a pointer, mail. and a pointer";
    ASSERT_TRUE(writer.write_record(name("mail.example.com"), Type::A, Class::IN, 300,
                                    std::array<std::uint8_t, 4>{192, 0, 2, 1}));
    auto reader = MessageReader::open(writer.data());
    ASSERT_TRUE(reader);
    EXPECT_EQ(reader->header().id, 7);
    EXPECT_TRUE(reader->header().authoritative);
    auto question = reader->read_question();
    ASSERT_TRUE(question);
    EXPECT_EQ(question->name, name("www.example.com"));
    auto record = reader->read_record();
    ASSERT_TRUE(record);
    EXPECT_EQ(*rdata_from_message(*reader, *record), mx);
    record = reader->read_record();
    ASSERT_TRUE(record);
    EXPECT_EQ(record->name, name("mail.example.com"));
    EXPECT_TRUE(reader->at_end());
}

TEST(message, repeated_labels_do_not_confuse_compression) {
    std::array<std::uint8_t, 512> buffer{};
    buffer.fill(0x01);  // what an earlier answer may have left behind
    MessageWriter writer(buffer);
    ASSERT_TRUE(writer.write_header({}));
    ASSERT_TRUE(writer.write_name(name("a.a.a.a.")));
    ASSERT_TRUE(writer.write_name(name("b.a.a.")));
    auto reader = MessageReader::open(writer.data());
    std::size_t at = header_bytes;
    EXPECT_EQ(*reader->read_name(at), name("a.a.a.a."));
    EXPECT_EQ(*reader->read_name(at), name("b.a.a."));
}

TEST(message, a_full_buffer_rolls_back_to_a_whole_record) {
    std::array<std::uint8_t, 64> buffer{};
    MessageWriter writer(buffer);
    ASSERT_TRUE(writer.write_header({}));
    ASSERT_TRUE(writer.write_question({name("example.com"), Type::TXT, Class::IN}));
    std::size_t size = writer.size();
    EXPECT_FALSE(writer.write_record(name("example.com"), Type::TXT, Class::IN, 1, Bytes(60, 1)));
    EXPECT_EQ(writer.size(), size);
    EXPECT_TRUE(writer.write_record(name("example.com"), Type::A, Class::IN, 1, Bytes(4)));
}

TEST(message, hostile_names_are_refused) {
    auto read = [](std::vector<std::uint8_t> tail) {
        std::vector<std::uint8_t> packet(header_bytes);
        packet.insert(packet.end(), tail.begin(), tail.end());
        auto reader = MessageReader::open(packet);
        std::size_t at = header_bytes;
        return reader->read_name(at).has_value();
    };
    EXPECT_FALSE(read({0xC0, 12})) << "a pointer to itself";
    EXPECT_FALSE(read({1, 'a', 0xC0, 12})) << "a loop";
    EXPECT_FALSE(read({0xC0, 14, 0})) << "forwards";
    EXPECT_FALSE(read({0xC0, 4})) << "into the header";
    EXPECT_FALSE(read({5, 'a'})) << "past the end";
    EXPECT_FALSE(read({0x41, 'a', 0})) << "an extended label";
    EXPECT_FALSE(read({0xC0})) << "half a pointer";
    std::vector<std::uint8_t> longer;
    for (int i = 0; i < 128; ++i) longer.insert(longer.end(), {1, 'a'});
    longer.push_back(0);
    EXPECT_FALSE(read(longer));
    EXPECT_FALSE(MessageReader::open(std::array<std::uint8_t, 11>{}));
}

struct Presentation {
    Type type;
    const char* text;
    const char* printed = nullptr;  // nullptr: the same
};

TEST(rdata, presentation_round_trips) {
    const Presentation samples[] = {
        {Type::A, "192.0.2.1"},
        {Type::AAAA, "2001:db8::1"},
        {Type::SOA, "ns1.example. admin.example. 2024010101 1h 15m 1w 300",
         "ns1.example. admin.example. 2024010101 3600 900 604800 300"},
        {Type::MX, "10 mail.example."},
        {Type::TXT, R"("v=spf1 -all" "a\"b\\\200")"},
        {Type::SRV, "1 2 443 host.example."},
        {Type::NAPTR, R"(100 10 "u" "E2U+sip" "!^.*$!sip:info@example.com!" .)"},
        {Type::CAA, R"(0 issue "ca.example")"},
        {Type::DS, "60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118"},
        {Type::DNSKEY,
         "257 3 13 mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+KkxLbxILfDLUT0rAK9iUzy1L53eKGQ=="},
        {Type::RRSIG, "A 13 2 300 20300101000000 20240101000000 12345 example. AAECAw=="},
        {Type::NSEC, "host.example. A MX RRSIG NSEC TYPE1234"},
        {Type::NSEC3, "1 1 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojr A RRSIG"},
        {Type::NSEC3PARAM, "1 0 0 AABBCCDD"},
        {Type::TLSA, "3 1 1 ABCD"},
        {Type::SSHFP, "4 2 ABCD"},
        {Type::SVCB, R"(1 svc.example. alpn="h2,h3" port=8443 ipv4hint=192.0.2.1,192.0.2.2)"},
        {Type::HTTPS, "0 pool.example."},
        {Type::HTTPS, R"(1 . mandatory=alpn alpn="f\\\\oo\\,bar,h2" ipv6hint=2001:db8::1 key667="hello")"},
        {Type::URI, R"(10 1 "ftp://ftp.example/")"},
        {Type::LOC, "42 21 54.000 N 71 6 18.000 W -24.00m 30.00m 10000.00m 10.00m"},
        {Type::EUI48, "00-00-5e-00-53-2a"},
        {Type::EUI64, "00-00-5e-ef-10-00-00-2a"},
        {Type::L64, "10 2001:0db8:1140:1000"},
        {Type::L32, "10 10.1.2.0"},
        {Type::APL, "1:192.168.32.0/21 !1:192.168.38.0/28 2:ff00::/8"},
        {Type::CSYNC, "66 3 A NS AAAA"},
        {Type::ZONEMD, "2018031500 1 1 ABCD"},
        {static_cast<Type>(65280), "\\# 4 0A000001"},
        {Type::A, "\\# 4 0A000001", "10.0.0.1"},
    };
    for (const Presentation& sample : samples) {
        auto rdata = parse_rdata(sample.type, tokens(sample.text), Name());
        ASSERT_TRUE(rdata) << sample.text << ": " << rdata.error().describe();
        EXPECT_TRUE(rdata_is_valid(sample.type, *rdata)) << sample.text;
        EXPECT_EQ(rdata_to_text(sample.type, *rdata), sample.printed == nullptr ? sample.text : sample.printed);
    }
}

TEST(rdata, bad_presentations_are_refused) {
    const std::pair<Type, const char*> samples[] = {
        {Type::A, "192.0.2"},
        {Type::A, "192.0.2.1 x"},
        {Type::A, ""},
        {Type::AAAA, "1::2::3"},
        {Type::MX, "70000 a."},
        {Type::MX, "1"},
        {Type::TXT, ""},
        {Type::DS, "1 2 3 ABC"},
        {Type::NSEC, "a. NOTATYPE"},
        {Type::SVCB, "1 . port=99999"},
        {Type::SVCB, "1 . port=1 port=2"},
        {Type::SVCB, "1 . mandatory=alpn"},
        {Type::SVCB, "1 . what=1"},
        {Type::A, "\\# 3 0A0000"},
        {Type::A, "\\# 4 0A0000"},
        {Type::LOC, "91 N 0 E 0"},
        {Type::LOC, "1 N 0 E --1"},
        {Type::LOC, "1 N 0 E --9223372036854775807"},
        {Type::EUI48, "00-00-5e-00-53"},
        {Type::OPT, "\\# 0"},
        {Type::APL, "1:1.2.3.4/33"},
        {Type::CAA, "0 - x"},
    };
    for (const auto& [type, text] : samples)
        EXPECT_FALSE(parse_rdata(type, tokens(text), Name())) << to_string(type) << " " << text;
}

TEST(rdata, canonical_form_lowers_names_of_old_types_only) {
    Bytes mx = *parse_rdata(Type::MX, tokens("1 MAIL.Example."), Name());
    canonicalize_rdata(Type::MX, mx);
    EXPECT_EQ(rdata_to_text(Type::MX, mx), "1 mail.example.");
    Bytes nsec = *parse_rdata(Type::NSEC, tokens("Host.Example. A"), Name());
    canonicalize_rdata(Type::NSEC, nsec);
    EXPECT_EQ(rdata_to_text(Type::NSEC, nsec), "Host.Example. A") << "RFC 6840 section 5.1";
}

TEST(types, names_and_numbers) {
    EXPECT_EQ(parse_type("https"), Type::HTTPS);
    EXPECT_EQ(parse_type("TYPE65"), Type::HTTPS);
    EXPECT_EQ(to_string(static_cast<Type>(65280)), "TYPE65280");
    EXPECT_FALSE(parse_type("TYPE65536"));
    EXPECT_FALSE(parse_type("TYPE"));
    EXPECT_EQ(parse_class("class3"), Class::CH);
}

}  // namespace
}  // namespace wherry::dns
