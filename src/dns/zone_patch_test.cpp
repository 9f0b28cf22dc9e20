#include "dns/zone_patch.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "dns/text_codec.hpp"

namespace wherry::dns {
namespace {

const Name origin = *Name::parse("example.");

std::shared_ptr<const Zone> build(const std::string& text) {
    ZoneBuilder builder(origin);
    auto parsed = parse_master_text(
        text, "zone", {.origin = origin, .default_ttl = 60},
        [&](const ParsedRecord& r) -> Result<> { return builder.add(r.owner, r.type, r.ttl, r.rdata); });
    EXPECT_TRUE(parsed);
    auto zone = std::move(builder).finish();
    EXPECT_TRUE(zone);
    return *zone;
}

// Every record, in the order in which a set's go out.
std::vector<std::string> records_of(const Zone& zone) {
    std::vector<std::string> all;
    for (NodeIndex i = 0; i < zone.node_count(); ++i)
        for (std::size_t k = 0; k < zone.set_count(i); ++k) {
            std::string line;
            for (std::span<const std::uint8_t> rdata : zone.set(i, k))
                line += record_to_text(zone.name_of(i), zone.set(i, k).ttl(), Class::IN, zone.set(i, k).type(), rdata) +
                        "\n";
            all.push_back(line);
        }
    std::ranges::sort(all);
    return all;
}

// The same zone without any of its history.
std::shared_ptr<const Zone> built_anew(const Zone& zone) {
    ZoneBuilder builder(origin);
    for (NodeIndex i = 0; i < zone.node_count(); ++i)
        for (std::size_t k = 0; k < zone.set_count(i); ++k)
            for (std::span<const std::uint8_t> rdata : zone.set(i, k))
                EXPECT_TRUE(builder.add(zone.name_of(i), zone.set(i, k).type(), zone.set(i, k).ttl(), rdata));
    auto made = std::move(builder).finish();
    EXPECT_TRUE(made);
    return *made;
}

void expect_same(const Zone& a, const Zone& b, const std::vector<Name>& questions) {
    EXPECT_EQ(a.serial(), b.serial());
    EXPECT_EQ(a.record_count(), b.record_count());
    ASSERT_EQ(records_of(a), records_of(b));
    auto names = [](const Zone& zone) {
        std::vector<std::string> all;
        for (NodeIndex node : zone.canonical_order()) all.push_back(zone.name_of(node).to_text());
        return all;
    };
    ASSERT_EQ(names(a), names(b));
    for (const Name& question : questions)
        for (Type type : {Type::A, Type::TXT, Type::DS}) {
            const Lookup one = a.lookup(question, type);
            const Lookup other = b.lookup(question, type);
            ASSERT_EQ(one.kind, other.kind) << question.to_text();
            ASSERT_EQ(one.wildcard, other.wildcard) << question.to_text();
            auto text = [](const Zone& zone, NodeIndex node) {
                return node == no_node ? std::string("none") : zone.name_of(node).to_text();
            };
            ASSERT_EQ(text(a, one.node), text(b, other.node)) << question.to_text();
            ASSERT_EQ(text(a, one.closest_encloser), text(b, other.closest_encloser)) << question.to_text();
        }
}

TEST(ZonePatch, IsWhatAZoneBuiltAnewIs) {
    std::string text =
        "@ SOA ns admin 1 2 3 4 30\n@ NS ns\nns A 192.0.2.1\nsub NS ns.sub\nns.sub A 192.0.2.3\nd DNAME ns\n";
    for (int i = 0; i < 40; ++i) text += "h" + std::to_string(i) + " A 192.0.2.7\n";
    std::mt19937 random(3);
    // Few labels, so that names come, go, and lie above and below each other.
    auto random_name = [&] {
        static const char* labels[] = {"a", "b", "c", "*", "h1", "h2", "sub", "d", "x"};
        std::string name = labels[random() % 9];
        for (unsigned more = random() % 3; more > 0; --more) name += std::string(".") + labels[random() % 9];
        return *Name::parse(name + ".example.");
    };
    std::vector<Name> questions;
    for (int i = 0; i < 60; ++i) questions.push_back(random_name());
    auto zone = build(text);
    int patched = 0;
    for (std::uint32_t serial = 2; serial < 250; ++serial) {
        ZoneEditor editor(zone);
        for (unsigned change = random() % 5 + 1; change > 0; --change) {
            const Name name = random_name();
            switch (random() % 4) {
                case 0:
                case 1: {
                    const Bytes rdata{192, 0, 2, static_cast<std::uint8_t>(random() % 4)};
                    if (editor.find(name, Type::CNAME) == nullptr)
                        EXPECT_TRUE(editor.add(name, Type::A, 60 + random() % 2, rdata));
                    break;
                }
                case 2: {
                    const Bytes rdata{1, static_cast<std::uint8_t>('a' + random() % 3)};
                    if (editor.find(name, Type::CNAME) == nullptr) EXPECT_TRUE(editor.add(name, Type::TXT, 60, rdata));
                    break;
                }
                default:
                    editor.remove_set(name, Type::A);
                    if (random() % 2 == 0) editor.remove_set(name, Type::TXT);
            }
        }
        editor.set_serial(serial);
        const std::uint64_t before = zone->version();
        auto next = std::move(editor).finish();
        ASSERT_TRUE(next) << next.error().describe();
        zone = *next;
        EXPECT_GT(zone->version(), before);
        if (zone->is_patched()) ++patched;
        expect_same(*zone, *built_anew(*zone), questions);
        if (HasFatalFailure()) return;
    }
    EXPECT_GT(patched, 80);
}

TEST(ZonePatch, LeavesToTheBuilderWhatMovesCuts) {
    std::string text = "@ SOA ns admin 1 2 3 4 30\n@ NS ns\nns A 192.0.2.1\nsub NS ns.sub\nns.sub A 192.0.2.3\n";
    auto zone = build(text);
    const Name cut = *Name::parse("new.example.");
    const Name below = *Name::parse("below.new.example.");
    ZoneEditor editor(zone);
    EXPECT_TRUE(editor.add(below, Type::A, 60, Bytes{192, 0, 2, 9}));
    EXPECT_TRUE(editor.add(cut, Type::NS, 60, Bytes(below.wire().begin(), below.wire().end())));
    auto next = std::move(editor).finish();
    ASSERT_TRUE(next);
    EXPECT_FALSE((*next)->is_patched());
    EXPECT_EQ((*next)->lookup(below, Type::A).kind, Lookup::Kind::delegation);
    ZoneEditor again(*next);
    EXPECT_TRUE(again.remove_set(cut, Type::NS));
    auto last = std::move(again).finish();
    ASSERT_TRUE(last);
    EXPECT_EQ((*last)->lookup(below, Type::A).kind, Lookup::Kind::records);
}

}  // namespace
}  // namespace wherry::dns
