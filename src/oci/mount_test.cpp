#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "oci/copy_up.hpp"
#include "oci/init_binary.hpp"
#include "oci/mount_calls.hpp"
#include "oci/mount_options.hpp"
#include "oci/overlay.hpp"

namespace wherry::oci {
namespace {

namespace fs = std::filesystem;

MountOptions options(std::vector<std::string> words) {
    auto parsed = parse_mount_options(words);
    EXPECT_TRUE(parsed);
    return parsed ? *parsed : MountOptions{};
}

TEST(MountOptions, Attributes) {
    auto parsed = options({"ro", "nosuid", "exec", "size=64k", "newinstance", "defaults", "sync"});
    EXPECT_EQ(parsed.attributes_set, std::uint64_t{MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID});
    EXPECT_EQ(parsed.attributes_clear, std::uint64_t{MOUNT_ATTR_NOEXEC});
    EXPECT_EQ(parsed.flags, (std::vector<std::string>{"newinstance", "sync"}));
    ASSERT_EQ(parsed.values.size(), 1U);
    EXPECT_EQ(parsed.values[0].first, "size");
    EXPECT_TRUE(parsed.readonly());
}

TEST(MountOptions, TheLastWordWins) {
    EXPECT_EQ(options({"ro", "rw"}).attributes_set, 0U);
    EXPECT_TRUE(options({"rw", "ro"}).readonly());
    EXPECT_EQ(options({"noatime", "strictatime"}).attributes_set, std::uint64_t{MOUNT_ATTR_STRICTATIME});
    EXPECT_EQ(options({"private", "rslave"}).propagation, static_cast<unsigned long>(MS_SLAVE | MS_REC));
}

TEST(MountOptions, RecursiveAndBind) {
    auto parsed = options({"rbind", "rro", "rnosuid", "ridmap", "tmpcopyup"});
    EXPECT_TRUE(parsed.bind && parsed.bind_recursive && parsed.idmap && parsed.idmap_recursive && parsed.copy_up);
    EXPECT_EQ(parsed.recursive_set, std::uint64_t{MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID});
    EXPECT_EQ(parsed.attributes_set, 0U);
    EXPECT_FALSE(options({"bind"}).bind_recursive);
    // Not every word with an r in front is one: these belong to the file system.
    EXPECT_EQ(options({"resize"}).flags, std::vector<std::string>{"resize"});
    EXPECT_FALSE(parse_mount_options(std::vector<std::string>{"remount"}));
}

TEST(CleanPath, Cases) {
    EXPECT_EQ(clean_path(""), "/");
    EXPECT_EQ(clean_path("/"), "/");
    EXPECT_EQ(clean_path("a/b"), "/a/b");
    EXPECT_EQ(clean_path("//a/./b//../c/"), "/a/c");
    EXPECT_EQ(clean_path("/../../.."), "/");
}

class InRoot : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string pattern = fs::temp_directory_path() / "wherry-oci-XXXXXX";
        ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
        base_ = pattern;
        fs::create_directories(base_ / "root/etc");
        fs::create_directories(base_ / "outside");
        root_.reset(::open((base_ / "root").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        ASSERT_TRUE(root_);
    }
    void TearDown() override { fs::remove_all(base_); }
    bool outside_is_empty() const { return fs::is_empty(base_ / "outside"); }

    fs::path base_;
    Fd root_;
};

TEST_F(InRoot, MakesWhatIsMissing) {
    EXPECT_TRUE(make_path_in_root(root_.get(), "/a/b/c", PathKind::directory));
    EXPECT_TRUE(fs::is_directory(base_ / "root/a/b/c"));
    EXPECT_TRUE(make_path_in_root(root_.get(), "/a/b/file", PathKind::file));
    EXPECT_TRUE(fs::is_regular_file(base_ / "root/a/b/file"));
    EXPECT_TRUE(make_path_in_root(root_.get(), "a/b", PathKind::directory));
    EXPECT_TRUE(make_path_in_root(root_.get(), "/", PathKind::directory));
    EXPECT_FALSE(make_path_in_root(root_.get(), "/a/b/file", PathKind::directory));
    EXPECT_FALSE(make_path_in_root(root_.get(), "/a/b", PathKind::file));
    EXPECT_FALSE(make_path_in_root(root_.get(), "/a/b/file/below", PathKind::directory));
}

TEST_F(InRoot, NeverLeaves) {
    fs::create_symlink(base_ / "outside", base_ / "root/absolute");
    fs::create_symlink("../outside", base_ / "root/relative");
    fs::create_symlink("../../../../../../../../../.." + (base_ / "outside").string(), base_ / "root/far");
    fs::create_symlink("loop", base_ / "root/loop");
    for (const char* path :
         {"/absolute/x", "/relative/x", "/far/x", "/../outside/x", "/etc/../../outside/x", "/../../x"}) {
        auto made = make_path_in_root(root_.get(), path, PathKind::directory);
        EXPECT_TRUE(outside_is_empty()) << path;
    }
    // A dangling link is followed, inside.
    EXPECT_TRUE(fs::is_directory((base_ / "root").string() + (base_ / "outside/x").string()));
    EXPECT_FALSE(make_path_in_root(root_.get(), "/loop/x", PathKind::directory));
    EXPECT_FALSE(make_path_in_root(root_.get(), "/nothere/../y", PathKind::file) && !outside_is_empty());
}

TEST_F(InRoot, NoFollow) {
    fs::create_symlink("etc", base_ / "root/link");
    EXPECT_TRUE(open_path_in_root(root_.get(), "/link"));
    EXPECT_FALSE(open_path_in_root_nofollow(root_.get(), "/link"));
    EXPECT_TRUE(open_path_in_root_nofollow(root_.get(), "/etc"));
}

TEST_F(InRoot, CopyUp) {
    fs::create_directories(base_ / "root/etc/sub");
    {
        Fd file(::open((base_ / "root/etc/sub/f").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0640));
        EXPECT_TRUE(write_all(file.get(), "data"));
    }
    fs::create_symlink("sub/f", base_ / "root/etc/l");
    Fd from(::open((base_ / "root/etc").c_str(), O_PATH | O_CLOEXEC));
    Fd to(::open((base_ / "outside").c_str(), O_PATH | O_CLOEXEC));
    auto copied = copy_directory(from.get(), to.get());
    ASSERT_TRUE(copied) << copied.error().describe();
    EXPECT_EQ(*read_file(base_ / "outside/l"), "data");
    struct stat info{};
    ASSERT_EQ(::stat((base_ / "outside/sub/f").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777U, 0640U);
}

TEST(Procfs, IsProven) {
    Fd proc(::open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
    EXPECT_TRUE(prove_procfs_root(proc.get()));
    Fd below(::open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC));
    EXPECT_FALSE(prove_procfs_root(below.get()));
    Fd other(::open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC));
    EXPECT_FALSE(prove_procfs_root(other.get()));
}

TEST(Procfs, WritesFollowNothing) {
    Fd proc(::open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
    std::string own = std::to_string(::getpid());
    EXPECT_TRUE(write_below_procfs(proc.get(), own + "/comm", "oci-test"));
    EXPECT_FALSE(write_below_procfs(proc.get(), "self/comm", "x"));          // a symlink
    EXPECT_FALSE(write_below_procfs(proc.get(), own + "/root/etc/x", "x"));  // a magic link
    EXPECT_FALSE(write_below_procfs(proc.get(), "../etc/hostname", "x"));
    EXPECT_FALSE(write_below_procfs(proc.get(), "sys/../../etc/hostname", "x"));
}

// Layers with long names, few and many, both ways of telling the kernel. Exits with 0 when all is well.
int overlay_in_a_namespace(const fs::path& base, int layers, OverlayMethod method) {
    if (::unshare(CLONE_NEWNS) < 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return 2;
    // Overlay on overlay may be refused as an upper directory: a tmpfs is always fine.
    if (::mount("tmpfs", base.c_str(), "tmpfs", 0, nullptr) < 0) return 3;
    OverlayRoot overlay;
    for (int i = 0; i < layers; ++i) {
        fs::path layer = base / (std::string(120, 'l') + std::to_string(i));
        fs::create_directory(layer);
        if (!write_file_atomic(layer / ("file" + std::to_string(i)), "x", 0644, Durability::none)) return 4;
        if (!write_file_atomic(layer / "same", std::to_string(i), 0644, Durability::none)) return 4;
        overlay.lower.push_back(layer);
    }
    overlay.upper = base / "upper";
    overlay.work = base / "work";
    fs::create_directory(overlay.upper);
    fs::create_directory(overlay.work);
    auto mount = mount_overlay(overlay, method);
    if (!mount) {
        std::fprintf(stderr, "%s\n", mount.error().describe().c_str());
        return 5;
    }
    fs::create_directory(base / "m");
    Fd target(::open((base / "m").c_str(), O_PATH | O_CLOEXEC));
    if (!attach_mount(mount->get(), target.get())) return 6;
    for (int i = 0; i < layers; ++i) {
        if (!fs::exists(base / "m" / ("file" + std::to_string(i)))) return 7;
    }
    if (read_file(base / "m/same").value_or("") != "0") return 8;  // the uppermost layer wins
    if (!write_file_atomic(base / "m/new", "x", 0644, Durability::none) || !fs::exists(base / "upper/new")) return 9;
    overlay.lower.push_back(base / "missing");
    return mount_overlay(overlay, method) ? 10 : 0;
}

TEST(Overlay, BothWaysAndAnyLength) {
    if (::geteuid() != 0) GTEST_SKIP() << "mounting needs root";
    std::string pattern = fs::temp_directory_path() / "wherry-overlay-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    for (OverlayMethod method : {OverlayMethod::automatic, OverlayMethod::one_string}) {
        for (int layers : {1, 3, 60}) {
            pid_t child = ::fork();
            ASSERT_GE(child, 0);
            if (child == 0) ::_exit(overlay_in_a_namespace(pattern, layers, method));
            int status = 0;
            ASSERT_EQ(::waitpid(child, &status, 0), child);
            EXPECT_EQ(WEXITSTATUS(status), 0) << layers << " layers";
        }
    }
    fs::remove_all(pattern);
}

// CVE-2025-52881: something is mounted over the file that is to be written.
TEST(Procfs, WritesStayOnTheMount) {
    if (::geteuid() != 0) GTEST_SKIP() << "mounting needs root";
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        if (::unshare(CLONE_NEWNS) < 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) ::_exit(2);
        std::string target = "/proc/" + std::to_string(::getpid()) + "/comm";
        if (::mount("/proc/sys/kernel/hostname", target.c_str(), nullptr, MS_BIND, nullptr) < 0) ::_exit(3);
        Fd proc(::open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
        auto written = write_below_procfs(proc.get(), target.substr(6), "attack");
        ::_exit(!written && written.error().os_errno() == EXDEV ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

TEST(NullDevice, IsProven) {
    if (::access("/dev/null", W_OK) != 0) GTEST_SKIP() << "no /dev/null";
    EXPECT_TRUE(open_null_device());
}

TEST(InitBinary, IsSmallSealedAndStatic) {
    auto bytes = init_binary();
    EXPECT_GT(bytes.size(), 500U);
    EXPECT_LT(bytes.size(), 8192U);
    EXPECT_EQ(std::string_view(bytes.data(), 4),
              "\x7f"
              "ELF");
    auto file = open_init_binary();
    ASSERT_TRUE(file);
    EXPECT_LT(::write(file->get(), "x", 1), 0);
    EXPECT_EQ(::fcntl(file->get(), F_GET_SEALS), F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
}

}  // namespace
}  // namespace wherry::oci
