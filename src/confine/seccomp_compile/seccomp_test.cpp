#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <functional>
#include <optional>
#include <set>

#include "base/clock.hpp"
#include "base/digest.hpp"
#include "confine/seccomp_compile/compile.hpp"
#include "confine/seccomp_log.hpp"

namespace wherry::confine {
namespace {

SeccompConditions docker_like() {
    return {.capabilities = docker_default_capabilities(), .kernel = {6, 18}};
}

// What `body` returns (0..255) in a child under the program; nullopt when it was killed.
std::optional<int> run_under(const SeccompProgram& program, const std::function<int()>& body) {
    pid_t child = ::fork();
    if (child == 0) {
        ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (post_fork::install_seccomp(program.instructions, program.flags) != 0) ::_exit(250);
        ::_exit(body());
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (!WIFEXITED(status)) return std::nullopt;
    return WEXITSTATUS(status);
}

int error_of(long result) {
    return result < 0 ? errno : 0;
}

const SeccompProgram& default_program() {
    static const SeccompProgram program = compile_seccomp(default_seccomp_profile(docker_like())).value();
    return program;
}

TEST(SeccompDefault, OrdinaryCallsWork) {
    EXPECT_LT(default_program().instructions.size(), 4096U);
    EXPECT_EQ(run_under(default_program(),
                        [] {
                            int fds[2];
                            if (::pipe(fds) != 0 || ::write(fds[1], "x", 1) != 1) return 1;
                            if (::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) < 0) return 2;
                            if (::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) < 0) return 3;
                            if (::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0) < 0) return 4;
                            pid_t child = ::fork();
                            if (child == 0) ::_exit(7);
                            int status = 0;
                            ::waitpid(child, &status, 0);
                            return WEXITSTATUS(status) == 7 ? 0 : 5;
                        }),
              0);
}

TEST(SeccompDefault, DangerousCallsAreDenied) {
    struct Denied {
        const char* name;
        std::function<long()> call;
        int error;
    };
    const Denied denied[] = {
        {"mount", [] { return ::syscall(SYS_mount, 0, 0, 0, 0, 0); }, EPERM},
        {"unshare", [] { return ::syscall(SYS_unshare, CLONE_NEWUSER); }, EPERM},
        {"setns", [] { return ::syscall(SYS_setns, -1, 0); }, EPERM},
        {"clone of a user namespace", [] { return ::syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0); }, EPERM},
        {"clone3", [] { return ::syscall(SYS_clone3, nullptr, 0); }, ENOSYS},
        {"AF_ALG", [] { return static_cast<long>(::socket(AF_ALG, SOCK_SEQPACKET, 0)); }, EPERM},
        {"AF_VSOCK", [] { return static_cast<long>(::socket(AF_VSOCK, SOCK_STREAM, 0)); }, EPERM},
        {"keyctl", [] { return ::syscall(SYS_keyctl, 0, 0, 0, 0, 0); }, EPERM},
        {"add_key", [] { return ::syscall(SYS_add_key, 0, 0, 0, 0, 0); }, EPERM},
        {"bpf", [] { return ::syscall(SYS_bpf, 0, 0, 0); }, EPERM},
        {"io_uring_setup", [] { return ::syscall(SYS_io_uring_setup, 1, 0); }, EPERM},
        {"open_by_handle_at", [] { return ::syscall(SYS_open_by_handle_at, -1, 0, 0); }, EPERM},
        {"userfaultfd", [] { return ::syscall(SYS_userfaultfd, 0); }, EPERM},
        {"kexec_load", [] { return ::syscall(SYS_kexec_load, 0, 0, 0, 0); }, EPERM},
        {"init_module", [] { return ::syscall(SYS_init_module, 0, 0, 0); }, EPERM},
        {"perf_event_open", [] { return ::syscall(SYS_perf_event_open, 0, 0, 0, 0, 0); }, EPERM},
        {"reboot", [] { return ::syscall(SYS_reboot, 0, 0, 0, 0); }, EPERM},
        {"swapon", [] { return ::syscall(SYS_swapon, 0, 0); }, EPERM},
        {"pivot_root", [] { return ::syscall(SYS_pivot_root, 0, 0); }, EPERM},
        {"personality", [] { return ::syscall(SYS_personality, ADDR_NO_RANDOMIZE); }, EPERM},
        {"a call of the future", [] { return ::syscall(900); }, ENOSYS},
    };
    for (const Denied& one : denied)
        EXPECT_EQ(run_under(default_program(), [&] { return error_of(one.call()); }), one.error) << one.name;
    EXPECT_EQ(run_under(default_program(), [] { return error_of(::syscall(SYS_personality, 0xffffffff)); }), 0);
}

TEST(SeccompDefault, CallsYoungerThanTheLibraryAreAllowed) {
    // mseal and statmount with nonsense: the kernel's own answer, not the filter's. (ENOSYS of an older kernel is one,
    // too.)
    EXPECT_NE(run_under(default_program(), [] { return error_of(::syscall(462, 1, 1, 1)); }), EPERM);
    EXPECT_NE(run_under(default_program(), [] { return error_of(::syscall(457, 0, 0, 0, 0)); }), EPERM);
    EXPECT_NE(run_under(default_program(), [] { return error_of(::syscall(452, -1, "", 0, 0)); }), EPERM);
    // lsm_list_modules is known and not listed.
    EXPECT_EQ(run_under(default_program(), [] { return error_of(::syscall(461, 0, 0, 0)); }), EPERM);
}

#if defined(__x86_64__)
// The 32-bit entry must be no way around.
int call_32(int number, int first) {
    int result = 0;
    asm volatile("int $0x80" : "=a"(result) : "a"(number), "b"(first) : "memory", "r8", "r9", "r10", "r11");
    return result;
}

TEST(SeccompDefault, ThirtyTwoBitCalls) {
    if (call_32(20, 0) == -ENOSYS) GTEST_SKIP() << "the kernel has no 32-bit calls";
    EXPECT_EQ(run_under(default_program(), [] { return call_32(20, 0) > 0 ? 0 : 1; }), 0);        // getpid
    EXPECT_EQ(run_under(default_program(), [] { return -call_32(310, CLONE_NEWUSER); }), EPERM);  // unshare
    EXPECT_EQ(run_under(default_program(), [] { return -call_32(359, AF_ALG); }), EPERM);         // socket
    EXPECT_EQ(run_under(default_program(), [] { return -call_32(102, 1); }), EPERM);              // socketcall
    EXPECT_EQ(run_under(default_program(), [] { return -call_32(900, 0); }), ENOSYS);
    EXPECT_EQ(run_under(default_program(), [] { return error_of(::syscall(0x40000000L + 272, CLONE_NEWUSER)); }),
              EPERM);  // x32 unshare
}
#endif

// Every name of the default profile, compared with moby/profiles (seccomp/v0.2.3; the table of Docker 28) by hand when
// this was written. A change of the table has to be meant: then the digest is replaced.
TEST(SeccompDefault, NamesArePinned) {
    auto names_for = [](CapabilitySet capabilities) {
        std::set<std::string> names;
        SeccompConditions conditions = docker_like();
        conditions.capabilities = capabilities;
        for (const SeccompRule& rule : default_seccomp_profile(conditions).rules) {
            if (rule.action == SeccompAction::allow) names.insert(rule.names.begin(), rule.names.end());
        }
        return names;
    };
    auto digest = [](const std::set<std::string>& names) {
        std::string text;
        for (const std::string& name : names) text += name + "\n";
        return std::to_string(names.size()) + " " + sha256_hex(text).substr(0, 16);
    };
#if defined(__x86_64__)
    EXPECT_EQ(digest(names_for(CapabilitySet())), "367 126b487c1641c04b");
    EXPECT_EQ(digest(names_for(all_capabilities())), "413 ab1aa33e27e76dea");
#endif
    std::set<std::string> all = names_for(all_capabilities());
    for (const std::string& name : names_for(CapabilitySet())) EXPECT_TRUE(all.contains(name)) << name;
    for (const char* name : {"lsm_get_self_attr", "lsm_set_self_attr", "lsm_list_modules"}) {
        EXPECT_TRUE(all.contains(name));
        EXPECT_FALSE(names_for(CapabilitySet()).contains(name));
    }
}

TEST(SeccompDefault, CapabilitiesOpenCalls) {
    SeccompConditions admin = docker_like();
    admin.capabilities.add(CAP_SYS_ADMIN);
    SeccompProgram program = compile_seccomp(default_seccomp_profile(admin)).value();
    EXPECT_NE(run_under(program, [] { return error_of(::syscall(SYS_clone3, nullptr, 0)); }), ENOSYS);
    EXPECT_NE(run_under(program, [] { return error_of(::syscall(SYS_mount, 0, 0, 0, 0, 0)); }), EPERM);
    EXPECT_EQ(run_under(program, [] { return error_of(::syscall(SYS_reboot, 0, 0, 0, 0)); }), EPERM);
}

TEST(SeccompProfile, DockerFormat) {
    constexpr std::string_view text = R"({
      "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
      "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                  {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
      "syscalls": [
        {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}, "excludes": {}},
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["futurecall"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
        {"names": ["swapcontext"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["ppc64le"]}},
        {"name": "exit", "action": "SCMP_ACT_ALLOW"}
      ]})";
    auto profile = resolve_seccomp_profile(text, docker_like());
    ASSERT_TRUE(profile) << profile.error().describe();
    ASSERT_EQ(profile->rules.size(), 4U);
    EXPECT_EQ(profile->rules[1].names[0], "clone3");
    EXPECT_EQ(profile->rules[2].names[0], "ptrace");
    EXPECT_EQ(profile->rules[3].names[0], "exit");
    EXPECT_EQ(profile->default_error_number, 38U);
    // As OCI's document and back.
    json::object document = to_oci_json(*profile);
    EXPECT_EQ(parse_oci_seccomp(JsonReader(document)).value(), *profile);
}

TEST(SeccompProfile, BadProfilesAreNamed) {
    for (
        const char* bad : {
            "[]",
            "{}",
            R"({"defaultAction":"SCMP_ACT_NONSENSE"})",
            R"({"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"]}]})",
            R"({"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_ERRNO"}]})",
            R"({"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"name":"x","action":"SCMP_ACT_ERRNO"}]})",
            R"({"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}]})",
            R"({"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]})",
        }) {
        auto profile = resolve_seccomp_profile(bad, docker_like());
        ASSERT_FALSE(profile) << bad;
        EXPECT_EQ(profile.error().code(), Code::invalid_argument) << bad;
    }
    SeccompProfile profile;
    profile.flags = {"SECCOMP_FILTER_FLAG_NONSENSE"};
    EXPECT_EQ(compile_seccomp(profile).error().code(), Code::invalid_argument);
    profile.flags.clear();
    profile.architectures = {"SCMP_ARCH_Z80"};
    EXPECT_EQ(compile_seccomp(profile).error().code(), Code::invalid_argument);
}

TEST(SeccompProfile, DenyListAndKill) {
    SeccompProfile profile;
    profile.default_action = SeccompAction::allow;
    profile.rules.push_back({.names = {"getppid"}, .action = SeccompAction::error_number, .error_number = 77});
    profile.rules.push_back({.names = {"getpgrp"}, .action = SeccompAction::kill_process});
    SeccompProgram program = compile_seccomp(profile).value();
    EXPECT_EQ(run_under(program, [] { return error_of(::syscall(SYS_getppid)); }), 77);
    EXPECT_EQ(run_under(program, [] { return error_of(::syscall(SYS_getpgrp)); }), std::nullopt);
    EXPECT_EQ(run_under(program, [] { return error_of(::syscall(900)); }), ENOSYS);
}

TEST(SeccompProgram, SerializedAndDamaged) {
    std::string bytes = serialize(default_program());
    auto again = parse_seccomp_program(bytes);
    ASSERT_TRUE(again);
    EXPECT_EQ(again->instructions.size(), default_program().instructions.size());
    for (std::size_t length : {std::size_t{0}, std::size_t{10}, std::size_t{64}, bytes.size() - 1})
        EXPECT_EQ(parse_seccomp_program(bytes.substr(0, length)).error().code(), Code::data_loss);
    EXPECT_FALSE(parse_seccomp_program(bytes + "x"));
    for (std::size_t at :
         {std::size_t{0}, std::size_t{9}, std::size_t{17}, std::size_t{25}, std::size_t{70}, bytes.size() - 1}) {
        std::string damaged = bytes;
        damaged[at] = static_cast<char>(damaged[at] ^ 1);
        EXPECT_FALSE(parse_seccomp_program(damaged)) << at;
    }
}

class Cache : public testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/wherry-seccomp-XXXXXX";
        ASSERT_NE(::mkdtemp(name), nullptr);
        directory_ = std::string(name) + "/cache";
        root_ = name;
    }
    void TearDown() override { ASSERT_TRUE(remove_tree(root_)); }
    std::string root_;
    std::string directory_;
};

TEST_F(Cache, KeepsAndRebuilds) {
    SeccompProfile profile = default_seccomp_profile(docker_like());
    auto first = SeccompCache::open(directory_)->get(profile);
    ASSERT_TRUE(first) << first.error().describe();
    struct stat info{};
    ASSERT_EQ(::stat(directory_.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777U, 0700U);
    EXPECT_EQ(first->path, directory_ + "/" + seccomp_cache_key(profile) + ".bpf");
    std::string good = *read_file(first->path);
    EXPECT_EQ(load_seccomp_program(first->path)->instructions.size(), default_program().instructions.size());

    // Tampered with, with a checksum that fits: the digest tells. Truncated: the length tells.
    auto evil = *parse_seccomp_program(good);
    evil.instructions.back().k = SECCOMP_RET_ALLOW;
    for (const std::string& bad : {serialize(evil), good.substr(0, 100), std::string()}) {
        ASSERT_TRUE(write_file_atomic(first->path, bad, 0600, Durability::none));
        auto again = SeccompCache::open(directory_)->get(profile);
        ASSERT_TRUE(again);
        EXPECT_EQ(again->program->instructions.size(), default_program().instructions.size());
        EXPECT_EQ(*read_file(first->path), good);
    }
    // Swept away under a running daemon.
    auto cache = SeccompCache::open(directory_);
    ASSERT_TRUE(cache->get_default(docker_like()));
    ASSERT_EQ(::unlink(first->path.c_str()), 0);
    EXPECT_EQ(cache->get_default(docker_like())->path, first->path);
    EXPECT_EQ(*read_file(first->path), good);
    // Another set of capabilities is another program.
    SeccompConditions admin = docker_like();
    admin.capabilities.add(CAP_SYS_ADMIN);
    EXPECT_NE(cache->get_default(admin)->path, first->path);
}

TEST_F(Cache, Times) {
    SeccompProfile profile = default_seccomp_profile(docker_like());
    std::int64_t t0 = monotonic_ns();
    ASSERT_TRUE(compile_seccomp(profile));
    std::int64_t t1 = monotonic_ns();
    ASSERT_TRUE(SeccompCache::open(directory_)->get(profile));
    auto cache = SeccompCache::open(directory_);
    std::int64_t t2 = monotonic_ns();
    auto entry = cache->get_default(docker_like());
    std::int64_t t3 = monotonic_ns();
    ASSERT_TRUE(cache->get_default(docker_like()));
    std::int64_t t4 = monotonic_ns();
    ASSERT_TRUE(load_seccomp_program(entry->path));
    std::int64_t t5 = monotonic_ns();
    std::printf("instructions %zu; compile %ld us, from a file %ld us, remembered %ld us, load in the shim %ld us\n",
                entry->program->instructions.size(), (t1 - t0) / 1000, (t3 - t2) / 1000, (t4 - t3) / 1000,
                (t5 - t4) / 1000);
}

TEST(SyscallName, Names) {
    EXPECT_EQ(syscall_name(AUDIT_ARCH_X86_64, 257), "openat");
    EXPECT_EQ(syscall_name(AUDIT_ARCH_I386, 295), "openat");
    EXPECT_EQ(syscall_name(AUDIT_ARCH_X86_64, 462), "mseal");
    EXPECT_EQ(syscall_name(AUDIT_ARCH_X86_64, 100'000), std::nullopt);
    EXPECT_EQ(syscall_name(12345, 1), std::nullopt);
}

TEST(SeccompLogTest, DeniedCallsAreSeen) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    int sources = 0;
    for (auto source : {SeccompLog::Source::netlink, SeccompLog::Source::kernel_log}) {
        auto log = SeccompLog::open(source);
        if (!log) {
            std::printf("source %d: %s\n", static_cast<int>(source), log.error().describe().c_str());
            continue;
        }
        SeccompProgram program = default_program();
        program.flags |= SECCOMP_FILTER_FLAG_LOG;
        pid_t inner = 0;
        int fds[2];
        ASSERT_EQ(::pipe(fds), 0);
        run_under(program, [&] {
            pid_t self = ::getpid();
            (void)!::write(fds[1], &self, sizeof self);
            return error_of(::syscall(SYS_keyctl, 0, 0, 0, 0, 0));
        });
        ASSERT_EQ(::read(fds[0], &inner, sizeof inner), static_cast<ssize_t>(sizeof inner));
        ::close(fds[0]);
        ::close(fds[1]);
        bool seen = false;
        for (int i = 0; i < 20 && !seen; ++i) {
            pollfd ready{.fd = log->fd(), .events = POLLIN, .revents = 0};
            if (::poll(&ready, 1, 50) <= 0) continue;
            auto denials = log->read();
            ASSERT_TRUE(denials) << denials.error().describe();
            for (const SeccompDenial& denial : *denials)
                if (denial.pid == inner && denial.syscall == SYS_keyctl && denial.arch == AUDIT_ARCH_X86_64)
                    seen = true;
        }
        std::printf("source %d: %s\n", static_cast<int>(source), seen ? "works" : "nothing came");
        sources += seen ? 1 : 0;
    }
    if (sources == 0) GTEST_SKIP() << "this kernel shows no seccomp records to us";
}

TEST(SeccompLogTest, CostOfALoggedDenial) {
    for (bool logged : {false, true}) {
        SeccompProgram program = default_program();
        if (logged) program.flags |= SECCOMP_FILTER_FLAG_LOG;
        run_under(program, [&] {
            for (int count : {10, 200, 2000}) {
                std::int64_t start = monotonic_ns();
                for (int i = 0; i < count; ++i) ::syscall(SYS_keyctl, 0, 0, 0, 0, 0);
                std::printf("%s, %d denied calls: %ld ns each\n", logged ? "logged" : "not logged", count,
                            (monotonic_ns() - start) / count);
            }
            std::fflush(stdout);
            return 0;
        });
    }
}

}  // namespace
}  // namespace wherry::confine
