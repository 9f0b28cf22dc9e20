// Golden JSON: what clients read, byte by byte.
#include "api/docker/shapes.hpp"

#include <gtest/gtest.h>

namespace wherry::api::docker {
namespace {

WallTime at(std::int64_t seconds, std::int64_t nanoseconds = 0) {
    return WallTime(Nanoseconds(seconds * 1'000'000'000 + nanoseconds));
}

TEST(Shapes, ContainerSummary) {
    engine::EndpointView endpoint{.network_id = "n1",
                                  .endpoint_id = "e1",
                                  .gateway = "10.0.0.1",
                                  .ip_address = "10.0.0.2",
                                  .ip_prefix_length = 16,
                                  .mac_address = "02:42:0a:00:00:02"};
    engine::ContainerSummary container{
        .id = "abc",
        .name = "web",
        .image = "busybox",
        .image_id = "sha256:1",
        .command = "sh -c \"x\"",
        .created = at(1'700'000'000),
        .state = "running",
        .status = "Up 2 minutes",
        .ports = {{.container_port = 80, .protocol = "tcp", .host_ip = "0.0.0.0", .host_port = 8080},
                  {.container_port = 53, .protocol = "udp"}},
        .labels = {{"a", "b"}},
        .network_mode = "bridge",
        .networks = {{"bridge", endpoint}},
        .mounts =
            {{.type = "volume", .name = "v", .source = "/s", .destination = "/d", .driver = "local", .mode = "z"}},
    };
    JsonWriter w;
    write_container_summary(w, container);
    EXPECT_EQ(
        w.take(),
        R"({"Id":"abc","Names":["/web"],"Image":"busybox","ImageID":"sha256:1","Command":"sh -c \"x\"","Created":1700000000,)"
        R"("Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"PrivatePort":53,"Type":"udp"}],)"
        R"("Labels":{"a":"b"},"State":"running","Status":"Up 2 minutes","HostConfig":{"NetworkMode":"bridge"},)"
        R"("NetworkSettings":{"Networks":{"bridge":{"IPAMConfig":null,"Links":null,"Aliases":null,"MacAddress":"02:42:0a:00:00:02",)"
        R"("DriverOpts":null,"NetworkID":"n1","EndpointID":"e1","Gateway":"10.0.0.1","IPAddress":"10.0.0.2","IPPrefixLen":16,)"
        R"("IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"DNSNames":null}}},)"
        R"("Mounts":[{"Type":"volume","Name":"v","Source":"/s","Destination":"/d","Driver":"local","Mode":"z","RW":true,"Propagation":""}]})");
}

TEST(Shapes, Event) {
    engine::Event event{.type = "container",
                        .action = "die",
                        .id = "abc",
                        .attributes = {{"exitCode", "0"}, {"image", "busybox"}},
                        .time = at(1'700'000'000, 5)};
    JsonWriter w;
    write_event(w, event, 47);
    EXPECT_EQ(
        w.take(),
        R"({"status":"die","id":"abc","from":"busybox","Type":"container","Action":"die","Actor":{"ID":"abc",)"
        R"("Attributes":{"exitCode":"0","image":"busybox"}},"scope":"local","time":1700000000,"timeNano":1700000000000000005})");
    event.type = "network";
    JsonWriter other;
    write_event(other, event, 47);
    EXPECT_TRUE(other.text().starts_with(R"({"Type":"network")"));
}

TEST(Shapes, ImageSummaryHasAVirtualSizeForOldClients) {
    engine::ImageSummary image{
        .id = "sha256:1", .repo_tags = {"a:1"}, .created = at(5), .size_bytes = 7, .containers = -1};
    JsonWriter now;
    write_image_summary(now, image, 47);
    EXPECT_EQ(
        now.take(),
        R"({"Containers":-1,"Created":5,"Id":"sha256:1","Labels":null,"ParentId":"","RepoDigests":[],"RepoTags":["a:1"],"SharedSize":-1,"Size":7})");
    JsonWriter then;
    write_image_summary(then, image, 41);
    EXPECT_TRUE(then.text().ends_with(R"("Size":7,"VirtualSize":7})"));
}

TEST(Shapes, Exec) {
    engine::ExecView exec{.id = "e",
                          .container_id = "c",
                          .running = true,
                          .pid = 5,
                          .spec = {.attach_stdout = true, .cmd = {"sh", "-c", "x"}}};
    JsonWriter w;
    write_exec(w, exec);
    EXPECT_EQ(
        w.take(),
        R"({"ID":"e","Running":true,"ExitCode":null,"ProcessConfig":{"tty":false,"entrypoint":"sh","arguments":["-c","x"],"privileged":false},)"
        R"("OpenStdin":false,"OpenStderr":false,"OpenStdout":true,"CanRemove":false,"ContainerID":"c","DetachKeys":"","Pid":5})");
}

TEST(Shapes, StatsOfAFirstReadingHaveNoPast) {
    engine::StatsView stats{.read = at(10),
                            .id = "c",
                            .name = "n",
                            .pids = 2,
                            .cpu_total_ns = 5,
                            .host_cpu_ns = 50,
                            .online_cpus = 2,
                            .memory_bytes = 100,
                            .memory_limit_bytes = 1000,
                            .memory_details = {{"cache", 3}}};
    JsonWriter w;
    write_stats(w, stats, nullptr);
    auto parsed = parse_json_object(w.text());
    ASSERT_TRUE(parsed) << w.text();
    EXPECT_EQ(parsed->at("preread").as_string(), "0001-01-01T00:00:00Z");
    EXPECT_FALSE(parsed->at("precpu_stats").as_object().contains("system_cpu_usage"));
    EXPECT_EQ(parsed->at("cpu_stats").at("online_cpus").as_int64(), 2);
    EXPECT_EQ(parsed->at("memory_stats").at("stats").at("cache").as_int64(), 3);
    JsonWriter second;
    write_stats(second, stats, &stats);
    parsed = parse_json_object(second.text());
    ASSERT_TRUE(parsed);
    EXPECT_EQ(parsed->at("preread").as_string(), "1970-01-01T00:00:10Z");
    EXPECT_EQ(parsed->at("precpu_stats").at("system_cpu_usage").as_int64(), 50);
}

TEST(Shapes, VolumeAndNetwork) {
    JsonWriter w;
    write_volume(w, {.name = "v", .mountpoint = "/m", .created = at(10), .size_bytes = 4, .reference_count = 1},
                 UsageData::shown);
    EXPECT_EQ(
        w.take(),
        R"({"CreatedAt":"1970-01-01T00:00:10Z","Driver":"local","Labels":null,"Mountpoint":"/m","Name":"v","Options":null,"Scope":"local","UsageData":{"RefCount":1,"Size":4}})");
    JsonWriter n;
    engine::NetworkView network{.name = "bridge",
                                .id = "i",
                                .created = at(10),
                                .driver = "bridge",
                                .pools = {{.subnet = "10.0.0.0/16", .gateway = "10.0.0.1"}}};
    network.containers["c"] = {.name = "web", .endpoint_id = "e", .mac_address = "m", .ipv4_address = "10.0.0.2/16"};
    write_network(n, network);
    EXPECT_EQ(
        n.take(),
        R"({"Name":"bridge","Id":"i","Created":"1970-01-01T00:00:10Z","Scope":"local","Driver":"bridge","EnableIPv4":true,"EnableIPv6":false,)"
        R"("IPAM":{"Driver":"default","Options":null,"Config":[{"Subnet":"10.0.0.0/16","Gateway":"10.0.0.1"}]},"Internal":false,"Attachable":false,)"
        R"("Ingress":false,"ConfigFrom":{"Network":""},"ConfigOnly":false,"Containers":{"c":{"Name":"web","EndpointID":"e","MacAddress":"m",)"
        R"("IPv4Address":"10.0.0.2/16","IPv6Address":""}},"Options":{},"Labels":{}})");
}

}  // namespace
}  // namespace wherry::api::docker
