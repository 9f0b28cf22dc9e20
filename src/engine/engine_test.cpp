// The parts of the engine that stand alone: mounts, names, checks, specification, records, explanations.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "engine/container.hpp"
#include "engine/container_table.hpp"
#include "engine/mounts.hpp"
#include "engine/names.hpp"
#include "engine/process_table.hpp"
#include "engine/security.hpp"
#include "engine/spec_builder.hpp"
#include "engine/streams.hpp"
#include "engine/times.hpp"
#include "engine/validate.hpp"
#include "engine/volume_service.hpp"
#include "engine/why.hpp"

namespace wherry::engine {
namespace {

template <class T>
std::string message_of(const Result<T>& result) {
    return result ? "" : result.error().message();
}

TEST(Names, AreMadeUpAndChecked) {
    for (unsigned attempt = 0; attempt < 20; ++attempt) EXPECT_TRUE(check_container_name(make_name(attempt)));
    EXPECT_TRUE(check_container_name("web-1.a_b"));
    for (const char* bad : {"", "a", "-ab", "a b", "a/b", "ä1"}) EXPECT_FALSE(check_container_name(bad)) << bad;
    EXPECT_EQ(message_of(check_container_name("a b")),
              "Invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
}

TEST(Names, SignalsByNameAndNumber) {
    EXPECT_EQ(*parse_signal("TERM"), SIGTERM);
    EXPECT_EQ(*parse_signal("sigkill"), SIGKILL);
    EXPECT_EQ(*parse_signal("9"), 9);
    EXPECT_EQ(*parse_signal("RTMIN+3"), 37);
    EXPECT_EQ(*parse_signal("SIGRTMAX"), 64);
    for (const char* bad : {"", "0", "65", "-1", "SIG", "FOO", "RTMIN-1", "RTMIN+99", "9x"}) {
        EXPECT_EQ(message_of(parse_signal(bad)), std::string("Invalid signal: ") + bad);
    }
    EXPECT_EQ(signal_name(SIGSEGV), "SIGSEGV");
}

TEST(Names, DurationsAsDockerSaysThem) {
    EXPECT_EQ(human_duration(0), "Less than a second");
    EXPECT_EQ(human_duration(59), "59 seconds");
    EXPECT_EQ(human_duration(61), "About a minute");
    EXPECT_EQ(human_duration(3600), "About an hour");
    EXPECT_EQ(human_duration(3600 * 47), "47 hours");
    EXPECT_EQ(human_duration(86400 * 3), "3 days");
    EXPECT_EQ(human_bytes(64 << 20), "64 MiB");
    EXPECT_EQ(human_bytes((3 << 20) / 2), "1.5 MiB");
}

TEST(Mounts, BindsVolumesAndTheirModes) {
    const auto bind = parse_bind("/a//b/../c:/d/:ro,rslave", "");
    ASSERT_TRUE(bind);
    EXPECT_EQ(bind->point.source, "/a/c");
    EXPECT_EQ(bind->point.destination, "/d");
    EXPECT_FALSE(bind->point.read_write);
    EXPECT_EQ(bind->point.propagation, "rslave");
    EXPECT_TRUE(bind->make_source);
    const auto volume = parse_bind("data:/d:nocopy", "");
    ASSERT_TRUE(volume);
    EXPECT_EQ(volume->point.type, "volume");
    EXPECT_FALSE(volume->populate);
    for (const char* bad : {"", "/a", "/a:", ":/b", "/a:b", "/a:/", "/a:/b:xx", "/a:/b:ro,rw", "/a:/b:ro:z", "a b:/c",
                            "x:/c", "data:/d:rslave"}) {
        EXPECT_EQ(parse_bind(bad, "").error().code(), Code::invalid_argument) << bad;
    }
}

TEST(Mounts, EachDestinationOnceAndTheDeeperLater) {
    Config config;
    config.volumes = {"/data", "/data/deep", "/bound"};
    HostConfig host;
    host.binds = {"/tmp:/bound"};
    const auto plan =
        plan_mounts(config, host, {{.type = "volume", .name = "v", .destination = "/data", .driver = "local"}});
    ASSERT_TRUE(plan);
    ASSERT_EQ(plan->size(), 3U);
    EXPECT_EQ((*plan)[0].point.destination, "/bound");
    EXPECT_EQ((*plan)[1].point.name, "v");
    EXPECT_EQ((*plan)[2].point.destination, "/data/deep");
    EXPECT_TRUE((*plan)[2].anonymous);
    host.binds = {"/tmp:/x", "/etc:/x/"};
    EXPECT_EQ(message_of(plan_mounts({}, host, {})), "Duplicate mount point: /x");
    host.binds.clear();
    host.tmpfs = {{"rel", ""}};
    EXPECT_FALSE(plan_mounts({}, host, {}));
    host.tmpfs.clear();
    host.mounts = {{.type = "nfs", .target = "/x"}};
    EXPECT_EQ(message_of(plan_mounts({}, host, {})), "invalid mount config for type \"nfs\": mount type unknown");
}

TEST(Mounts, SizesAndTmpfsOptions) {
    EXPECT_EQ(*parse_bytes("64m"), 64 << 20);
    EXPECT_EQ(*parse_bytes("1GB"), 1 << 30);
    for (const char* bad : {"", "-1", "x", "1x", "9999999999t"}) EXPECT_FALSE(parse_bytes(bad)) << bad;
    EXPECT_EQ(*parse_tmpfs_options("exec,size=1m"), (Strings{"nosuid", "nodev", "exec", "size=1m", "mode=1777"}));
    EXPECT_EQ(*parse_tmpfs_options("mode=700"), (Strings{"noexec", "nosuid", "nodev", "mode=700"}));
    for (const char* bad : {"foo", "size=", "mode=9", "uid=x", "upperdir=/"})
        EXPECT_FALSE(parse_tmpfs_options(bad)) << bad;
}

TEST(Validate, ImageConfigurationFillsWhatIsLeftOut) {
    image::RunConfig image;
    image.entrypoint = Strings{"/entry"};
    image.cmd = Strings{"default"};
    image.env = {"PATH=/p", "A=image"};
    image.labels = {{"l", "image"}};
    image.working_dir = "/w";
    Config config;
    config.env = {"A=user"};
    ASSERT_TRUE(merge_image_config(config, image));
    EXPECT_EQ(config.entrypoint, Strings{"/entry"});
    EXPECT_EQ(config.cmd, Strings{"default"});
    EXPECT_EQ(config.env, (Strings{"PATH=/p", "A=user"}));
    EXPECT_EQ(config.working_dir, "/w");
    Config with_command;
    with_command.cmd = Strings{"other"};
    ASSERT_TRUE(merge_image_config(with_command, image));
    EXPECT_EQ(with_command.cmd, Strings{"other"});
    Config own_entrypoint;  // then the image's command does not count
    own_entrypoint.entrypoint = Strings{"/mine"};
    ASSERT_TRUE(merge_image_config(own_entrypoint, image));
    EXPECT_FALSE(own_entrypoint.cmd);
    Config nothing;
    EXPECT_EQ(message_of(merge_image_config(nothing, {})), "no command specified");
}

TEST(Validate, RefusesWithDockersWords) {
    const auto check = [](auto change) {
        ContainerSpec spec;
        spec.config.cmd = Strings{"x"};
        change(spec);
        return message_of(check_and_complete(spec, {.log_config = {.type = "json-file", .config = {}}, .ulimits = {}}));
    };
    EXPECT_EQ(check([](ContainerSpec&) {}), "");
    EXPECT_EQ(check([](ContainerSpec& s) { s.host_config.resources.memory = 1024; }),
              "Minimum memory limit allowed is 6MB");
    EXPECT_EQ(check([](ContainerSpec& s) { s.host_config.restart_policy.name = "sometimes"; }),
              "invalid restart policy: unknown policy 'sometimes'; use one of 'no', 'always', 'on-failure', or "
              "'unless-stopped'");
    EXPECT_EQ(check([](ContainerSpec& s) {
                  s.host_config.auto_remove = true;
                  s.host_config.restart_policy.name = "always";
              }),
              "can't create 'AutoRemove' container with restart policy");
    EXPECT_EQ(check([](ContainerSpec& s) { s.config.working_dir = "rel"; }),
              "the working directory 'rel' is invalid, it needs to be an absolute path");
    EXPECT_EQ(check([](ContainerSpec& s) { s.host_config.resources.cpuset_cpus = "0-9999999"; }),
              "Invalid value 0-9999999 for cpuset cpus");
    EXPECT_EQ(check([](ContainerSpec& s) { s.host_config.security_opt = {"apparmor=x"}; }),
              "AppArmor is not supported on this host, but the profile 'x' was specified");
    EXPECT_EQ(check([](ContainerSpec& s) { s.host_config.sysctls = {{"kernel.panic", "1"}}; }),
              "sysctl 'kernel.panic' is not whitelisted");
    EXPECT_EQ(check([](ContainerSpec& s) { s.host_config.log_config.type = "syslog"; }),
              "logger: no log driver named 'syslog' is registered");
    EXPECT_EQ(check([](ContainerSpec& s) { s.host_config.runtime = "kata"; }), "unknown or invalid runtime name: kata");
    EXPECT_NE(check([](ContainerSpec& s) { s.host_config.runtime = "wherry-vm"; }), "");
    EXPECT_NE(check([](ContainerSpec& s) { s.host_config.port_bindings = {{"80/xyz", {{}}}}; }), "");
    EXPECT_NE(check([](ContainerSpec& s) { s.host_config.extra_hosts = {"nonsense"}; }), "");
    EXPECT_NE(check([](ContainerSpec& s) { s.host_config.cap_add = {"NO_SUCH"}; }), "");
    EXPECT_NE(
        check([](ContainerSpec& s) { s.host_config.resources.ulimits = {{.name = "nosuch", .hard = 1, .soft = 1}}; }),
        "");
}

TEST(Validate, FillsInDefaults) {
    ContainerSpec spec;
    spec.config.cmd = Strings{"x"};
    spec.host_config.resources.memory = 64 << 20;
    ASSERT_TRUE(
        check_and_complete(spec, {.log_config = {.type = "local", .config = {{"max-size", "1m"}}}, .ulimits = {}}));
    EXPECT_EQ(spec.host_config.network_mode, "bridge");
    EXPECT_EQ(spec.host_config.shm_size, 64 << 20);
    EXPECT_EQ(spec.host_config.resources.memory_swap, 128 << 20);
    EXPECT_EQ(spec.host_config.log_config.type, "local");
    EXPECT_EQ(spec.host_config.restart_policy.name, "no");
}

TEST(SpecBuilder, EnvironmentsOverride) {
    EXPECT_EQ(merge_environment({"A=1", "B=2"}, {"B=3", "C=4", "A"}), (Strings{"B=3", "C=4"}));
    EXPECT_EQ(base_environment("h", true).back(), "TERM=xterm");
}

TEST(SpecBuilder, BuildsTheSpecification) {
    Config config;
    config.env = {"X=y"};
    config.user = "1000:1000";
    HostConfig host;
    host.resources.memory = 10 << 20;
    host.resources.nano_cpus = 1'500'000'000;
    host.readonly_rootfs = true;
    host.tmpfs = {{"/t", "size=1m"}};
    host.cap_drop = {"ALL"};
    host.cgroupns_mode = "private";
    const std::string id(64, 'a');
    const std::string path = "/bin/x";
    const Strings args{"1"};
    const std::vector<MountPoint> mounts{
        {.type = "bind", .source = "/s", .destination = "/t/deep", .read_write = false}};
    const std::vector<Ulimit> ulimits{{.name = "nofile", .hard = 20, .soft = 10}};
    const auto spec = build_spec({.id = id,
                                  .config = config,
                                  .host_config = host,
                                  .path = path,
                                  .args = args,
                                  .mounts = mounts,
                                  .hostname = "h",
                                  .hosts_file = "/hosts",
                                  .cgroup_parent = "/wherry",
                                  .default_ulimits = ulimits,
                                  .network = NetworkKind::host});
    ASSERT_TRUE(spec) << spec.error().describe();
    EXPECT_EQ(spec->process->args, (Strings{"/bin/x", "1"}));
    EXPECT_EQ(spec->process->user.username, "1000:1000");
    EXPECT_TRUE(spec->process->capabilities->bounding.empty());
    EXPECT_EQ(spec->process->rlimits.front().type, "RLIMIT_NOFILE");
    EXPECT_TRUE(spec->root.readonly);
    EXPECT_EQ(spec->linux_spec.find_namespace("network"), nullptr);
    EXPECT_NE(spec->linux_spec.find_namespace("cgroup"), nullptr);
    EXPECT_EQ(spec->linux_spec.cgroups_path, "/wherry/" + id);
    EXPECT_EQ(spec->linux_spec.resources.memory.limit, 10 << 20);
    EXPECT_EQ(spec->linux_spec.resources.cpu.quota_us, 150'000);
    ASSERT_GE(spec->mounts.size(), 2U);
    EXPECT_EQ(spec->mounts[spec->mounts.size() - 2].destination, "/t");
    EXPECT_EQ(spec->mounts.back().destination, "/t/deep");
    EXPECT_EQ(spec->mounts.back().options.back(), "rro");
}

TEST(ContainerRecord, IsReadBackTheSame) {
    Container container;
    container.id = std::string(64, 'b');
    container.name = "web";
    container.created = WallTime(Nanoseconds(123456789));
    container.spec.config.env = {"A=b"};
    container.spec.host_config.binds = {"/a:/b"};
    container.diff_ids = {"sha256:x"};
    container.path = "/bin/sh";
    container.mounts = {
        {.type = "volume", .name = "v", .source = "/s", .destination = "/d", .driver = "local", .mode = "z"}};
    container.sandbox_id = container.id;
    container.phase = Phase::paused;
    container.exit_code = 137;
    container.endpoint = net::Endpoint{.sandbox_id = container.id,
                                       .bridge = "br",
                                       .host_link = "v0",
                                       .interface = "eth0",
                                       .mac = *net::MacAddress::parse("02:42:0a:00:00:02"),
                                       .address = *net::IpAddress::parse("10.0.0.2"),
                                       .prefix_length = 24,
                                       .gateway = *net::IpAddress::parse("10.0.0.1"),
                                       .mtu = 1500};
    container.ports = {{.container = *net::ContainerPort::parse("80/udp"),
                        .host_address = *net::IpAddress::parse("0.0.0.0"),
                        .host_port = 8080}};
    const store::Record record = to_record(container);
    const auto again = container_from_record(record);
    ASSERT_TRUE(again) << again.error().describe();
    EXPECT_EQ((*again)->endpoint->address, container.endpoint->address);
    EXPECT_EQ((*again)->ports, container.ports);
    EXPECT_EQ((*again)->phase, Phase::paused);
    EXPECT_EQ(to_record(**again), record);
    store::Record damaged = record;
    damaged.status = "{}";
    EXPECT_FALSE(container_from_record(damaged));
}

TEST(ContainerTable, FindsByIdNameAndPrefix) {
    ContainerTable table;
    const auto add = [&](const std::string& id, const std::string& name) {
        auto container = std::make_shared<Container>();
        container->id = id;
        container->name = name;
        EXPECT_TRUE(table.reserve_name(name, id));
        table.add(container);
    };
    add("aaa1", "one");
    add("aaa2", "aaa");
    EXPECT_EQ((*table.find("one"))->id, "aaa1");
    EXPECT_EQ((*table.find("/one"))->id, "aaa1");
    EXPECT_EQ((*table.find("aaa"))->id, "aaa2");  // a name comes before a prefix
    EXPECT_EQ((*table.find("aaa1"))->id, "aaa1");
    EXPECT_EQ(table.find("aa").error().message(), "Multiple IDs found with provided prefix: aa");
    EXPECT_EQ(table.find("zz").error().message(), "No such container: zz");
    EXPECT_EQ(table.find("").error().code(), Code::not_found);
    EXPECT_EQ(table.reserve_name("one", "x").error().message(),
              "Conflict. The container name \"/one\" is already in use by container \"aaa1\". You have to remove (or "
              "rename) that container to "
              "be able to reuse that name.");
}

TEST(DetachKeys, AreParsed) {
    EXPECT_EQ(*parse_detach_keys("ctrl-p,ctrl-q"), "\x10\x11");
    EXPECT_EQ(*parse_detach_keys("a,ctrl-@,,"), std::string("a\0,", 3));
    EXPECT_FALSE(parse_detach_keys("ctrl-1"));
    EXPECT_FALSE(parse_detach_keys("escape"));
}

TEST(Security, OptionsAreReadOrRefused) {
    HostConfig host;
    host.security_opt = {"no-new-privileges", "seccomp=unconfined", "label=disable"};
    const auto options = parse_security_options(host);
    ASSERT_TRUE(options);
    EXPECT_TRUE(options->no_new_privileges);
    EXPECT_TRUE(options->seccomp_unconfined);
    for (const char* bad : {"nonsense", "no-new-privileges=maybe", "label=type:x", "apparmor=x", "foo=bar"}) {
        host.security_opt = {bad};
        EXPECT_FALSE(parse_security_options(host)) << bad;
    }
}

TEST(Filters, NamesAndTimes) {
    EXPECT_TRUE(name_matches("web-1", "eb"));
    EXPECT_TRUE(name_matches("web-1", "^/web"));
    EXPECT_FALSE(name_matches("web-1", "^eb"));
    EXPECT_FALSE(name_matches("web-1", "("));
    EXPECT_TRUE(parse_until("10m"));
    EXPECT_TRUE(parse_until("1h30m"));
    EXPECT_TRUE(parse_until("1700000000"));
    EXPECT_FALSE(parse_until("soon"));
    EXPECT_FALSE(parse_until("10y"));
}

TEST(Why, SaysItInASentence) {
    Container container;
    container.name = "web";
    EXPECT_EQ(explain(container, ""), "web was never started.");
    container.error = "exec: \"x\"";
    EXPECT_EQ(explain(container, "/x is a script for /bin/no, which the image does not have"),
              "web did not start: /x is a script for /bin/no, which the image does not have.");
    container.error.clear();
    container.phase = Phase::exited;
    container.started_at = container.finished_at = wall_now();
    EXPECT_EQ(explain(container, ""), "web ended by itself with success (exit code 0).");
    container.exit_code = 139;
    container.exit_signal = SIGSEGV;
    EXPECT_EQ(explain(container, ""), "web was ended by SIGSEGV (exit code 139).");
    container.denied_syscall = "keyctl";
    EXPECT_EQ(explain(container, ""),
              "web was ended by SIGSEGV (exit code 139), after its seccomp profile denied it the system call keyctl.");
    container.denied_syscall.clear();
    container.oom_killed = true;
    container.exit_code = 137;
    container.spec.host_config.resources.memory = 64 << 20;
    EXPECT_EQ(explain(container, ""),
              "web was killed because it needed more than its memory limit of 64 MiB (exit code 137).");
}

class Folder : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = "/tmp/wherry-engine-XXXXXX";
        path_ = ::mkdtemp(pattern.data());
        fd_ = *open_file(path_, O_RDONLY | O_DIRECTORY);
    }
    void TearDown() override { std::filesystem::remove_all(path_); }
    void file(const std::string& name, const std::string& content, mode_t mode) {
        std::filesystem::create_directories(std::filesystem::path(path_ + "/" + name).parent_path());
        std::ofstream(path_ + "/" + name) << content;
        ::chmod((path_ + "/" + name).c_str(), mode);
    }
    std::string path_;
    Fd fd_;
};

TEST_F(Folder, ProgramsAreInspected) {
    const auto inspect = [&](const std::string& program) {
        return inspect_program(fd_.get(), program, {"PATH=/bin"}, "");
    };
    file("bin/script", "#!/bin/interp -x\n", 0755);
    file("bin/dos", "#!/bin/sh\r\n", 0755);
    file("bin/text", "hello", 0755);
    file("bin/plain", "#!/bin/sh\n", 0644);
    file("bin/elf",
         std::string("\x7f"
                     "ELF\x02",
                     5) +
             std::string(10, '\0'),
         0755);
    EXPECT_EQ(inspect("script"), "/bin/script is a script for /bin/interp, which the image does not have");
    EXPECT_NE(inspect("dos").find("Windows line ends"), std::string::npos);
    EXPECT_EQ(inspect("/bin/text"), "/bin/text is neither a program nor a script with a #! line");
    EXPECT_EQ(inspect("plain"), "/bin/plain is not executable");
    EXPECT_EQ(inspect("elf"), "/bin/elf is a damaged program");
    EXPECT_EQ(inspect("nosuch"), "the image has no program nosuch in its PATH");
    EXPECT_EQ(inspect("/bin"), "/bin is a directory");
}

TEST_F(Folder, VolumesAreFilledWithoutLeavingTheRoot) {
    file("data/file", "content", 0640);
    file("data/sub/other", "x", 0600);
    std::filesystem::create_symlink("/etc/passwd", path_ + "/data/link");
    std::filesystem::create_hard_link(path_ + "/data/file", path_ + "/data/sub/again");
    std::filesystem::create_symlink("../../../../etc", path_ + "/escape");
    std::filesystem::create_directory(path_ + "/target");
    ASSERT_TRUE(populate_volume(fd_.get(), "/data", path_ + "/target"));
    EXPECT_EQ(*read_file(path_ + "/target/file"), "content");
    EXPECT_TRUE(std::filesystem::is_symlink(path_ + "/target/link"));
    EXPECT_TRUE(std::filesystem::equivalent(path_ + "/target/file", path_ + "/target/sub/again"));
    EXPECT_EQ(*tree_size(path_ + "/target"), 7 + 1 + 7);
    std::filesystem::create_directory(path_ + "/empty");
    EXPECT_TRUE(populate_volume(fd_.get(), "/nowhere", path_ + "/empty"));
    EXPECT_TRUE(populate_volume(fd_.get(), "/escape", path_ + "/empty"));  // resolved inside: there is no /etc in here
    EXPECT_TRUE(std::filesystem::is_empty(path_ + "/empty"));
}

}  // namespace
}  // namespace wherry::engine
