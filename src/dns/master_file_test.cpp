#include "dns/master_file.hpp"

#include <gtest/gtest.h>

namespace wherry::dns {
namespace {

Result<std::vector<std::string>> parse(std::string_view text,
                                       const MasterFileOptions& options = {.origin = *Name::parse("example.")}) {
    std::vector<std::string> lines;
    TRY(parse_master_text(text, "test", options, [&](const ParsedRecord& r) -> Result<> {
        lines.push_back(record_to_text(r.owner, r.ttl, r.dns_class, r.type, r.rdata));
        return {};
    }));
    return lines;
}

std::string error_of(std::string_view text) {
    auto result = parse(text);
    return result ? "no error" : result.error().describe();
}

TEST(master_file, the_whole_syntax) {
    auto lines = parse(R"zone($TTL 1h
@ IN SOA ns admin ( 1 ; serial
     7200 3600
     1209600 300 )
   NS ns
ns 60 IN A 192.0.2.1
   IN 120 AAAA 2001:db8::1
$ORIGIN sub.example.
www CNAME @
"quoted" TXT "a;b" c\;d "()"
outside.test. A 192.0.2.9
svc HTTPS 1 . alpn="h2,h3" port=443
)zone");
    ASSERT_TRUE(lines) << lines.error().describe();
    EXPECT_EQ(*lines, (std::vector<std::string>{
                          "example.\t3600\tIN\tSOA\tns.example. admin.example. 1 7200 3600 1209600 300",
                          "example.\t3600\tIN\tNS\tns.example.",
                          "ns.example.\t60\tIN\tA\t192.0.2.1",
                          "ns.example.\t120\tIN\tAAAA\t2001:db8::1",
                          "www.sub.example.\t3600\tIN\tCNAME\tsub.example.",
                          "quoted.sub.example.\t3600\tIN\tTXT\t\"a;b\" \"c;d\" \"()\"",
                          "outside.test.\t3600\tIN\tA\t192.0.2.9",
                          "svc.sub.example.\t3600\tIN\tHTTPS\t1 . alpn=\"h2,h3\" port=443",
                      }));
}

TEST(master_file, generate) {
    auto lines = parse("$GENERATE 8-12/2 host-${0,3,d} 300 A 192.0.2.$\n$GENERATE 1-1 a TXT \\$5\n",
                       {.origin = *Name::parse("example."), .default_ttl = 5});
    ASSERT_TRUE(lines) << lines.error().describe();
    EXPECT_EQ(*lines, (std::vector<std::string>{
                          "host-008.example.\t300\tIN\tA\t192.0.2.8", "host-010.example.\t300\tIN\tA\t192.0.2.10",
                          "host-012.example.\t300\tIN\tA\t192.0.2.12", "a.example.\t300\tIN\tTXT\t\"$5\""}));
}

TEST(master_file, errors_name_the_line) {
    EXPECT_EQ(error_of("$TTL 5\nok A 192.0.2.1\nwww A 192.0.2\n"), "test:3: A: \"192.0.2\" is not an IPv4 address");
    EXPECT_EQ(error_of("www A 192.0.2.1\n"), "test:1: record has no TTL, and there is no $TTL before it");
    EXPECT_EQ(error_of("$TTL 5\na TXT \"x\ny\"\n"), "test:2: a quoted string does not end on its line");
    EXPECT_EQ(error_of("a 5 SOA ( a b 1 2 3\n"), "test:2: \"(\" without \")\"");
    EXPECT_EQ(error_of("a )\n"), "test:1: \")\" without \"(\"");
    EXPECT_EQ(error_of(" A 192.0.2.1\n"), "test:1: the first record has no owner");
    EXPECT_EQ(error_of("a 5 NOTYPE x\n"), "test:1: \"NOTYPE\" is not a record type");
    EXPECT_EQ(error_of("$INCLUDE /etc/passwd\n"), "test:1: $INCLUDE is not allowed here");
    EXPECT_EQ(error_of("$GENERATE 1-2000000 a 5 A 192.0.2.1\n"), "test:1: $GENERATE makes no or too many records");
}

}  // namespace
}  // namespace wherry::dns
