#include "dns/zone.hpp"

#include <gtest/gtest.h>

#include "dns/message.hpp"

namespace wherry::dns {
namespace {

using Kind = Lookup::Kind;

Result<std::shared_ptr<const Zone>> build(std::string_view text) {
    Name origin = *Name::parse("example.");
    ZoneBuilder builder(origin);
    TRY(parse_master_text(text, "zone", {.origin = origin, .default_ttl = 60}, [&](const ParsedRecord& r) -> Result<> {
        return builder.add(r.owner, r.type, r.ttl, r.rdata);
    }));
    return std::move(builder).finish();
}

constexpr std::string_view apex = "@ SOA ns admin 7 2 3 4 30\n@ NS ns\n";

TEST(zone, what_each_name_is) {
    auto built = build(std::string(apex) +
                       "ns A 192.0.2.1\n"
                       "a.b.c TXT x\n"  // b.c and c are empty non-terminals
                       "*.wild A 192.0.2.2\n"
                       "real.wild TXT x\n"
                       "sub NS ns.sub\nns.sub A 192.0.2.3\nsub DS 1 13 2 AB\n"
                       "alias CNAME ns\n"
                       "d DNAME elsewhere.test.\nd TXT x\n"
                       "*.cname.wild CNAME ns\n");
    ASSERT_TRUE(built) << built.error().describe();
    const Zone& zone = **built;
    EXPECT_EQ(zone.serial(), 7U);
    EXPECT_EQ(zone.negative_ttl(), 30U);
    auto kind = [&](std::string_view name, Type type) { return zone.lookup(*Name::parse(name), type).kind; };
    EXPECT_EQ(kind("NS.example.", Type::A), Kind::records);
    EXPECT_EQ(kind("ns.example.", Type::AAAA), Kind::no_data);
    EXPECT_EQ(kind("c.example.", Type::A), Kind::no_data);
    EXPECT_EQ(kind("b.c.example.", Type::A), Kind::no_data);
    EXPECT_EQ(kind("x.b.c.example.", Type::A), Kind::no_name);
    EXPECT_EQ(kind("nothing.example.", Type::A), Kind::no_name);
    EXPECT_EQ(kind("any.wild.example.", Type::A), Kind::records);
    EXPECT_TRUE(zone.lookup(*Name::parse("any.wild.example."), Type::A).wildcard);
    EXPECT_EQ(kind("x.y.wild.example.", Type::A), Kind::records) << "a wildcard covers several labels";
    EXPECT_EQ(kind("real.wild.example.", Type::A), Kind::no_data) << "an existing name is not covered (RFC 4592)";
    EXPECT_EQ(kind("x.real.wild.example.", Type::A), Kind::no_name) << "nor are names below it";
    EXPECT_EQ(kind("x.cname.wild.example.", Type::A), Kind::alias);
    EXPECT_EQ(kind("sub.example.", Type::A), Kind::delegation);
    EXPECT_EQ(kind("sub.example.", Type::DS), Kind::records);
    EXPECT_EQ(kind("ns.sub.example.", Type::A), Kind::delegation);
    EXPECT_EQ(kind("x.y.sub.example.", Type::DS), Kind::delegation);
    EXPECT_EQ(kind("alias.example.", Type::A), Kind::alias);
    EXPECT_EQ(kind("alias.example.", Type::CNAME), Kind::records);
    EXPECT_EQ(kind("d.example.", Type::TXT), Kind::records) << "DNAME is for names below";
    EXPECT_EQ(kind("x.d.example.", Type::A), Kind::redirect);
    EXPECT_EQ(kind("example.", Type::SOA), Kind::records);
    EXPECT_TRUE(zone.is_glue(zone.find(*Name::parse("ns.sub.example."))));
    EXPECT_FALSE(zone.is_glue(zone.find(*Name::parse("sub.example."))));
}

TEST(zone, sets_are_sorted_and_without_doubles) {
    auto built = build(std::string(apex) + "a 50 A 192.0.2.2\na 40 A 192.0.2.1\na 60 A 192.0.2.2\n");
    ASSERT_TRUE(built);
    auto set = (*built)->records((*built)->find(*Name::parse("a.example.")), Type::A);
    ASSERT_TRUE(set);
    EXPECT_EQ(set->size(), 2U);
    EXPECT_EQ(set->ttl(), 40U);
    EXPECT_EQ((*set->begin())[3], 1);
}

TEST(zone, bad_zones_are_refused) {
    for (const char* bad : {"@ NS ns\n", "@ SOA a b 1 2 3 4 5\n", "a CNAME b\na TXT x\n", "a CNAME b\na CNAME c\n",
                            "a SOA a b 1 2 3 4 5\n", "other.test. A 192.0.2.1\n"}) {
        bool whole = std::string_view(bad).starts_with("@");
        EXPECT_FALSE(build(whole ? std::string(bad) : std::string(apex) + bad)) << bad;
    }
}

TEST(zone, many_names_are_all_found) {
    ZoneBuilder builder(*Name::parse("example."));
    Bytes soa = *parse_rdata(Type::SOA,
                             std::array{Token{"ns", false}, Token{"a", false}, Token{"1", false}, Token{"1", false},
                                        Token{"1", false}, Token{"1", false}, Token{"1", false}},
                             Name());
    Bytes ns = *parse_rdata(Type::NS, std::array{Token{"ns.example.", false}}, Name());
    ASSERT_TRUE(builder.add(*Name::parse("example."), Type::SOA, 1, soa));
    ASSERT_TRUE(builder.add(*Name::parse("example."), Type::NS, 1, ns));
    for (std::uint32_t i = 0; i < 20000; ++i) {
        std::array<std::uint8_t, 4> address{};
        store_u32(address.data(), i);
        ASSERT_TRUE(
            builder.add(*Name::parse("Host-" + std::to_string(i) + ".part" + std::to_string(i % 7) + ".example."),
                        Type::A, 1, address));
    }
    auto zone = std::move(builder).finish();
    ASSERT_TRUE(zone);
    for (std::uint32_t i = 0; i < 20000; ++i) {
        auto found = (*zone)->lookup(
            *Name::parse("hOST-" + std::to_string(i) + ".PART" + std::to_string(i % 7) + ".example."), Type::A);
        ASSERT_EQ(found.kind, Kind::records) << i;
        ASSERT_EQ(load_u32((*(*zone)->records(found.node, Type::A)->begin()).data()), i);
    }
    EXPECT_EQ((*zone)->canonical_order().size(), (*zone)->node_count());
}

}  // namespace
}  // namespace wherry::dns
