#include "confine/jail.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <functional>

#include "confine/process_attributes.hpp"

namespace wherry::confine {
namespace {

class JailTest : public testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root";
        char name[] = "/tmp/wherry-jail-XXXXXX";
        ASSERT_NE(::mkdtemp(name), nullptr);
        path_ = name;
        root_ = open_file(path_, O_RDONLY | O_DIRECTORY).value();
    }
    void TearDown() override {
        if (!path_.empty()) EXPECT_TRUE(remove_tree(path_));
    }
    // The exit code of body inside the jail; 200 + step when entering failed.
    static int run(Jail jail, const std::function<int()>& body) {
        auto prepared = PreparedJail::prepare(std::move(jail));
        if (!prepared) return 199;
        pid_t child = ::fork();
        if (child == 0) {
            auto failure = post_fork::enter_jail(*prepared);
            if (failure.error != 0) ::_exit(200 + static_cast<int>(failure.step));
            ::_exit(body());
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    }
    std::string path_;
    Fd root_;
};

int looks_confined() {
    if (::access("/etc/passwd", F_OK) == 0) return 1;
    if (::access("/inside", F_OK) != 0) return 2;
    if (::access("/../../../etc/passwd", F_OK) == 0) return 3;
    char where[64];
    if (::getcwd(where, sizeof where) == nullptr || std::string_view(where) != "/") return 4;
    if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 5;
    if (::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0) return 6;
    auto caps = capabilities_of_this_thread();
    if (!caps || caps->permitted != CapabilitySet{CAP_CHOWN} || caps->bounding != CapabilitySet{CAP_CHOWN}) return 7;
    if (::chroot("/") == 0 || errno != EPERM) return 8;
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_max != 64) return 9;
    for (int fd = 3; fd < 100; ++fd)
        if (::fcntl(fd, F_GETFD) >= 0) return 10;
    return 0;
}

TEST_F(JailTest, EverythingElseIsGone) {
    ASSERT_TRUE(write_file_atomic(path_ + "/inside", "x", 0600, Durability::none));
    int leak = ::open("/", O_RDONLY | O_DIRECTORY);  // on purpose without close-on-exec
    for (JailRoot kind : {JailRoot::pivot, JailRoot::chroot_only}) {
        Jail jail{.root_kind = kind, .root = root_.get(), .keep_capabilities = {CAP_CHOWN}};
        jail.limits.push_back({.resource = RLIMIT_NOFILE, .soft = 64, .hard = 64});
        EXPECT_EQ(run(std::move(jail), looks_confined), 0) << static_cast<int>(kind);
    }
    ::close(leak);
}

TEST_F(JailTest, HostsMountsStayAsTheyWere) {
    std::string before = read_file("/proc/self/mountinfo").value();
    EXPECT_EQ(run({.root_kind = JailRoot::pivot, .root = root_.get()}, [] { return 0; }), 0);
    EXPECT_EQ(read_file("/proc/self/mountinfo").value(), before);
}

TEST_F(JailTest, AnotherUser) {
    Jail jail{.uid = 65534, .gid = 65534, .keep_capabilities = {CAP_CHOWN}};
    EXPECT_EQ(run(std::move(jail),
                  [] {
                      if (::getuid() != 65534 || ::getgid() != 65534 || ::getgroups(0, nullptr) != 0) return 1;
                      auto caps = capabilities_of_this_thread();
                      return caps && caps->effective == CapabilitySet{CAP_CHOWN} ? 0 : 2;
                  }),
              0);
}

TEST_F(JailTest, KeepsTheDescriptorsAskedFor) {
    Fd kept = open_file("/dev/null", O_RDONLY).value();
    Fd other = open_file("/dev/null", O_RDONLY).value();
    Jail jail{.keep_fds = {kept.get(), 2, 1, 0, kept.get()}};
    EXPECT_EQ(run(std::move(jail),
                  [&] {
                      return ::fcntl(kept.get(), F_GETFD) >= 0 && ::fcntl(other.get(), F_GETFD) < 0 &&
                                     ::fcntl(1, F_GETFD) >= 0
                                 ? 0
                                 : 1;
                  }),
              0);
}

TEST_F(JailTest, DiesWithItsParent) {
    Pipe pipe = make_pipe().value();
    pid_t middle = ::fork();
    if (middle == 0) {
        pid_t self = ::getpid();
        if (::fork() == 0) {
            auto prepared = PreparedJail::prepare({.die_with_parent = self, .keep_fds = {pipe.write.get()}});
            if (!prepared || post_fork::enter_jail(*prepared).error != 0) ::_exit(1);
            (void)!::write(pipe.write.get(), "x", 1);
            while (true) ::pause();
        }
        char byte = 0;
        (void)!::read(pipe.read.get(), &byte, 1);
        ::_exit(0);
    }
    pipe.write.reset();
    ::waitpid(middle, nullptr, 0);
    char byte = 0;
    EXPECT_EQ(::read(pipe.read.get(), &byte, 1), 0);  // the end: the jailed one is gone
}

TEST_F(JailTest, WrongJailsAreRefused) {
    EXPECT_FALSE(PreparedJail::prepare({.root_kind = JailRoot::pivot}));
    EXPECT_FALSE(PreparedJail::prepare({.namespaces = 0x20000000 /* CLONE_NEWPID */}));
}

TEST(CloseAllBut, KeepsWhatIsListed) {
    pid_t child = ::fork();
    if (child == 0) {
        for (int fd : {10, 11, 12, 20})
            if (::dup2(2, fd) < 0) ::_exit(1);
        const int keep[] = {-1, 2, 11, 20};
        if (post_fork::close_all_but(keep) != 0) ::_exit(2);
        for (int fd = 0; fd < 64; ++fd)
            if ((::fcntl(fd, F_GETFD) >= 0) != (fd == 2 || fd == 11 || fd == 20)) ::_exit(3);
        ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace wherry::confine
