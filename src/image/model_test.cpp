#include "image/model.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace wherry::image {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::string digest = "sha256:" + std::string(64, 'a');

TEST(ImageConfig, ReadsWhatDockerWrites) {
    auto image =
        parse_image_config(R"({"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05Z","author":"me",
        "config":{"Env":["PATH=/bin"],"Cmd":["sh"],"Entrypoint":null,"ExposedPorts":{"80/tcp":{}},"Volumes":{"/data":{}},
        "Labels":{"a":"b"},"User":"1000","WorkingDir":"/srv","StopSignal":"SIGINT","Shell":["/bin/bash","-c"],"OnBuild":["RUN x"],
        "Healthcheck":{"Test":["CMD","true"],"Interval":1000000000,"Retries":3},"ArgsEscaped":true,"Hostname":"ignored"},
        "rootfs":{"type":"layers","diff_ids":[")" +
                           digest + R"("]},
        "history":[{"created_by":"ADD x","created":"2024-01-02T03:04:05Z"},{"created_by":"CMD","empty_layer":true}]})");
    ASSERT_TRUE(image) << image.error().describe();
    EXPECT_EQ(image->platform, (Platform{.os = "linux", .architecture = "amd64"}));
    EXPECT_THAT(*image->config.cmd, ElementsAre("sh"));
    EXPECT_FALSE(image->config.entrypoint);
    EXPECT_THAT(image->config.exposed_ports, ElementsAre("80/tcp"));
    EXPECT_EQ(image->config.healthcheck->retries, 3);
    EXPECT_THAT(image->diff_ids, ElementsAre(digest));
    EXPECT_TRUE(image->history[1].empty_layer);
    auto again = parse_image_config(to_json(json::value(encode(*image))));
    ASSERT_TRUE(again);
    EXPECT_EQ(again->config, image->config);
}

TEST(ImageConfig, RefusesWrongTypes) {
    EXPECT_THAT(parse_image_config(R"({"rootfs":{"diff_ids":["../../etc"]}})").error().describe(), HasSubstr("sha256"));
    EXPECT_FALSE(parse_image_config(R"({})"));
    EXPECT_FALSE(parse_image_config(R"([])"));
    EXPECT_FALSE(parse_image_config(R"({"rootfs":{"diff_ids":{}}})"));
    EXPECT_FALSE(parse_image_config(R"({"rootfs":{},"config":{"Env":"x"}})"));
    EXPECT_FALSE(parse_image_config(R"({"rootfs":{},"config":{"Env":[1]}})"));
    EXPECT_FALSE(parse_image_config(std::string(max_document_bytes + 1, ' ')));
}

TEST(Manifest, ReadsAndWrites) {
    auto manifest = parse_manifest(R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":")" +
                                   digest + R"(","size":2},
        "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":")" +
                                   digest + R"(","size":18446744073709551615}]})");
    ASSERT_TRUE(manifest) << manifest.error().describe();
    EXPECT_EQ(manifest->layers[0].size_bytes, UINT64_MAX);
    EXPECT_TRUE(parse_manifest(to_json(json::value(encode(*manifest)))));
    EXPECT_FALSE(parse_manifest(R"({"schemaVersion":1})"));
    EXPECT_FALSE(parse_manifest(R"({"schemaVersion":2,"config":{"digest":"sha256:zz","size":1}})"));
    EXPECT_FALSE(parse_manifest(R"({"schemaVersion":2,"config":{"digest":")" + digest + R"(","size":-1}})"));
}

TEST(Index, ReadsPlatforms) {
    auto index = parse_index(
        R"({"schemaVersion":2,"manifests":[{"digest":")" + digest +
        R"(","size":7,"platform":{"os":"linux","architecture":"arm64","variant":"v8"},"annotations":{"a":"b"}}]})");
    ASSERT_TRUE(index);
    EXPECT_EQ(index->manifests[0].platform->variant, "v8");
    EXPECT_TRUE(platform_matches({.os = "linux", .architecture = "arm64"}, *index->manifests[0].platform));
    EXPECT_FALSE(platform_matches({.os = "linux", .architecture = "amd64"}, *index->manifests[0].platform));
}

RunConfig changed(std::initializer_list<const char*> instructions) {
    RunConfig config;
    for (const char* instruction : instructions) {
        auto result = apply_change(config, instruction);
        EXPECT_TRUE(result) << instruction << ": " << result.error().describe();
    }
    return config;
}

TEST(Change, AppliesInstructions) {
    RunConfig config =
        changed({"CMD [\"sh\", \"-l\"]", "ENTRYPOINT exec top -b", "ENV A=1 B=\"two words\" C=$A", "env D some value",
                 "EXPOSE 80 53/udp 8000-8002", "LABEL x=y 'long key'=v", "USER 1000:1000", "VOLUME [\"/a\", \"/b\"]",
                 "VOLUME /c /d", "WORKDIR /srv", "WORKDIR app", "STOPSIGNAL SIGINT", "ONBUILD RUN make",
                 "HEALTHCHECK --interval=1m30s --retries=3 CMD curl localhost", "ENV E=${A}x"});
    EXPECT_THAT(*config.cmd, ElementsAre("sh", "-l"));
    EXPECT_THAT(*config.entrypoint, ElementsAre("/bin/sh", "-c", "exec top -b"));
    EXPECT_THAT(config.env, ElementsAre("A=1", "B=two words", "C=", "D=some value", "E=1x"));
    EXPECT_THAT(config.exposed_ports, ElementsAre("53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"));
    EXPECT_EQ(config.labels.at("long key"), "v");
    EXPECT_THAT(config.volumes, ElementsAre("/a", "/b", "/c", "/d"));
    EXPECT_EQ(config.working_dir, "/srv/app");
    EXPECT_EQ(config.healthcheck->interval_ns, 90'000'000'000);
    EXPECT_THAT(config.healthcheck->test, ElementsAre("CMD-SHELL", "curl localhost"));
}

TEST(Change, SaysWhatIsWrong) {
    RunConfig config;
    EXPECT_THAT(apply_change(config, "RUN x").error().message(), HasSubstr("RUN is not a valid change command"));
    for (const char* bad :
         {"", "ENV", "ENV A", "ENV =x", "EXPOSE 0", "EXPOSE 1/ftp", "EXPOSE 9-1", "LABEL", "SHELL sh", "ONBUILD FROM x",
          "HEALTHCHECK CMD", "HEALTHCHECK --x=1 CMD y", "USER a b", "ENV A='x", "WORKDIR"}) {
        EXPECT_FALSE(apply_change(config, bad)) << bad;
    }
}

}  // namespace
}  // namespace wherry::image
