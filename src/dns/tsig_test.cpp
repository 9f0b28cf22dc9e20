#include "dns/tsig.hpp"

#include <gtest/gtest.h>

namespace wherry::dns {
namespace {

TEST(tsig, a_signed_message_is_authentic_and_an_altered_one_is_not) {
    KeyRing ring;
    ASSERT_TRUE(ring.add({.name = *Name::parse("k."), .algorithm = TsigAlgorithm::hmac_sha512, .secret = {1, 2, 3}}));
    EXPECT_FALSE(ring.add({.name = *Name::parse("K."), .secret = {1}}));
    auto key = ring.find(*Name::parse("K."));
    ASSERT_TRUE(key);
    std::vector<std::uint8_t> packet(512);
    MessageWriter writer(packet);
    ASSERT_TRUE(writer.write_header({.id = 9, .questions = 1}));
    ASSERT_TRUE(writer.write_question({*Name::parse("www.example."), Type::A, Class::IN}));
    Bytes mac;
    std::size_t size = tsig_sign({.key = *key, .now = 5000}, packet, writer.size(), &mac);
    ASSERT_EQ(size, writer.size() + tsig_room(*key) - 6);  // the room of a server's time is kept for BADTIME
    auto check = [&](std::uint64_t now, std::span<const std::uint8_t> prior = {}) {
        auto reader = MessageReader::open(std::span(packet).first(size));
        EXPECT_TRUE(reader->read_question());
        auto record = reader->read_record();
        EXPECT_TRUE(record);
        return tsig_verify(ring, std::span(packet).first(size), *record, {.now = now, .prior_mac = prior});
    };
    EXPECT_EQ(check(5000).error, 0);
    EXPECT_EQ(check(5300).error, 0);
    EXPECT_EQ(check(5301).error, static_cast<std::uint16_t>(Rcode::BADTIME));
    EXPECT_EQ(check(4699).error, static_cast<std::uint16_t>(Rcode::BADTIME));
    EXPECT_EQ(check(5000, mac).error, static_cast<std::uint16_t>(Rcode::BADSIG));
    packet[0] ^= 1U;  // the id in the record is the one that was signed
    EXPECT_EQ(check(5000).error, 0);
    packet[14] ^= 1U;
    EXPECT_EQ(check(5000).error, static_cast<std::uint16_t>(Rcode::BADSIG));
}

}  // namespace
}  // namespace wherry::dns
