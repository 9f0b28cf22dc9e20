#include "dns/dnssec.hpp"

#include <gtest/gtest.h>

#include "dns/master_file.hpp"
#include "dns/text_codec.hpp"

namespace wherry::dns {
namespace {

Bytes rdata(Type type, std::string_view text) {
    Bytes found;
    auto parsed = parse_master_text("x. 1 IN " + to_string(type) + " " + std::string(text), "t", {},
                                    [&](const ParsedRecord& r) -> Result<> {
                                        found.assign(r.rdata.begin(), r.rdata.end());
                                        return {};
                                    });
    EXPECT_TRUE(parsed);
    return found;
}

// RFC 6605 section 6.1 and RFC 4034 appendix B.
TEST(dnssec, key_tag_and_ds_of_the_standards_example) {
    Bytes key =
        rdata(Type::DNSKEY,
              "257 3 13 GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA==");
    EXPECT_EQ(key_tag(key), 55648);
    EXPECT_EQ(make_ds(*Name::parse("example.net."), key),
              rdata(Type::DS, "55648 13 2 b4c8c1fe2e7477127b27115656ad6256f424625bf5c1e2770ce6d6e37df61d17"));
}

// RFC 5155 appendix A.
TEST(dnssec, nsec3_hashes_of_the_standards_example) {
    constexpr std::array<std::uint8_t, 4> salt{0xaa, 0xbb, 0xcc, 0xdd};
    auto hash = [&](std::string_view name) {
        return base32hex_encode(nsec3_hash(Name::parse(name)->wire(), salt, 12));
    };
    EXPECT_EQ(hash("example."), "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom");
    EXPECT_EQ(hash("A.example."), "35mthgpgcu1qg68fab165klnsnk3dpvl");
    EXPECT_EQ(hash("*.w.example."), "r53bq7cc2uvmubfu5ocmm6pers9tk9en");
}

TEST(dnssec, neighbours_carry) {
    Nsec3Hash hash{};
    EXPECT_EQ(neighbour(neighbour(hash, -1), 1), hash);
    EXPECT_EQ(neighbour(hash, -1)[0], 255);
    hash[19] = 255;
    EXPECT_EQ(neighbour(hash, 1)[18], 1);
}

}  // namespace
}  // namespace wherry::dns
