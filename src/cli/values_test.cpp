// Units, references, ports, mounts, environment files, detach keys.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

#include "base/fd.hpp"
#include "base/json.hpp"
#include "cli/container_flags.hpp"
#include "cli/mounts.hpp"
#include "cli/ports.hpp"
#include "cli/reference.hpp"
#include "cli/terminal.hpp"
#include "cli/units.hpp"

namespace wherry::cli {
namespace {

TEST(units, bytes) {
    EXPECT_EQ(*parse_bytes("512"), 512);
    EXPECT_EQ(*parse_bytes("64m"), 64 << 20);
    EXPECT_EQ(*parse_bytes("1.5GiB"), 3LL << 29);
    EXPECT_EQ(*parse_bytes("1 KB"), 1024);
    EXPECT_EQ(*parse_bytes("7b"), 7);
    EXPECT_EQ(*parse_swap_bytes("-1"), -1);
    EXPECT_EQ(parse_bytes("1x").error().describe(), "invalid suffix: 'x'");
    for (const char* bad : {"", "x", "-1", "1kbx", "1.2.3", "99999999999999999999", "1kx", "nan"})
        EXPECT_FALSE(parse_bytes(bad)) << bad;
}

TEST(units, durations_and_processors) {
    EXPECT_EQ(*parse_duration("1h15m30.5s"), 4530500000000LL);
    EXPECT_EQ(*parse_duration("300ms"), 300000000);
    EXPECT_EQ(*parse_duration("-1s"), -1000000000);
    EXPECT_EQ(*parse_duration("0"), 0);
    for (const char* bad : {"", "5", "s", "1x", "1.s.", "999999999h"}) EXPECT_FALSE(parse_duration(bad)) << bad;
    EXPECT_EQ(*parse_nano_cpus("1.5"), 1500000000);
    EXPECT_EQ(*parse_nano_cpus("3/2"), 1500000000);
    EXPECT_EQ(*parse_nano_cpus(".25"), 250000000);
    for (const char* bad : {"", "x", "1/0", "0.00000000001", "nan", "inf"}) EXPECT_FALSE(parse_nano_cpus(bad)) << bad;
}

TEST(units, what_people_read) {
    EXPECT_EQ(human_size(0), "0B");
    EXPECT_EQ(human_size(1240000), "1.24MB");
    EXPECT_EQ(human_size(999), "999B");
    EXPECT_EQ(human_binary_size(1236992), "1.18MiB");
    EXPECT_EQ(human_duration(0), "Less than a second");
    EXPECT_EQ(human_duration(1), "1 second");
    EXPECT_EQ(human_duration(59), "59 seconds");
    EXPECT_EQ(human_duration(60), "About a minute");
    EXPECT_EQ(human_duration(150), "2 minutes");
    EXPECT_EQ(human_duration(3600), "About an hour");
    EXPECT_EQ(human_duration(7200), "2 hours");
    EXPECT_EQ(human_duration(86400 * 3), "3 days");
    EXPECT_EQ(human_duration(86400 * 20), "2 weeks");
    EXPECT_EQ(human_duration(86400 * 100), "3 months");
    EXPECT_EQ(human_duration(86400LL * 800), "2 years");
}

TEST(units, timestamps) {
    WallTime now = *parse_rfc3339("2026-11-23T13:00:00Z");
    EXPECT_EQ(*parse_timestamp("1700000000", now), "1700000000");
    EXPECT_EQ(*parse_timestamp("1700000000.5", now), "1700000000.5");
    EXPECT_EQ(*parse_timestamp("10m", now), "1795438200.000000000");
    EXPECT_EQ(*parse_timestamp("2026-11-23T13:00:00Z", now), "1795438800.000000000");
    EXPECT_EQ(*parse_timestamp("2026-11-23T13:00:00", now), "1795438800.000000000");
    EXPECT_EQ(*parse_timestamp("2026-11-23", now), "1795392000.000000000");
    EXPECT_FALSE(parse_timestamp("yesterday", now));
}

TEST(reference, grammar) {
    EXPECT_EQ(parse_reference("busybox")->familiar(), "busybox:latest");
    EXPECT_EQ(parse_reference("docker.io/library/busybox:1")->familiar(), "busybox:1");
    EXPECT_EQ(parse_reference("a/b__c-d.e:T_1")->familiar(), "a/b__c-d.e:T_1");
    EXPECT_EQ(parse_reference("localhost:5000/x")->domain, "localhost:5000");
    EXPECT_EQ(parse_reference("localhost/x:2")->familiar(), "localhost/x:2");
    std::string digest = "sha256:" + std::string(64, 'a');
    EXPECT_EQ(parse_reference("x@" + digest)->familiar(), "x@" + digest);
    EXPECT_EQ(parse_reference("UPPER").error().describe(),
              "invalid reference format: repository name (library/UPPER) must be lowercase");
    for (const char* bad : {"", "a b", "a:b:c", ":x", "a//b", "-a", "a-", "a@sha256:1", "a:", "x/", "/x", "a:\n", "..",
                            "a___b", "http://x/y"}) {
        auto parsed = parse_reference(bad);
        ASSERT_FALSE(parsed) << bad;
        EXPECT_TRUE(parsed.error().describe().starts_with("invalid reference format")) << bad;
    }
    EXPECT_FALSE(parse_reference(std::string(64, 'a')));
    EXPECT_FALSE(parse_reference(std::string(400, 'a')));
    EXPECT_FALSE(parse_reference("a:" + std::string(129, 'a')));
}

std::string ports(std::string_view text) {
    auto parsed = parse_publish(text);
    if (!parsed) return parsed.error().describe();
    std::string out;
    for (const PortBinding& binding : *parsed)
        out += (out.empty() ? "" : " ") + binding.host_ip + "|" + binding.host_port + "|" + binding.port;
    return out;
}

TEST(ports, publish) {
    EXPECT_EQ(ports("80"), "||80/tcp");
    EXPECT_EQ(ports("8080:80"), "|8080|80/tcp");
    EXPECT_EQ(ports("127.0.0.1:8080:80/udp"), "127.0.0.1|8080|80/udp");
    EXPECT_EQ(ports("127.0.0.1::80"), "127.0.0.1||80/tcp");
    EXPECT_EQ(ports("[::1]:8080:80"), "::1|8080|80/tcp");
    EXPECT_EQ(ports("8000-8001:80-81"), "|8000|80/tcp |8001|81/tcp");
    EXPECT_EQ(ports("8000-8010:80"), "|8000-8010|80/tcp");
    EXPECT_EQ(ports("target=80,published=8080,protocol=udp"), "|8080|80/udp");
    EXPECT_EQ(ports("99999:1"), "invalid hostPort: 99999");
    EXPECT_EQ(ports("1:99999"), "invalid containerPort: 99999");
    EXPECT_EQ(ports("x"), "invalid containerPort: x");
    EXPECT_EQ(ports("80/x"), "invalid proto: x");
    EXPECT_EQ(ports("1.2.3:5:5"), "invalid IP address: 1.2.3");
    EXPECT_EQ(ports("8000-8005:80-81"), "invalid ranges specified for container and host Ports: 80-81 and 8000-8005");
    EXPECT_EQ(parse_expose("8-10/udp")->size(), 3U);
    EXPECT_FALSE(parse_expose("80:80"));
    EXPECT_FALSE(parse_expose("10-8"));
}

TEST(mounts, volumes) {
    EXPECT_EQ(parse_volume("/a:/b:ro")->bind, "/a:/b:ro");
    EXPECT_EQ(parse_volume("name:/b")->bind, "name:/b");
    EXPECT_EQ(parse_volume("/anonymous")->bind, "");
    char folder[4096];
    ASSERT_NE(::getcwd(folder, sizeof folder), nullptr);
    EXPECT_EQ(parse_volume("./x/../y:/b")->source, std::string(folder) + "/y");
    for (const char* bad : {"", ":", "a:", ":/b", "/a:b", "/a:/b:c:d", "/"}) EXPECT_FALSE(parse_volume(bad)) << bad;
    EXPECT_EQ(absolute_path("/a/./b/../../.."), "/");
}

TEST(mounts, long_form) {
    EXPECT_EQ(to_json(*parse_mount("type=bind,src=/a,dst=/b,ro")),
              R"({"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true})");
    EXPECT_EQ(to_json(*parse_mount("dst=/b")), R"({"Type":"volume","Target":"/b"})");
    EXPECT_EQ(to_json(*parse_mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777")),
              R"({"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1048576,"Mode":1023}})");
    EXPECT_EQ(to_json(*parse_mount(R"(dst=/v,"volume-opt=o=a,b")")),
              R"({"Type":"volume","Target":"/v","VolumeOptions":{"DriverConfig":{"Options":{"o":"a,b"}}}})");
    for (const char* bad :
         {"", "foo", "type=bind,src=/a", "dst=/a,tmpfs-mode=9", "dst=/a,what=x",
          "type=bind,dst=/a,src=/b,tmpfs-size=1m", "dst=/a,readonly=x", "dst=/a,\"x", "dst=/a,tmpfs-size=x"})
        EXPECT_FALSE(parse_mount(bad)) << bad;
}

TEST(environment, files) {
    char path[] = "/tmp/wherry-cli-env-XXXXXX";
    Fd file(::mkstemp(path));
    ASSERT_TRUE(write_all(file.get(), "# comment\n\nA=1\n  B = 2\nC=x=y\r\nFROM_HERE\nNOT_SET_ANYWHERE\nEMPTY=\n"));
    ::setenv("FROM_HERE", "yes", 1);
    auto lines = read_environment_file(path);
    EXPECT_FALSE(lines) << "a name with a space is refused";
    ASSERT_EQ(::ftruncate(file.get(), 0), 0);
    ::lseek(file.get(), 0, SEEK_SET);
    ASSERT_TRUE(write_all(file.get(), "# comment\n\nA=1\n  B=2\nC=x=y\r\nFROM_HERE\nNOT_SET_ANYWHERE\nEMPTY=\n"));
    lines = read_environment_file(path);
    ASSERT_TRUE(lines);
    EXPECT_EQ(*lines, (std::vector<std::string>{"A=1", "B=2", "C=x=y", "FROM_HERE=yes", "EMPTY="}));
    ::unlink(path);
    EXPECT_EQ(read_environment_file("/nonexistent").error().describe(), "open /nonexistent: no such file or directory");
}

TEST(restart_policy, forms) {
    EXPECT_EQ(to_json(*parse_restart_policy("on-failure:3")), R"({"Name":"on-failure","MaximumRetryCount":3})");
    EXPECT_EQ(to_json(*parse_restart_policy("always")), R"({"Name":"always"})");
    EXPECT_FALSE(parse_restart_policy("on-failure:x"));
    EXPECT_FALSE(parse_restart_policy(":3"));
}

TEST(detach_keys, are_found_and_released) {
    EXPECT_EQ(*parse_detach_keys("ctrl-p,ctrl-q"), "\x10\x11");
    EXPECT_EQ(*parse_detach_keys("a,ctrl-["), "a\x1b");
    EXPECT_FALSE(parse_detach_keys("ctrl-"));
    EXPECT_FALSE(parse_detach_keys("xx"));
    EXPECT_FALSE(parse_detach_keys(""));
    DetachDetector detector("\x10\x11");
    std::string out;
    EXPECT_FALSE(detector.feed("ab\x10", out));
    EXPECT_EQ(out, "ab");
    EXPECT_FALSE(detector.feed("c\x10\x10", out));
    EXPECT_EQ(out,
              "ab\x10"
              "c\x10");
    EXPECT_TRUE(detector.feed("\x11", out));
}

}  // namespace
}  // namespace wherry::cli
