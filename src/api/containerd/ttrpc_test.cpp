#include "api/containerd/ttrpc.hpp"

#include <gtest/gtest.h>

namespace wherry::api::containerd {
namespace {

TEST(Ttrpc, FramesOutOfSingleBytes) {
    std::string bytes = encode_frame(TtrpcType::request, 7, "hello") + encode_frame(TtrpcType::response, 9, "");
    EXPECT_EQ(bytes.substr(0, ttrpc_header_bytes), std::string("\0\0\0\5\0\0\0\7\1\0", 10));
    TtrpcDecoder decoder;
    std::vector<TtrpcFrame> frames;
    for (char byte : bytes) {
        decoder.feed({&byte, 1});
        auto frame = decoder.next();
        ASSERT_TRUE(frame.has_value());
        if (*frame) frames.push_back(std::move(**frame));
    }
    ASSERT_EQ(frames.size(), 2U);
    EXPECT_EQ(frames[0].stream, 7U);
    EXPECT_EQ(frames[0].payload, "hello");
    EXPECT_EQ(frames[1].type, 2);
}

TEST(Ttrpc, ManyFramesOfOneRead) {
    std::string bytes;
    for (std::uint32_t i = 0; i < 1000; ++i)
        bytes += encode_frame(TtrpcType::request, 2 * i + 1, std::string(i % 300, 'x'));
    TtrpcDecoder decoder;
    decoder.feed(bytes);
    for (std::uint32_t i = 0; i < 1000; ++i) {
        auto frame = decoder.next();
        ASSERT_TRUE(frame.has_value() && frame->has_value());
        EXPECT_EQ((*frame)->stream, 2 * i + 1);
        EXPECT_EQ((*frame)->payload.size(), i % 300);
    }
}

TEST(Ttrpc, AHugeMessageIsRefusedByItsHeaderAlone) {
    TtrpcDecoder decoder;
    decoder.feed(std::string("\x00\x40\x00\x01\0\0\0\1\1\0", 10));
    auto frame = decoder.next();
    ASSERT_FALSE(frame.has_value());
    EXPECT_EQ(frame.error().code(), Code::resource_exhausted);
}

TEST(Ttrpc, AnswersCarryValueOrStatus) {
    TtrpcDecoder decoder;
    decoder.feed(encode_response(3, std::string("value")));
    decoder.feed(encode_response(5, fail(Code::not_found, "no such thing")));
    auto good = decoder.next();
    auto bad = decoder.next();
    ASSERT_TRUE(good.has_value() && good->has_value() && bad.has_value() && bad->has_value());
    auto value = decode<TtrpcResponse>((*good)->payload);
    auto error = decode<TtrpcResponse>((*bad)->payload);
    ASSERT_TRUE(value.has_value() && error.has_value());
    EXPECT_FALSE(value->status.has_value());
    EXPECT_EQ(value->payload, "value");
    EXPECT_EQ(error->status.value_or(TtrpcStatus{}).code, 5);
    EXPECT_EQ(error->status.value_or(TtrpcStatus{}).message, "no such thing");
}

TEST(Ttrpc, CodesAreGrpcs) {
    EXPECT_EQ(grpc_code(Code::internal), 2);
    EXPECT_EQ(grpc_code(Code::invalid_argument), 3);
    EXPECT_EQ(grpc_code(Code::not_found), 5);
    EXPECT_EQ(grpc_code(Code::already_exists), 6);
    EXPECT_EQ(grpc_code(Code::conflict), 9);
    EXPECT_EQ(grpc_code(Code::unimplemented), 12);
    EXPECT_EQ(grpc_code(Code::unavailable), 14);
}

}  // namespace
}  // namespace wherry::api::containerd
