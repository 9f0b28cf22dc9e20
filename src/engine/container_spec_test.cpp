#include "engine/container_spec.hpp"

#include <gtest/gtest.h>

namespace wherry::engine {
namespace {

Result<ContainerSpec> decode(std::string_view text) {
    auto object = parse_json_object(text);
    if (!object) return std::unexpected(std::move(object).error());
    return decode_create_request(*object);
}

std::string error_of(std::string_view text) {
    const auto spec = decode(text);
    EXPECT_FALSE(spec) << text;
    if (spec) return {};
    EXPECT_EQ(spec.error().code(), Code::invalid_argument);
    return spec.error().message();
}

TEST(ContainerSpec, ReadsWhatAClientSends) {
    const auto spec =
        decode(R"({"Hostname":"h","User":"1000:1000","Tty":true,"OpenStdin":true,"Env":["A=b"],"Cmd":["sh","-c","x"],
        "Image":"busybox","ExposedPorts":{"80/tcp":{}},"Labels":{"k":"v"},"StopTimeout":3,"Volumes":{"/data":{}},
        "HostConfig":{"Binds":["/a:/b:ro"],"NetworkMode":"bridge","PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]},
          "RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3},"Memory":67108864,"NanoCpus":500000000,"PidsLimit":10,
          "Ulimits":[{"Name":"nofile","Soft":10,"Hard":20}],"Devices":[{"PathOnHost":"/dev/null","PathInContainer":"/dev/x","CgroupPermissions":"rw"}],
          "Mounts":[{"Type":"volume","Source":"v","Target":"/v","VolumeOptions":{"NoCopy":true,"DriverConfig":{"Name":"local"}}}],
          "ConsoleSize":[24,80],"Init":true,"LogConfig":{"Type":"local","Config":{"max-size":"1m"}},"DeviceRequests":[{"Count":1}]},
        "NetworkingConfig":{"EndpointsConfig":{"bridge":{"IPAMConfig":{"IPv4Address":"10.0.0.2"},"Aliases":["a"]}}}})");
    ASSERT_TRUE(spec) << spec.error().describe();
    EXPECT_EQ(spec->config.cmd, (Strings{"sh", "-c", "x"}));
    EXPECT_EQ(spec->config.stop_timeout_seconds, 3);
    EXPECT_TRUE(spec->config.volumes.contains("/data"));
    const HostConfig& host = spec->host_config;
    EXPECT_EQ(host.port_bindings.at("80/tcp").front().host_port, "8080");
    EXPECT_EQ(host.restart_policy.maximum_retry_count, 3);
    EXPECT_EQ(host.resources.memory, 64 << 20);
    EXPECT_EQ(host.resources.pids_limit, 10);
    EXPECT_EQ(host.resources.device_requests, 1U);
    EXPECT_EQ(host.console_width, 80U);
    EXPECT_TRUE(host.mounts.front().volume_options->no_copy);
    EXPECT_EQ(host.mounts.front().volume_options->driver, "local");
    EXPECT_EQ(spec->networking.endpoints.at("bridge").ipv4_address, "10.0.0.2");
}

TEST(ContainerSpec, TakesAStringForACommandAndNullForNothing) {
    const auto spec = decode(R"({"Cmd":"top","Entrypoint":null,"Env":null,"HostConfig":null,"Volumes":null})");
    ASSERT_TRUE(spec);
    EXPECT_EQ(spec->config.cmd, Strings{"top"});
    EXPECT_FALSE(spec->config.entrypoint);
}

TEST(ContainerSpec, FindsMembersWithoutRegardToCaseAndIgnoresUnknownOnes) {
    const auto spec = decode(R"({"image":"x","hostconfig":{},"Nonsense":{"a":[1]},"HostConfig":{"memory":7000000}})");
    ASSERT_TRUE(spec);
    EXPECT_EQ(spec->config.image, "x");
    EXPECT_EQ(spec->host_config.resources.memory, 7000000);
}

TEST(ContainerSpec, NamesThePathOfAWrongType) {
    EXPECT_EQ(error_of(R"({"Env":"A=b"})"), "Env: expected an array");
    EXPECT_EQ(error_of(R"({"Env":["a",1]})"), "Env[1]: expected a string");
    EXPECT_EQ(error_of(R"({"Tty":"yes"})"), "Tty: expected true or false");
    EXPECT_EQ(error_of(R"({"HostConfig":[]})"), "HostConfig: expected an object");
    EXPECT_EQ(error_of(R"({"HostConfig":{"Memory":"64m"}})"), "HostConfig.Memory: expected a number");
    EXPECT_EQ(error_of(R"({"HostConfig":{"Memory":1.5}})"), "HostConfig.Memory: expected a whole number in range");
    EXPECT_EQ(error_of(R"({"HostConfig":{"BlkioWeight":70000}})"),
              "HostConfig.BlkioWeight: expected a whole number in range");
    EXPECT_EQ(error_of(R"({"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":80}]}}})"),
              "HostConfig.PortBindings.80/tcp[0].HostPort: expected a string");
    EXPECT_EQ(error_of(R"({"HostConfig":{"Mounts":[{"Type":"bind","BindOptions":3}]}})"),
              "HostConfig.Mounts[0].BindOptions: expected an object");
}

TEST(ContainerSpec, WhatIsWrittenIsReadBackTheSame) {
    const auto spec = decode(
        R"({"Cmd":[],"Entrypoint":["/e"],"Env":["A=b","C="],"Healthcheck":{"Test":["CMD","x"],"Interval":1000000000},
        "StopSignal":"SIGINT","Shell":["/bin/sh","-c"],
        "HostConfig":{"Tmpfs":{"/t":"size=1m"},"Sysctls":{"net.core.somaxconn":"9"},"CapAdd":["ALL"],"SecurityOpt":["no-new-privileges"],
        "MemorySwappiness":0,"OomKillDisable":false,"Mounts":[{"Type":"tmpfs","Target":"/x","TmpfsOptions":{"SizeBytes":5,"Mode":448}}],
        "MaskedPaths":[],"BlkioDeviceReadBps":[{"Path":"/dev/sda","Rate":18446744073709551615}]}})");
    ASSERT_TRUE(spec) << spec.error().describe();
    const json::object config = encode_config(spec->config);
    const json::object host = encode_host_config(spec->host_config);
    const auto config_again = decode_config(config);
    const auto host_again = decode_host_config(host);
    ASSERT_TRUE(config_again);
    ASSERT_TRUE(host_again) << host_again.error().describe();
    EXPECT_EQ(encode_config(*config_again), config);
    EXPECT_EQ(encode_host_config(*host_again), host);
    EXPECT_EQ(host_again->resources.blkio_device_read_bps.front().rate, ~std::uint64_t{0});
    EXPECT_TRUE(host_again->masked_paths && host_again->masked_paths->empty());
    EXPECT_FALSE(host_again->readonly_paths);
}

TEST(ContainerSpec, AnUpdateKnowsWhatWasGiven) {
    const auto object = parse_json_object(R"({"Memory":7340032,"RestartPolicy":{"Name":"always"},"CpuShares":null})");
    const auto update = decode_update_request(*object);
    ASSERT_TRUE(update);
    EXPECT_TRUE(update->present.contains("Memory"));
    EXPECT_FALSE(update->present.contains("CpuShares"));
    EXPECT_EQ(update->restart_policy->name, "always");
}

}  // namespace
}  // namespace wherry::engine
