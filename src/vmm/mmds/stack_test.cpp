// The metadata service's network, talked to by a hand-made TCP client.
#include "vmm/mmds/stack.hpp"

#include <gtest/gtest.h>

#include <cstring>

namespace wherry::vmm::mmds {
namespace {

std::vector<std::byte> frame_of(std::uint32_t sequence, std::uint32_t acknowledgement, std::uint8_t flags,
                                std::string_view payload, std::uint16_t port = 80) {
    std::vector<std::byte> out(54 + payload.size());
    const auto put = [&](std::size_t at, std::uint64_t value, unsigned bytes) {
        for (unsigned i = 0; i < bytes; ++i) out[at + i] = static_cast<std::byte>(value >> (8 * (bytes - 1 - i)));
    };
    put(0, 0x060123456701, 6);
    put(6, 0x0600ac100002, 6);
    put(12, 0x0800, 2);
    put(14, 0x45, 1);
    put(16, 40 + payload.size(), 2);
    put(23, 6, 1);
    put(26, 0xac100002, 4);
    put(30, 0xa9fea9fe, 4);
    put(34, 40000, 2);
    put(36, port, 2);
    put(38, sequence, 4);
    put(42, acknowledgement, 4);
    put(46, 0x50, 1);
    put(47, flags, 1);
    put(48, 65535, 2);
    std::memcpy(out.data() + 54, payload.data(), payload.size());
    return out;
}

struct Got {
    std::uint32_t sequence = 0, acknowledgement = 0;
    std::uint8_t flags = 0;
    std::string payload;
};

Got parse(const std::vector<std::byte>& frame) {
    const auto get = [&](std::size_t at) {
        std::uint32_t value = 0;
        for (int i = 0; i < 4; ++i)
            value = (value << 8U) | std::to_integer<std::uint32_t>(frame[at + static_cast<std::size_t>(i)]);
        return value;
    };
    Got got{.sequence = get(38),
            .acknowledgement = get(42),
            .flags = std::to_integer<std::uint8_t>(frame[47]),
            .payload = {}};
    const std::size_t header = 34 + (std::to_integer<std::size_t>(frame[46]) >> 4U) * 4;
    for (std::size_t i = header; i < frame.size(); ++i) got.payload += static_cast<char>(frame[i]);
    return got;
}

class StackTest : public ::testing::Test {
  protected:
    void SetUp() override { ASSERT_TRUE(service->put(json::object{{"a", json::object{{"b", "value"}}}})); }
    Got next() {
        EXPECT_TRUE(stack.has_output());
        return parse(stack.take_output());
    }
    // SYN, SYN and ACK, ACK; our next sequence is 1001.
    std::uint32_t connect() {
        stack.receive(frame_of(1000, 0, 2, ""), now);
        const Got answer = next();
        EXPECT_EQ(answer.flags, 0x12);
        EXPECT_EQ(answer.acknowledgement, 1001U);
        stack.receive(frame_of(1001, answer.sequence + 1, 0x10, ""), now);
        return answer.sequence + 1;
    }
    std::shared_ptr<Service> service = std::make_shared<Service>(51200);
    Stack stack{service};
    std::int64_t now = 1'000'000'000;
};

TEST_F(StackTest, AnswersARequestInPieces) {
    const std::uint32_t theirs = connect();
    stack.receive(frame_of(1001, theirs, 0x18, "GET /a/b HT"), now);
    EXPECT_EQ(next().acknowledgement, 1012U);
    EXPECT_FALSE(stack.has_output());
    stack.receive(frame_of(1012, theirs, 0x18, "TP/1.1\r\n\r\n"), now);
    const Got answer = next();
    EXPECT_EQ(answer.sequence, theirs);
    EXPECT_TRUE(answer.payload.starts_with("HTTP/1.1 200 OK\r\n")) << answer.payload;
    EXPECT_TRUE(answer.payload.ends_with("\r\n\r\nvalue")) << answer.payload;
    // Not acknowledged: it comes again.
    EXPECT_FALSE(stack.has_output());
    now += 2'000'000'000;
    stack.tick(now);
    EXPECT_EQ(next().payload, answer.payload);
    const auto all = static_cast<std::uint32_t>(theirs + answer.payload.size());
    stack.receive(frame_of(1022, all, 0x11, ""), now);  // FIN
    const Got end = next();
    EXPECT_EQ(end.flags & 1, 1);
    EXPECT_EQ(end.acknowledgement, 1023U);
    stack.receive(frame_of(1023, all + 1, 0x10, ""), now);
    EXPECT_FALSE(stack.next_timeout(now));  // nothing is left
    EXPECT_EQ(service->metrics.connections_destroyed.total(), 1U);
}

TEST_F(StackTest, LaterSegmentsAreNotTakenOutOfOrder) {
    const std::uint32_t theirs = connect();
    stack.receive(frame_of(1010, theirs, 0x18, "later"), now);
    EXPECT_EQ(next().acknowledgement, 1001U);
}

TEST_F(StackTest, RefusesOtherPortsAndStrangers) {
    stack.receive(frame_of(1, 0, 2, "", 81), now);
    EXPECT_EQ(next().flags, 0x14);
    stack.receive(frame_of(1, 77, 0x10, ""), now);
    const Got reset = next();
    EXPECT_EQ(reset.flags, 4);
    EXPECT_EQ(reset.sequence, 77U);
}

TEST_F(StackTest, AnswersArp) {
    std::vector<std::byte> request(42);
    const std::uint8_t bytes[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 6, 0, 0xac, 0x10, 0,    2,    8,   6,
                                  0,    1,    8,    0,    6,    4,    0, 1, 6,    0,    0xac, 0x10, 0,   2,
                                  0xac, 0x10, 0,    2,    0,    0,    0, 0, 0,    0,    169,  254,  169, 254};
    std::memcpy(request.data(), bytes, sizeof bytes);
    ASSERT_TRUE(stack.wants(request));
    stack.receive(request, now);
    const auto answer = stack.take_output();
    ASSERT_EQ(answer.size(), 42U);
    EXPECT_EQ(answer[21], std::byte{2});
    EXPECT_EQ(answer[28], std::byte{169});
    request[41] = std::byte{253};
    EXPECT_FALSE(stack.wants(request));
}

TEST_F(StackTest, KeepsFewConnections) {
    for (std::uint32_t i = 0; i < 200; ++i) {
        auto syn = frame_of(i, 0, 2, "");
        syn[35] = static_cast<std::byte>(i);
        stack.receive(syn, now + i);
    }
    EXPECT_EQ(service->metrics.connections_created.total() - service->metrics.connections_destroyed.total(),
              Stack::most_connections);
}

TEST(Service, TokensAndFormats) {
    Service service(51200);
    ASSERT_TRUE(service.put(json::object{{"x", json::object{{"y", "z"}}}, {"n", 5}, {"l", json::array{"one"}}}));
    const auto get = [&](std::string path, std::vector<std::pair<std::string, std::string>> headers) {
        return service.respond(
            {.method = "GET", .target = std::move(path), .keep_alive = true, .headers = std::move(headers), .body = {}},
            0);
    };
    EXPECT_EQ(get("/", {}).body, "x/\nn\nl");
    EXPECT_EQ(get("/x/y", {}).body, "z");
    EXPECT_EQ(get("/l/0", {}).body, "one");
    EXPECT_EQ(get("/l/1", {}).status, 404);
    EXPECT_EQ(get("/n", {}).status, 501);
    EXPECT_EQ(get("/n", {{"accept", "application/json"}}).body, "5");
    service.configure(Version::v2, {169, 254, 169, 254}, false);
    EXPECT_EQ(get("/x/y", {}).status, 401);
    const auto put = [&](std::vector<std::pair<std::string, std::string>> headers) {
        return service.respond({.method = "PUT",
                                .target = "/latest/api/token",
                                .keep_alive = true,
                                .headers = std::move(headers),
                                .body = {}},
                               0);
    };
    EXPECT_EQ(put({}).status, 400);
    EXPECT_EQ(put({{"x-metadata-token-ttl-seconds", "0"}}).status, 400);
    EXPECT_EQ(put({{"x-metadata-token-ttl-seconds", "21601"}}).status, 400);
    EXPECT_EQ(put({{"x-metadata-token-ttl-seconds", "60"}, {"x-forwarded-for", "a"}}).status, 400);
    const auto token = put({{"x-metadata-token-ttl-seconds", "60"}});
    ASSERT_EQ(token.status, 200);
    EXPECT_EQ(get("/x/y", {{"x-metadata-token", token.body}}).body, "z");
    EXPECT_EQ(get("/x/y", {{"x-metadata-token", "other"}}).status, 401);
    const auto later = service.respond({.method = "GET",
                                        .target = "/x/y",
                                        .keep_alive = true,
                                        .headers = {{"x-metadata-token", token.body}},
                                        .body = {}},
                                       61'000'000'000);
    EXPECT_EQ(later.status, 401);
    EXPECT_EQ(
        service.respond({.method = "POST", .target = "/", .keep_alive = true, .headers = {}, .body = {}}, 0).status,
        405);
}

TEST(Service, PatchesAndLimits) {
    Service service(64);
    EXPECT_FALSE(service.patch(json::object{{"a", 1}}));
    ASSERT_TRUE(service.put(json::object{{"a", json::object{{"b", 1}, {"c", 2}}}}));
    ASSERT_TRUE(service.patch(json::object{{"a", json::object{{"b", nullptr}, {"d", 3}}}}));
    EXPECT_EQ(to_json(service.get()), R"({"a":{"c":2,"d":3}})");
    auto large = service.patch(json::object{{"a", std::string(100, 'x')}});
    ASSERT_FALSE(large);
    EXPECT_EQ(large.error().code(), Code::resource_exhausted);
    EXPECT_EQ(to_json(service.get()), R"({"a":{"c":2,"d":3}})");
}

}  // namespace
}  // namespace wherry::vmm::mmds
