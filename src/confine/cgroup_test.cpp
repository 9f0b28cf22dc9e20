#include "confine/cgroup.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <functional>

#include "base/clock.hpp"
#include "confine/cgroup_internal.hpp"

namespace wherry::confine {
namespace {

using std::chrono::milliseconds;

constexpr std::string_view hybrid_mounts =
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 /docker/x /mnt/part rw - cgroup cgroup rw,memory\n"
    "34 31 0:30 / /sys/fs/cgroup/me\\040mory rw - cgroup cgroup rw,memory\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n";

TEST(CgroupSystem, Hybrid) {
    auto system = CgroupSystem::parse(
        hybrid_mounts, "5:net_cls:/\n3:memory:/a:b\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/u\n", "hugetlb\n");
    ASSERT_TRUE(system) << system.error().describe();
    EXPECT_EQ(system->mode(), CgroupMode::hybrid);
    ASSERT_EQ(system->hierarchies().size(), 4U);  // net_cls is not mounted
    EXPECT_EQ(system->v1_with("memory")->mount_point, "/sys/fs/cgroup/me mory");
    EXPECT_EQ(system->v1_with("memory")->own_path, "/a:b");
    EXPECT_EQ(system->v1_with("cpuacct")->mount_point, "/sys/fs/cgroup/cpu,cpuacct");
    EXPECT_EQ(system->unified()->mount_point, "/sys/fs/cgroup/unified");
    EXPECT_TRUE(system->on_v2("hugetlb"));
    EXPECT_FALSE(system->has("net_cls"));
}

TEST(CgroupSystem, PureV2AndV1) {
    auto v2 = CgroupSystem::parse("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/init.scope\n",
                                  "cpu io memory pids");
    ASSERT_TRUE(v2);
    EXPECT_EQ(v2->mode(), CgroupMode::v2);
    EXPECT_TRUE(v2->has("memory"));
    auto v1 = CgroupSystem::parse("30 23 0:26 / /cg/memory rw - cgroup cgroup rw,memory\n", "1:memory:/\n", "");
    ASSERT_TRUE(v1);
    EXPECT_EQ(v1->mode(), CgroupMode::v1);
    EXPECT_EQ(v1->unified(), nullptr);
    EXPECT_FALSE(CgroupSystem::parse("", "0::/\n", ""));
}

TEST(CgroupPath, Validation) {
    EXPECT_TRUE(validate_cgroup_path("/wherry/abc"));
    for (const char* bad : {"", "/", "wherry", "/wherry/", "/a//b", "/a/../b", "/a/.", "/a\nb"})
        EXPECT_FALSE(validate_cgroup_path(bad)) << bad;
    EXPECT_FALSE(validate_cgroup_path("/" + std::string(256, 'a')));
}

// The rest makes real cgroups.
class LiveCgroup : public testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root";
        auto system = CgroupSystem::of_this_host();
        if (!system) GTEST_SKIP() << system.error().describe();
        if (::access((*system)->hierarchies().front().mount_point.c_str(), W_OK) != 0)
            GTEST_SKIP() << "cgroups are read-only here";
        system_ = *system;
        parent_ = "/wherry-test-" + std::to_string(::getpid());
    }
    void TearDown() override {
        if (system_ == nullptr) return;
        for (pid_t child : children_) {
            ::kill(child, SIGKILL);
            ::waitpid(child, nullptr, 0);
        }
        auto removed = remove_cgroup_by_path(*system_, parent_);
        EXPECT_TRUE(removed) << removed.error().describe();
        EXPECT_TRUE(list_child_cgroups(*system_, parent_)->empty());
    }

    Cgroup make(const std::string& name) {
        auto group = Cgroup::create(*system_, parent_ + "/" + name);
        if (!group) throw std::runtime_error(group.error().describe());
        return std::move(*group);
    }

    // A child inside the cgroup that runs `body` and exits with what it returns.
    pid_t spawn(Cgroup& group, const std::function<int()>& body) {
        auto join = group.prepare_join();
        if (!join) throw std::runtime_error(join.error().describe());
        struct {
            std::uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
                set_tid_size, cgroup;
        } arguments{};
        arguments.exit_signal = SIGCHLD;
        if (join->unified_directory() >= 0) {
            arguments.flags = 0x200000000ULL;  // CLONE_INTO_CGROUP
            arguments.cgroup = static_cast<std::uint64_t>(join->unified_directory());
        }
        // SAFETY: a fork without shared memory; the child only runs the test's body and leaves.
        auto pid = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
        if (pid == 0) {
            if (post_fork::join_cgroups(join->task_files()) != 0) ::_exit(120);
            ::_exit(body());
        }
        if (pid < 0) throw std::runtime_error("clone3");
        children_.push_back(pid);
        return pid;
    }
    int wait(pid_t pid) {
        int status = 0;
        ::waitpid(pid, &status, 0);
        std::erase(children_, pid);
        return status;
    }
    static int sleep_long() {
        while (true) ::pause();
    }
    // Waits (bounded) until the cgroup holds as many processes.
    static bool holds(const Cgroup& group, std::size_t count) {
        for (int i = 0; i < 2000; ++i) {
            auto pids = group.pids();
            auto populated = group.statistics();
            if (pids && pids->size() == count && populated && (!count || populated->pids_current == count)) return true;
            ::usleep(1000);
        }
        return false;
    }

    const CgroupSystem* system_ = nullptr;
    std::string parent_;
    std::vector<pid_t> children_;
};

TEST_F(LiveCgroup, CreateJoinRemove) {
    Cgroup group = make("a");
    auto again = Cgroup::create(*system_, group.path());
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().code(), Code::already_exists);
    EXPECT_EQ(*list_child_cgroups(*system_, parent_), std::vector<std::string>{"a"});

    pid_t child = spawn(group, sleep_long);
    ASSERT_TRUE(holds(group, 1));
    EXPECT_EQ(group.pids()->front(), child);
    EXPECT_TRUE(*group.populated());
    // In every hierarchy.
    std::string where = *read_file("/proc/" + std::to_string(child) + "/cgroup");
    for (const CgroupHierarchy& hierarchy : system_->hierarchies()) {
        std::string end = (hierarchy.unified ? "0::" : hierarchy.controllers.front() + ":") + group.path() + "\n";
        EXPECT_NE(where.find(end), std::string::npos) << end << where;
    }
    // With a process inside it does not go, and says so in time.
    auto removed = group.remove(milliseconds(50));
    ASSERT_FALSE(removed);
    EXPECT_EQ(removed.error().code(), Code::deadline_exceeded);
    ASSERT_TRUE(group.kill_all());
    EXPECT_EQ(WTERMSIG(wait(child)), SIGKILL);
    ASSERT_TRUE(group.remove());
    EXPECT_TRUE(group.remove());  // missing is fine
    EXPECT_EQ(Cgroup::open(*system_, group.path()).error().code(), Code::not_found);
    EXPECT_EQ(group.statistics().error().code(), Code::not_found);
}

TEST_F(LiveCgroup, RemovesNestedCgroupsAtOnceAfterKilling) {
    for (int round = 0; round < 10; ++round) {
        Cgroup group = make("busy");
        Cgroup nested = make("busy/below/deep");
        std::vector<pid_t> pids{spawn(nested, sleep_long)};
        // cgroup v2 keeps processes out of a cgroup whose children have controllers (cgroups(7), "no internal
        // processes").
        if (system_->mode() != CgroupMode::v2) pids.push_back(spawn(group, sleep_long));
        ASSERT_TRUE(group.kill_all());
        auto removed = group.remove();  // nobody has waited for the processes
        EXPECT_TRUE(removed) << removed.error().describe();
        for (pid_t pid : pids) EXPECT_EQ(WTERMSIG(wait(pid)), SIGKILL);
    }
}

TEST_F(LiveCgroup, KillsABombThatKeepsForking) {
    Cgroup group = make("bomb");
    CgroupResources resources;
    resources.pids_limit = 50;
    ASSERT_TRUE(group.apply(resources));
    pid_t child = spawn(group, [] {
        ::signal(SIGCHLD, SIG_IGN);
        while (true)
            if (::fork() < 0) ::usleep(100);
        return 0;
    });
    ::usleep(20'000);
    ASSERT_TRUE(group.kill_all());
    wait(child);
    auto removed = group.remove();
    EXPECT_TRUE(removed) << removed.error().describe();
}

TEST_F(LiveCgroup, FreezeThawAndKillFrozen) {
    Cgroup group = make("cold");
    pid_t child = spawn(group, sleep_long);
    ASSERT_TRUE(holds(group, 1));
    auto frozen = group.freeze();
    ASSERT_TRUE(frozen) << frozen.error().describe();
    EXPECT_TRUE(*group.frozen());
    ASSERT_TRUE(group.thaw());
    EXPECT_FALSE(*group.frozen());
    ASSERT_TRUE(group.freeze());
    ASSERT_TRUE(group.kill_all());
    EXPECT_EQ(WTERMSIG(wait(child)), SIGKILL);
}

TEST_F(LiveCgroup, KillsProcessesOfAFrozenV1Freezer) {
    if (system_->v1_with("freezer") == nullptr) GTEST_SKIP() << "no v1 freezer";
    Cgroup group = make("icy");
    pid_t child = spawn(group, sleep_long);
    ASSERT_TRUE(holds(group, 1));
    std::string state = cgroup_detail::full_path(*system_->v1_with("freezer"), group.path()) + "/freezer.state";
    ASSERT_TRUE(write_control_file(state, "FROZEN"));
    ASSERT_TRUE(group.kill_all());
    EXPECT_EQ(WTERMSIG(wait(child)), SIGKILL);
}

TEST_F(LiveCgroup, LimitsAreWhatWasAskedFor) {
    Cgroup group = make("limits");
    CgroupResources r;
    r.memory = {.limit = 64 << 20, .reservation = 32 << 20, .swap = 96 << 20, .swappiness = 10};
    r.cpu = {.shares = 512, .quota_us = 50'000, .burst_us = 10'000, .period_us = 100'000, .cpus = "0", .mems = "0"};
    r.pids_limit = 17;
    r.block_io.weight = 300;
    std::vector<std::string> warnings;
    auto applied = group.apply(r, &warnings);
    ASSERT_TRUE(applied) << applied.error().describe();
    auto stats = group.statistics();
    ASSERT_TRUE(stats);
    EXPECT_EQ(stats->memory.limit, 64U << 20U);
    EXPECT_EQ(stats->pids_limit, 17U);
    if (const CgroupHierarchy* cpu = system_->v1_with("cpu")) {
        std::string at = cgroup_detail::full_path(*cpu, group.path());
        EXPECT_EQ(*read_file(at + "/cpu.shares"), "512\n");
        EXPECT_EQ(*read_file(at + "/cpu.cfs_quota_us"), "50000\n");
        EXPECT_EQ(*read_file(at + "/cpu.cfs_burst_us"), "10000\n");
        EXPECT_EQ(*read_file(cgroup_detail::full_path(*system_->v1_with("cpuset"), group.path()) + "/cpuset.cpus"),
                  "0\n");
        EXPECT_EQ(*read_file(cgroup_detail::full_path(*system_->v1_with("memory"), group.path()) +
                             "/memory.memsw.limit_in_bytes"),
                  std::to_string(96 << 20) + "\n");
    }
    // Up and down again, in an order the kernel takes; and a smaller period with a smaller quota.
    for (std::int64_t megabytes : {256, 16, 512}) {
        CgroupResources change;
        change.memory = {.limit = megabytes << 20, .swap = megabytes << 21};
        change.cpu = {
            .quota_us = megabytes * 100, .burst_us = 1000, .period_us = static_cast<std::uint64_t>(megabytes * 200)};
        applied = group.apply(change);
        ASSERT_TRUE(applied) << applied.error().describe();
        EXPECT_EQ(group.statistics()->memory.limit, static_cast<std::uint64_t>(megabytes) << 20U);
    }
    CgroupResources unlimited_again;
    unlimited_again.memory.limit = -1;
    unlimited_again.cpu.quota_us = -1;
    unlimited_again.pids_limit = -1;
    applied = group.apply(unlimited_again);
    ASSERT_TRUE(applied) << applied.error().describe();
    EXPECT_EQ(group.statistics()->pids_limit, 0U);
}

TEST_F(LiveCgroup, ClearErrors) {
    Cgroup group = make("wrong");
    CgroupResources r;
    r.cpu.cpus = "900";
    auto applied = group.apply(r);
    ASSERT_FALSE(applied);
    EXPECT_EQ(applied.error().code(), Code::invalid_argument);
    EXPECT_NE(applied.error().describe().find("a set of processors of 900"), std::string::npos)
        << applied.error().describe();
    r = {};
    r.memory = {.limit = 64 << 20, .swap = 32 << 20};
    EXPECT_EQ(group.apply(r).error().code(), Code::invalid_argument);
    r = {};
    r.unified["../../x.y"] = "1";
    EXPECT_EQ(group.apply(r).error().code(), Code::invalid_argument);
    r = {};
    r.unified["cgroup.procs"] = "1";
    EXPECT_EQ(group.apply(r).error().code(), Code::invalid_argument);
    r = {};
    r.hugepages.push_back({.page_size = "3MB", .limit = 0});
    EXPECT_EQ(group.apply(r).error().code(), Code::unimplemented);
    const CgroupSystem& system = *CgroupSystem::of_this_host().value();
    r = {};
    r.network.class_id = 0x100001;
    EXPECT_EQ(group.apply(r).has_value(), system.v1_with("net_cls") != nullptr);
    r = {};
    r.network.priorities.emplace_back("lo", 3);
    EXPECT_EQ(group.apply(r).has_value(), system.v1_with("net_prio") != nullptr);
    r = {};
    r.rdma.push_back({.device = "no-such-device", .hca_handles = 1, .hca_objects = std::nullopt});
    auto rdma = group.apply(r);
    ASSERT_FALSE(rdma);
    EXPECT_NE(rdma.error().describe().find("RDMA"), std::string::npos);
}

TEST_F(LiveCgroup, TellsOfAnOutOfMemoryKill) {
    Cgroup group = make("oom");
    CgroupResources r;
    r.memory = {.limit = 8 << 20, .swap = 8 << 20};
    ASSERT_TRUE(group.apply(r));
    auto watch = group.watch_oom();
    ASSERT_TRUE(watch) << watch.error().describe();
    pid_t child = spawn(group, [] {
        constexpr std::size_t size = 64U << 20U;
        auto* memory =
            static_cast<char*>(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        for (std::size_t i = 0; i < size; i += 4096) memory[i] = 1;
        return 0;
    });
    pollfd ready{
        .fd = watch->fd(), .events = static_cast<short>(watch->events() == EPOLLIN ? POLLIN : POLLPRI), .revents = 0};
    EXPECT_EQ(::poll(&ready, 1, 5000), 1);
    EXPECT_EQ(WTERMSIG(wait(child)), SIGKILL);
    EXPECT_EQ(*group.oom_kills(), 1U);
    EXPECT_EQ(*watch->read(), 1U);
    EXPECT_EQ(group.statistics()->memory.oom_kills, 1U);
}

// In a child: can it make (a), read (b) and write (c) this device? Bits 1, 2, 4.
int device_access(const char* path, mode_t type, dev_t device) {
    int result = 0;
    ::unlink(path);
    if (::mknod(path, type | 0600, device) == 0) result |= 1;
    int fd = ::open(path, O_RDONLY | O_NONBLOCK);
    if (fd >= 0 || errno != EPERM) result |= 2;
    if (fd >= 0) ::close(fd);
    fd = ::open(path, O_WRONLY | O_NONBLOCK);
    if (fd >= 0 || errno != EPERM) result |= 4;
    ::unlink(path);
    return result;
}

struct DeviceCase {
    std::vector<DeviceRule> rules;
    mode_t type;
    dev_t device;
    int expected;
};

std::vector<DeviceCase> device_cases() {
    auto privileged = std::vector<DeviceRule>{{.allow = true}};
    auto with_kmsg = default_device_rules();
    with_kmsg.push_back({.allow = true, .type = 'c', .major = 1, .minor = 11, .write = false, .make_node = false});
    auto merged = default_device_rules();
    merged.push_back(
        {.allow = true, .type = 'c', .major = 1, .minor = 11, .read = true, .write = false, .make_node = false});
    merged.push_back(
        {.allow = true, .type = 'c', .major = 1, .minor = 11, .read = false, .write = true, .make_node = false});
    return {
        {default_device_rules(), S_IFCHR, makedev(1, 3), 7},   // null
        {default_device_rules(), S_IFCHR, makedev(1, 11), 1},  // kmsg: mknod only
        {default_device_rules(), S_IFBLK, makedev(7, 200), 1},
        {privileged, S_IFCHR, makedev(1, 11), 7},
        {with_kmsg, S_IFCHR, makedev(1, 11), 3},
        {merged, S_IFCHR, makedev(1, 11), 7},
        {{{.allow = false}}, S_IFCHR, makedev(1, 3), 0},
        {{{.allow = true, .type = 'c', .major = 1, .minor = 3}},
         S_IFCHR,
         makedev(1, 5),
         0},  // what nothing allows is denied
        {{{.allow = false}, {.allow = true, .major = 1}}, S_IFCHR, makedev(1, 5), 7},
    };
}

TEST_F(LiveCgroup, DeviceRules) {
    int number = 0;
    // /tmp may be mounted nodev; the file is made in a folder that is not.
    std::string node = "/var/tmp/wherry-test-node-" + std::to_string(::getpid());
    for (const DeviceCase& one : device_cases()) {
        for (bool ebpf : {false, true}) {
            Cgroup group = make("devices" + std::to_string(number) + (ebpf ? "e" : ""));
            SCOPED_TRACE("case " + std::to_string(number) + (ebpf ? " by eBPF" : ""));
            if (ebpf) {
                if (system_->unified() == nullptr) continue;
                Fd directory =
                    *open_file(cgroup_detail::full_path(*system_->unified(), group.path()), O_RDONLY | O_DIRECTORY);
                // Twice: the second takes the place of the first.
                for (int i = 0; i < 2; ++i) {
                    auto applied = cgroup_detail::apply_device_rules_v2(
                        directory.get(), i == 0 ? std::vector<DeviceRule>{{.allow = false}} : one.rules);
                    ASSERT_TRUE(applied) << applied.error().describe();
                }
            } else {
                CgroupResources r;
                r.devices = one.rules;
                auto applied = group.apply(r);
                ASSERT_TRUE(applied) << applied.error().describe();
            }
            pid_t child = spawn(group, [&] { return device_access(node.c_str(), one.type, one.device); });
            int status = wait(child);
            ASSERT_TRUE(WIFEXITED(status));
            int got = WEXITSTATUS(status);
            // A node that could not be made cannot be opened either: ENOENT counts as access above.
            int expected = (one.expected & 1) != 0 ? one.expected : (one.expected | 6);
            EXPECT_EQ(got, expected);
        }
        ++number;
    }
    ::unlink(node.c_str());
}

TEST_F(LiveCgroup, Statistics) {
    Cgroup group = make("stats");
    pid_t child = spawn(group, [] {
        // Processor time, not the clock's: the machine may be busy with others.
        timespec used{};
        while (used.tv_nsec < 30'000'000 && used.tv_sec == 0) ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
        constexpr std::size_t size = 4U << 20U;
        auto* block = static_cast<volatile char*>(
            ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        for (std::size_t i = 0; i < size; i += 4096) block[i] = 1;
        return 0;
    });
    EXPECT_EQ(wait(child), 0);
    auto stats = group.statistics();
    ASSERT_TRUE(stats);
    EXPECT_GT(stats->cpu.usage_ns, 20'000'000U);
    EXPECT_GT(stats->memory.max_usage, 1U << 20U);
    EXPECT_FALSE(stats->memory.raw.empty());
}

TEST_F(LiveCgroup, CreatesJoinsAndRemovesQuickly) {
    constexpr int rounds = 50;
    std::int64_t create = 0;
    std::int64_t apply = 0;
    std::int64_t join = 0;
    std::int64_t again = 0;
    std::int64_t remove = 0;
    CgroupResources r;
    r.devices = default_device_rules();
    r.pids_limit = 100;
    for (int i = 0; i < rounds; ++i) {
        std::int64_t t0 = monotonic_ns();
        Cgroup group = make("fast" + std::to_string(i));
        std::int64_t t1 = monotonic_ns();
        ASSERT_TRUE(group.apply(r));
        std::int64_t t2 = monotonic_ns();
        auto prepared = group.prepare_join();
        auto* inside = static_cast<std::int64_t*>(
            ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
        pid_t child = spawn(group, [&] {
            // In it already: the same writes once more cost what the first ones did but for the charge.
            std::int64_t start = monotonic_ns();
            int error = post_fork::join_cgroups(prepared->task_files());
            *inside = monotonic_ns() - start;
            return error;
        });
        wait(child);
        again += *inside;
        ::munmap(inside, 4096);
        std::int64_t t3 = monotonic_ns();
        ASSERT_TRUE(group.remove());
        std::int64_t t4 = monotonic_ns();
        create += t1 - t0;
        apply += t2 - t1;
        join += t3 - t2;
        remove += t4 - t3;
        ::usleep(5000);  // spaced, as real starts are
    }
    auto us = [](std::int64_t total) { return std::to_string(total / rounds / 1000); };
    RecordProperty("create_us", us(create));
    RecordProperty("apply_us", us(apply));
    RecordProperty("fork_join_exit_wait_us", us(join));
    RecordProperty("remove_us", us(remove));
    std::printf("create %s us, apply %s us, clone+join+exit+wait %s us, (writes again: %s us), remove %s us\n",
                us(create).c_str(), us(apply).c_str(), us(join).c_str(), us(again).c_str(), us(remove).c_str());
}

}  // namespace
}  // namespace wherry::confine
