#include "api/containerd/wire.hpp"

#include <gtest/gtest.h>

#include "api/containerd/messages.hpp"

namespace wherry::api::containerd {
namespace {

std::string bytes_of(std::initializer_list<int> values) {
    std::string out;
    for (int value : values) out += static_cast<char>(value);
    return out;
}

TEST(Wire, EncodesTheSpecificationsExamples) {
    // https://protobuf.dev/programming-guides/encoding/: field 1 is 150; field 2 is "testing".
    WireWriter writer;
    writer.varint(1, 150);
    writer.bytes(2, "testing");
    EXPECT_EQ(writer.take(), bytes_of({0x08, 0x96, 0x01, 0x12, 0x07}) + "testing");
}

TEST(Wire, MessagesComeBackAsTheyWere) {
    CreateTaskRequest request;
    request.id = "c1";
    request.bundle = "/b";
    request.rootfs.push_back({"overlay", "overlay", "", {"lowerdir=/a:/b", "index=off"}});
    request.rootfs.push_back({"bind", "/x", "", {}});
    request.terminal = true;
    request.stdin_path = "/fifo";
    request.options = Any{"type", std::string("\0\x01", 2)};
    auto again = decode<CreateTaskRequest>(encode(request));
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(again->id, "c1");
    ASSERT_EQ(again->rootfs.size(), 2U);
    EXPECT_EQ(again->rootfs[0].options, (std::vector<std::string>{"lowerdir=/a:/b", "index=off"}));
    EXPECT_EQ(again->rootfs[1].source, "/x");
    EXPECT_TRUE(again->terminal);
    ASSERT_TRUE(again->options.has_value());
    EXPECT_EQ(again->options.value_or(Any{}).value, std::string("\0\x01", 2));
}

TEST(Wire, CheckpointOptionsHaveTheirNumbers) {
    CheckpointOptions options;
    options.exit = options.open_tcp = options.external_unix_sockets = options.terminal = options.file_locks = true;
    options.empty_namespaces = {"network"};
    options.cgroups_mode = "full";
    options.image_path = "/i";
    options.work_path = "/w";
    std::string bytes = encode(options);
    EXPECT_EQ(bytes, bytes_of({0x08, 1, 0x10, 1, 0x18, 1, 0x20, 1, 0x28, 1, 0x32, 7}) + "network" +
                         bytes_of({0x3A, 4}) + "full" + bytes_of({0x42, 2}) + "/i" + bytes_of({0x4A, 2}) + "/w");
    auto again = decode<CheckpointOptions>(bytes);
    ASSERT_TRUE(again.has_value());
    EXPECT_TRUE(again->exit && again->open_tcp && again->external_unix_sockets && again->terminal && again->file_locks);
    EXPECT_EQ(again->empty_namespaces, options.empty_namespaces);
    EXPECT_EQ(again->cgroups_mode, "full");
    EXPECT_EQ(again->image_path, "/i");
    EXPECT_EQ(again->work_path, "/w");
    EXPECT_EQ(encode(TaskCheckpointed{"c", {}}), bytes_of({0x0A, 1, 'c'}));
}

TEST(Wire, DefaultsAreNotWritten) {
    EXPECT_EQ(encode(KillRequest{}), "");
    EXPECT_EQ(encode(DeleteResponse{}), "");
}

TEST(Wire, NegativeNumbersTakeTenBytes) {
    Timestamp zero = timestamp_of(WallTime{});
    std::string bytes = encode(zero);
    EXPECT_EQ(bytes.size(), 11U);
    auto again = decode<Timestamp>(bytes);
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(again->seconds, -62'135'596'800);
}

TEST(Wire, TimesBeforeTheEpochHavePositiveNanoseconds) {
    Timestamp time = timestamp_of(WallTime(Nanoseconds(-1)));
    EXPECT_EQ(time.seconds, -1);
    EXPECT_EQ(time.nanos, 999'999'999);
}

TEST(Wire, MapsAndUnknownFields) {
    UpdateTaskRequest request;
    request.annotations = {{"a", "1"}, {"b", ""}};
    WireWriter unknown;
    unknown.varint(99, 7);
    unknown.bytes(100, "later");
    auto again = decode<UpdateTaskRequest>(unknown.take() + encode(request) + bytes_of({0xA5, 0x06, 1, 2, 3, 4}));
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(again->annotations, request.annotations);
}

TEST(Wire, TheLastOfAScalarCounts) {
    auto kill = decode<KillRequest>(bytes_of({0x18, 9, 0x18, 15}));
    ASSERT_TRUE(kill.has_value());
    EXPECT_EQ(kill->signal, 15U);
}

TEST(Wire, WhatIsMalformedIsRefused) {
    for (const std::string& bad : {
             bytes_of({0x08}),                                                       // number missing
             bytes_of({0x0A, 0x05, 'a'}),                                            // text cut
             bytes_of({0x0B}),                                                       // a group
             bytes_of({0x0F}),                                                       // no such type
             bytes_of({0x00, 0x01}),                                                 // field 0
             bytes_of({0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2}),       // over 64 bits
             bytes_of({0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1}),  // over ten bytes
             bytes_of({0x08, 0x01}),                                                 // the id is no number
             bytes_of({0x1A, 0x00}),                                                 // the signal is no text
             bytes_of({0x0D, 1, 2}),                                                 // fixed32 cut
             bytes_of({0x09, 1, 2, 3, 4, 5, 6, 7}),                                  // fixed64 cut
         }) {
        auto kill = decode<KillRequest>(bad);
        ASSERT_FALSE(kill.has_value());
        EXPECT_EQ(kill.error().code(), Code::invalid_argument);
    }
}

TEST(Wire, RepeatedFieldsAreBounded) {
    std::string many;
    for (std::size_t i = 0; i <= max_elements; ++i) many += bytes_of({0x22, 0x00});
    auto mount = decode<Mount>(many);
    ASSERT_FALSE(mount.has_value());
    EXPECT_EQ(mount.error().code(), Code::resource_exhausted);
}

}  // namespace
}  // namespace wherry::api::containerd
