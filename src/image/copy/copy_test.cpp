#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <tuple>
#include <utility>

#include "image/bytes.hpp"
#include "image/copy/extraction.hpp"
#include "image/copy/job.hpp"
#include "image/copy/place.hpp"
#include "image/copy/user.hpp"
#include "image/tar/writer.hpp"

namespace wherry::image {
namespace {

class Folder {
  public:
    Folder() {
        std::string pattern = "/tmp/wherry-copy-test-XXXXXX";
        path_ = ::mkdtemp(pattern.data());
        root_ = std::move(*open_file(path_, O_PATH | O_DIRECTORY));
    }
    ~Folder() { std::filesystem::remove_all(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;

    int root() const { return root_.get(); }
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }
    void make(const std::string& name) const { std::filesystem::create_directories(path_ + "/" + name); }
    void link(const std::string& name, const std::string& target) const {
        std::filesystem::create_symlink(target, path_ + "/" + name);
    }
    void write(const std::string& name, const std::string& text) const {
        ASSERT_TRUE(write_file_atomic(path_ + "/" + name, text, 0644, Durability::none));
    }
    std::string read(const std::string& name) const {
        auto text = read_file(path_ + "/" + name);
        return text ? *text : text.error().describe();
    }

  private:
    std::string path_;
    Fd root_;
};

TEST(CopyPlace, PathsAsUsersWriteThem) {
    for (auto [given, absolute, name] : {std::tuple("/a/b", "/a/b", "b"),
                                         {"a/b", "/a/b", "b"},
                                         {"/a/b/", "/a/b/", "b"},
                                         {"/a/b/.", "/a/b/.", "."},
                                         {"/", "/", "/"},
                                         {".", "/.", "."},
                                         {"", "/", "/"},
                                         {"//a///b", "/a/b", "b"},
                                         {"/a/../b", "/b", "b"},
                                         {"/../..", "/", "/"},
                                         {"/../../", "/", "/"},
                                         {"/a/./b/..", "/a", "a"}}) {
        EXPECT_EQ(absolute_place(given), absolute) << given;
        EXPECT_EQ(place_name(absolute_place(given)), name) << given;
    }
}

TEST(CopyPlace, LinksLeadInsideTheRoot) {
    Folder folder;
    folder.make("etc");
    folder.make("data/deep");
    folder.write("etc/file", "x");
    folder.link("absolute", "/etc");
    folder.link("data/up", "../../../../etc/file");
    folder.link("dangling", "/nope/x");
    folder.link("loop", "loop");
    EXPECT_EQ(*evaluate_place(folder.root(), "/absolute/file"), "/etc/file");
    EXPECT_EQ(*evaluate_place(folder.root(), "/data/up"), "/etc/file");
    EXPECT_EQ(*evaluate_place(folder.root(), "/dangling"), "/nope/x");
    EXPECT_EQ(*evaluate_place(folder.root(), "/none/at/all"), "/none/at/all");
    EXPECT_FALSE(evaluate_place(folder.root(), "/loop"));

    auto link = find_place(folder.root(), "/absolute");
    ASSERT_TRUE(link);
    EXPECT_TRUE(S_ISLNK(link->status.st_mode));
    auto behind = find_place(folder.root(), "/absolute/");
    ASSERT_TRUE(behind);
    EXPECT_TRUE(S_ISDIR(behind->status.st_mode));
    EXPECT_EQ(behind->name, "absolute");
    EXPECT_EQ(find_place(folder.root(), "/nope").error().code(), Code::not_found);
    EXPECT_EQ(find_place(folder.root(), "/etc/file/").error().os_errno(), ENOTDIR);
    EXPECT_EQ(find_place(folder.root(), "/data/up/").error().os_errno(), ENOTDIR);
}

TEST(CopyJob, GoesThroughArguments) {
    CopyJob job{.action = CopyAction::write,
                .root = CopyRoot::detached_mount,
                .path = "/a b\n",
                .keep_kinds = true,
                .owner = "me:us",
                .hidden = {"/proc", "/sys"},
                .mounts = {{.destination = "/vol", .read_only = true}, {.destination = "/etc/hosts"}},
                .root_read_only = true};
    auto words = to_arguments(job);
    auto again = parse_arguments({words.begin(), words.end()});
    ASSERT_TRUE(again);
    EXPECT_EQ(to_arguments(*again), words);
    EXPECT_EQ(again->path, job.path);
    EXPECT_TRUE(again->mounts[0].read_only && !again->mounts[1].read_only && again->root_read_only);
    EXPECT_FALSE(parse_arguments({"cp", "stat", "namespace", "keep", ""}));
    EXPECT_FALSE(parse_arguments({"cp", "steal", "namespace", "keep", "", "/"}));
    EXPECT_FALSE(parse_arguments({"cp", "stat", "namespace", "keep", "", "/", "what", "ever"}));
}

TEST(CopyJob, StatGoesThroughALine) {
    PathStat stat{.name = "a b\n\xff",
                  .size_bytes = 5,
                  .mode = go_file_mode(S_IFDIR | 01755),
                  .mtime_seconds = -3,
                  .mtime_nanoseconds = 7,
                  .link_target = ""};
    std::string line = format_stat(stat);
    ASSERT_TRUE(line.ends_with("\n"));
    line.pop_back();
    auto again = parse_stat(line);
    ASSERT_TRUE(again);
    EXPECT_EQ(again->name, stat.name);
    EXPECT_EQ(again->mode, (1U << 31U) | (1U << 20U) | 0755U);
    EXPECT_EQ(again->mtime_seconds, -3);
    for (const char* bad : {"", "stat", "stat x 1 2 3 4", "stat 61 1 2 3 4 x", "stat xzz 1 2 3 4 x",
                            "stat x 1 2 3 9999999999 x", "stat x 1 2 3 4 x more"})
        EXPECT_FALSE(parse_stat(bad)) << bad;
    EXPECT_EQ(parse_copy_error("error 1 2 no such file").os_errno(), 2);
    EXPECT_EQ(parse_copy_error("nonsense").code(), Code::internal);
}

TEST(CopyUser, NamesAndNumbers) {
    constexpr std::string_view passwd =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nme:x:1000:100::/:/bin/sh\nneg:x:-1:0::/:\n";
    constexpr std::string_view group = "root:x:0:\nus:x:50:me\n";
    const auto ids = [&](std::string_view user) {
        auto owner = find_owner_in(passwd, group, user);
        return owner ? std::pair(owner->uid, owner->gid) : std::pair(9999U, 9999U);
    };
    EXPECT_EQ(ids("me"), std::pair(1000U, 100U));
    EXPECT_EQ(ids("1000"), std::pair(1000U, 100U));
    EXPECT_EQ(ids("77"), std::pair(77U, 0U));
    EXPECT_EQ(ids("me:us"), std::pair(1000U, 50U));
    EXPECT_EQ(ids("me:"), std::pair(1000U, 100U));
    EXPECT_EQ(ids("5:6"), std::pair(5U, 6U));
    for (const char* unknown : {"you", "me:them", "neg", ":us", "4294967295", "-1"})
        EXPECT_EQ(ids(unknown).first, 9999U) << unknown;
}

// A tar stream in memory, and its extraction with everything owned by whoever runs the test.
class Extracting {
  public:
    void add(TarEntry entry, const std::string& content = {}) {
        entry.size_bytes = entry.stored_bytes = content.size();
        if (entry.mode == 0) entry.mode = entry.type == TarType::directory ? 0755 : 0644;
        EXPECT_TRUE(writer_.begin(entry));
        EXPECT_TRUE(writer_.content(as_bytes(content)));
        EXPECT_TRUE(writer_.end());
    }
    Result<> into(const Folder& folder, std::string_view place, bool keep_kinds = true) {
        EXPECT_TRUE(writer_.finish());
        auto extraction =
            TRY(Extraction::open(folder.root(), place,
                                 {.keep_kinds = keep_kinds, .owner = FileOwner{.uid = ::getuid(), .gid = ::getgid()}}));
        bool given = false;
        TarReader reader([&]() -> Result<std::span<const std::byte>> {
            if (std::exchange(given, true)) return std::span<const std::byte>();
            return as_bytes(stream_);
        });
        while (auto entry = TRY(reader.next())) TRY(extraction.apply(*entry, reader));
        return extraction.finish();
    }

  private:
    std::string stream_;
    TarWriter writer_{[this](std::span<const std::byte> bytes) -> Result<> {
        stream_.append(as_text(bytes));
        return {};
    }};
};

TEST(CopyExtraction, FollowsLinksInsideOnly) {
    Folder folder;
    folder.make("root/in");
    folder.make("outside");
    folder.link("root/absolute", "/in");
    folder.link("root/escape", "../outside");
    auto root = open_file(folder / "root", O_PATH | O_DIRECTORY);
    ASSERT_TRUE(root);
    auto extraction = Extraction::open(root->get(), "/absolute", {});
    ASSERT_TRUE(extraction);
    auto nowhere = Extraction::open(root->get(), "/escape", {});
    EXPECT_EQ(nowhere.error().code(), Code::not_found);
    EXPECT_TRUE(std::filesystem::is_empty(folder / "outside"));
}

TEST(CopyExtraction, WhatReplacesWhat) {
    Folder folder;
    folder.make("folder");
    folder.write("file", "old");
    folder.write("folder/kept", "kept");
    {
        Extracting tar;
        tar.add({.type = TarType::directory, .path = "file"});
        auto done = tar.into(folder, "/");
        ASSERT_FALSE(done);
        EXPECT_EQ(done.error().message(), "cannot overwrite non-directory \"/file\" with directory \"/\"");
    }
    {
        Extracting tar;
        tar.add({.path = "folder"}, "x");
        auto done = tar.into(folder, "/");
        ASSERT_FALSE(done);
        EXPECT_EQ(done.error().message(), "cannot overwrite directory \"/folder\" with non-directory \"/\"");
    }
    {
        Extracting tar;
        tar.add({.type = TarType::directory, .path = "folder/"});
        tar.add({.path = "folder/new"}, "new");
        tar.add({.path = "file"}, "replaced");
        tar.add({.type = TarType::hard_link, .path = "hard", .target = "file"});
        tar.add({.type = TarType::symlink, .path = "soft", .target = "/folder"});
        tar.add({.path = "soft/through"}, "through");
        ASSERT_TRUE(tar.into(folder, "/"));
        EXPECT_EQ(folder.read("folder/kept"), "kept");
        EXPECT_EQ(folder.read("folder/new"), "new");
        EXPECT_EQ(folder.read("hard"), "replaced");
        EXPECT_EQ(folder.read("folder/through"), "through");
    }
    {
        Extracting tar;
        tar.add({.path = "folder"}, "now a file");
        ASSERT_TRUE(tar.into(folder, "/", false));
        EXPECT_EQ(folder.read("folder"), "now a file");
    }
    for (const char* name : {"../x", "a/../../x", "folder/below"}) {
        Extracting tar;
        tar.add({.path = name}, "x");
        EXPECT_FALSE(tar.into(folder, "/")) << name;
    }
}

}  // namespace
}  // namespace wherry::image
