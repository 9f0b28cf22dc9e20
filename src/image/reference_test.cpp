#include "image/reference.hpp"

#include <gtest/gtest.h>

namespace wherry::image {
namespace {

const std::string hex64(64, 'a');

std::string canonical(std::string_view text) {
    auto reference = parse_reference(text);
    return reference ? reference->canonical() : "error: " + reference.error().message();
}

TEST(Reference, FillsInDockersDefaults) {
    EXPECT_EQ(canonical("busybox"), "docker.io/library/busybox:latest");
    EXPECT_EQ(canonical("busybox:1.36"), "docker.io/library/busybox:1.36");
    EXPECT_EQ(canonical("user/app"), "docker.io/user/app:latest");
    EXPECT_EQ(canonical("index.docker.io/user/app"), "docker.io/user/app:latest");
    EXPECT_EQ(canonical("docker.io/busybox"), "docker.io/library/busybox:latest");
    EXPECT_EQ(canonical("localhost/app"), "localhost/app:latest");
    EXPECT_EQ(canonical("localhost:5000/a/b:t"), "localhost:5000/a/b:t");
    EXPECT_EQ(canonical("[::1]:5000/a"), "[::1]:5000/a:latest");
    EXPECT_EQ(canonical("Host/app"), "Host/app:latest");
    EXPECT_EQ(canonical("a@sha256:" + hex64), "docker.io/library/a@sha256:" + hex64);
    EXPECT_EQ(canonical("a:t@sha256:" + hex64), "docker.io/library/a:t@sha256:" + hex64);
    EXPECT_EQ(parse_reference("busybox", DefaultTag::none)->canonical(), "docker.io/library/busybox");
}

TEST(Reference, ShowsFamiliarNames) {
    EXPECT_EQ(parse_reference("busybox")->familiar(), "busybox:latest");
    EXPECT_EQ(parse_reference("docker.io/user/app:1")->familiar(), "user/app:1");
    EXPECT_EQ(parse_reference("quay.io/library/x")->familiar(), "quay.io/library/x:latest");
    EXPECT_EQ(parse_reference("docker.io/library/a/b")->familiar_name(), "library/a/b");
}

TEST(Reference, RefusesWithDockersWords) {
    for (const char* bad :
         {"",   ":tag", "a:",         "a:-t", "-a",         "a-", "a..b",  "a___b",       "a/",
          "/a", "a//b", "a b",        "a@",   "a@b",        "ä",  "a:b:c", "https://a/b", "a/b@sha256:xyz",
          "_a", "a:\n", "host_x.y/a", ".a/b", "a@sha512:00"}) {
        EXPECT_FALSE(parse_reference(bad)) << bad;
    }
    EXPECT_EQ(parse_reference("a..b").error().message(), "invalid reference format");
    EXPECT_NE(parse_reference("BusyBox").error().message().find("must be lowercase"), std::string::npos);
    EXPECT_NE(parse_reference(hex64).error().message().find("cannot specify 64-byte hexadecimal strings"),
              std::string::npos);
    EXPECT_EQ(parse_reference("a@sha256:00").error().message(), "invalid checksum digest length");
    EXPECT_FALSE(parse_reference("a:" + std::string(129, 't')));
    EXPECT_TRUE(parse_reference("a:" + std::string(128, 't')));
    EXPECT_FALSE(parse_reference(std::string(256, 'a')));
    EXPECT_TRUE(parse_reference("a--b/c__d.e_f"));
}

TEST(Reference, KnowsIds) {
    EXPECT_TRUE(is_full_image_id(hex64));
    EXPECT_TRUE(is_full_image_id("sha256:" + hex64));
    EXPECT_FALSE(is_full_image_id("sha256:" + hex64 + "a"));
    EXPECT_TRUE(may_be_image_id_prefix("deadbeef"));
    EXPECT_TRUE(may_be_image_id_prefix("sha256:dead"));
    EXPECT_FALSE(may_be_image_id_prefix("busybox"));
    EXPECT_FALSE(may_be_image_id_prefix("sha256:"));
    EXPECT_EQ(normalize_image_id(hex64), "sha256:" + hex64);
    EXPECT_TRUE(check_tag("v1.0"));
    EXPECT_FALSE(check_tag("v 1"));
}

}  // namespace
}  // namespace wherry::image
