#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>

#include "adopt/archive.hpp"
#include "adopt/container_body.hpp"
#include "adopt/docker_root.hpp"
#include "adopt/tar_split.hpp"
#include "adopt/trees.hpp"
#include "base/digest.hpp"
#include "base/encoding.hpp"

namespace wherry::adopt {
namespace {

namespace fs = std::filesystem;

class AdoptTest : public ::testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/wherry-adopt-XXXXXX";
        ASSERT_NE(::mkdtemp(name), nullptr);
        folder_ = name;
    }
    void TearDown() override { fs::remove_all(folder_); }

    void write(const std::string& path, const std::string& text) {
        fs::create_directories(fs::path(folder_ / path).parent_path());
        std::ofstream(folder_ / path, std::ios::binary) << text;
    }
    void write_gzip(const std::string& path, const std::string& text) {
        fs::create_directories(fs::path(folder_ / path).parent_path());
        gzFile file = ::gzopen((folder_ / path).c_str(), "wb");
        ::gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
        ::gzclose(file);
    }
    Fd open(const std::string& path, int flags = O_RDONLY) {
        return std::move(*open_file((folder_ / path).string(), flags));
    }

    // A root with one image of one layer that holds one file.
    std::string make_root() {
        const std::string content = "hello\n";
        const std::string header = tar_header("etc/greeting", content.size());
        const std::string padding(512 - content.size(), '\0');
        const std::string end(1024, '\0');
        const std::string diff_id = sha256_digest(header + content + padding + end);
        const std::string layer = "image/overlay2/layerdb/sha256/" + diff_id.substr(7);
        write(layer + "/diff", diff_id);
        write(layer + "/cache-id", cache_id);
        write_gzip(layer + "/tar-split.json.gz",
                   R"({"type":2,"payload":")" + base64_encode(header) + "\",\"position\":0}\n" +
                       R"({"type":1,"name":"etc/greeting","size":6,"payload":"x","position":1})" + "\n" +
                       R"({"type":2,"payload":")" + base64_encode(padding + end) + "\",\"position\":2}\n");
        write("overlay2/" + cache_id + "/diff/etc/greeting", content);
        const std::string config = R"({"rootfs":{"type":"layers","diff_ids":[")" + diff_id + "\"]}}";
        const std::string id = sha256_digest(config);
        write("image/overlay2/imagedb/content/sha256/" + id.substr(7), config);
        write("image/overlay2/repositories.json",
              R"({"Repositories":{"box":{"box:1":")" + id + R"(","box@sha256:0":")" + id + "\"}}}");
        return id;
    }

    fs::path folder_;
    const std::string cache_id = std::string(64, 'c');
    std::vector<std::string> complaints_;
    Complaint complain_ = [this](const std::string& what, const Error& error) {
        complaints_.push_back(what + ": " + error.describe());
    };
};

TEST_F(AdoptTest, AnImageIsReadWithItsNamesAndLayers) {
    const std::string id = make_root();
    auto root = DockerRoot::open(folder_);
    ASSERT_TRUE(root) << root.error().describe();
    auto images = root->images(complain_);
    ASSERT_TRUE(images) << images.error().describe();
    ASSERT_EQ(images->size(), 1U) << (complaints_.empty() ? "" : complaints_.front());
    EXPECT_EQ(images->front().id, id);
    EXPECT_EQ(images->front().names, std::vector<std::string>{"box:1"});
    ASSERT_EQ(images->front().layers.size(), 1U);
    const DockerLayer& layer = images->front().layers.front();
    LayerStream stream(std::move(*root->tar_split(layer)), std::move(*root->layer_tree(layer)));
    std::string bytes;
    std::array<std::byte, 100> buffer{};
    for (;;) {
        auto got = stream.read(buffer);
        ASSERT_TRUE(got) << got.error().describe();
        if (*got == 0) break;
        bytes.append(reinterpret_cast<const char*>(buffer.data()), *got);  // SAFETY: bytes are characters
    }
    EXPECT_EQ(sha256_digest(bytes), layer.diff_id);
    EXPECT_EQ(*LayerStream::length(std::move(*root->tar_split(layer))), bytes.size());
}

TEST_F(AdoptTest, AnArchiveIsATar) {
    make_root();
    auto root = DockerRoot::open(folder_);
    auto images = root->images(complain_);
    ImageArchive archive(*root, images->front(), [](const DockerLayer&) { return false; });
    std::string bytes;
    std::array<std::byte, 1000> buffer{};
    for (;;) {
        auto got = archive.read(buffer);
        ASSERT_TRUE(got) << got.error().describe();
        if (*got == 0) break;
        bytes.append(reinterpret_cast<const char*>(buffer.data()), *got);  // SAFETY: bytes are characters
    }
    EXPECT_EQ(bytes.size() % 512, 0U);
    EXPECT_TRUE(bytes.starts_with("blobs/sha256/"));
    EXPECT_NE(bytes.find("manifest.json"), std::string::npos);
    EXPECT_NE(bytes.find("\"RepoTags\":[\"box:1\"]"), std::string::npos);
}

TEST_F(AdoptTest, WhatWasChangedIsRefused) {
    const std::string id = make_root();
    write("overlay2/" + cache_id + "/diff/etc/greeting", "longer than before\n");
    auto root = DockerRoot::open(folder_);
    auto images = root->images(complain_);
    ASSERT_EQ(images->size(), 1U);
    ImageArchive archive(*root, images->front(), [](const DockerLayer&) { return false; });
    std::array<std::byte, 4096> buffer{};
    Result<std::size_t> got = std::size_t{1};
    while (got && *got > 0) got = archive.read(buffer);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code(), Code::data_loss);
    write("image/overlay2/imagedb/content/sha256/" + id.substr(7), "{}");
    EXPECT_TRUE(root->images(complain_)->empty());
    ASSERT_EQ(complaints_.size(), 1U);
    EXPECT_NE(complaints_.front().find("was changed"), std::string::npos);
}

TEST_F(AdoptTest, SymlinksAreNotFollowed) {
    make_root();
    const fs::path layers = folder_ / "overlay2" / cache_id;
    fs::rename(layers / "diff", folder_ / "elsewhere");
    fs::create_directory_symlink(folder_ / "elsewhere", layers / "diff");
    auto root = DockerRoot::open(folder_);
    auto images = root->images(complain_);
    auto tree = root->layer_tree(images->front().layers.front());
    ASSERT_FALSE(tree);
    EXPECT_EQ(tree.error().code(), Code::invalid_argument);
    fs::rename(folder_ / "image/overlay2/repositories.json", folder_ / "names");
    fs::create_symlink("../../names", folder_ / "image/overlay2/repositories.json");
    EXPECT_EQ(root->images(complain_).error().code(), Code::invalid_argument);
}

TEST_F(AdoptTest, HostileDocumentsAreRefused) {
    make_root();
    auto root = DockerRoot::open(folder_);
    const std::string layer =
        "image/overlay2/layerdb/sha256/" + root->images(complain_)->front().layers.front().chain_id.substr(7);
    for (const char* bad : {"../../../etc", "", "short", "CCCC"}) {
        write(layer + "/cache-id", bad);
        complaints_.clear();
        EXPECT_TRUE(root->images(complain_)->empty());
        EXPECT_EQ(complaints_.size(), 1U) << bad;
    }
    for (const char* bad : {"[]", "{", R"({"Repositories":[]})", R"({"Repositories":{"a":{"a:1":"sha256:../.."}}})"}) {
        write("image/overlay2/repositories.json", bad);
        EXPECT_FALSE(root->images(complain_)) << bad;
    }
}

TEST_F(AdoptTest, OtherRootsAreSaid) {
    EXPECT_EQ(DockerRoot::open(folder_ / "nowhere").error().code(), Code::not_found);
    EXPECT_NE(DockerRoot::open(folder_).error().describe().find("not a data root"), std::string::npos);
    fs::create_directories(folder_ / "image/vfs");
    EXPECT_NE(DockerRoot::open(folder_).error().describe().find("vfs"), std::string::npos);
}

TEST_F(AdoptTest, ContainersAndVolumesAreRead) {
    make_root();
    const std::string id(64, 'a');
    write(
        "containers/" + id + "/config.v2.json",
        R"({"ID":")" + id + R"(","Name":"/web","Image":"sha256:)" + std::string(64, 'b') +
            R"(","Driver":"overlay2","State":{"Running":false},"Config":{"Cmd":["sh"]},"MountPoints":{"/data":{"Name":"v1","Destination":"/data","RW":false},"/x":{"Source":"/x"}}})");
    write("containers/" + id + "/hostconfig.json",
          R"({"NetworkMode":"mynet","LogConfig":{"Type":"journald"},"Runtime":"runc"})");
    write("image/overlay2/layerdb/mounts/" + id + "/mount-id", std::string(64, 'd'));
    write("containers/evil/config.v2.json", "{}");
    write("volumes/v1/_data/file", "x");
    write("volumes/v2/_data/file", "x");
    write("volumes/v2/opts.json", R"({"type":"nfs"})");
    write("volumes/metadata.db", "");
    auto root = DockerRoot::open(folder_);
    auto containers = root->containers(complain_);
    ASSERT_TRUE(containers);
    ASSERT_EQ(containers->size(), 1U);
    EXPECT_EQ(complaints_.size(), 1U);
    auto body = container_body(containers->front(), {});
    ASSERT_TRUE(body);
    EXPECT_EQ(body->notices.size(), 2U);
    EXPECT_EQ(to_json(body->body), R"({"Cmd":["sh"],"HostConfig":{"NetworkMode":"bridge","Binds":["v1:/data:ro"]}})");
    auto volumes = root->volumes(complain_);
    ASSERT_TRUE(volumes);
    ASSERT_EQ(volumes->size(), 2U);
    EXPECT_FALSE(volumes->at(0).has_options);
    EXPECT_TRUE(volumes->at(1).has_options);
}

TEST_F(AdoptTest, SharedNamespacesNeedTheOther) {
    DockerContainer container;
    container.host_config["NetworkMode"] = "container:abc";
    EXPECT_EQ(container_body(container, {}).error().code(), Code::not_found);
    auto body = container_body(container, {{"abc", "other"}});
    ASSERT_TRUE(body);
    EXPECT_EQ(to_json(body->body), R"({"HostConfig":{"NetworkMode":"container:other"}})");
}

TEST_F(AdoptTest, TreesAreCopiedWithTheirLinksAndTimes) {
    write("from/a/file", std::string(100000, 'x'));
    fs::create_hard_link(folder_ / "from/a/file", folder_ / "from/b");
    fs::create_symlink("/etc/passwd", folder_ / "from/link");
    ::mkfifo((folder_ / "from/fifo").c_str(), 0620);
    ::chmod((folder_ / "from/a/file").c_str(), 04751);
    const timespec times[2] = {{1000, 1}, {2000, 2}};
    ::utimensat(AT_FDCWD, (folder_ / "from/a").c_str(), times, 0);
    fs::create_directory(folder_ / "to");
    Fd from = open("from", O_RDONLY | O_DIRECTORY);
    Fd to = open("to", O_RDONLY | O_DIRECTORY);
    auto totals = copy_tree(from.get(), to.get(), Attributes::plain);
    ASSERT_TRUE(totals) << totals.error().describe();
    EXPECT_EQ(totals->files, 1U);
    struct stat info{};
    ASSERT_EQ(::stat((folder_ / "to/a").c_str(), &info), 0);
    EXPECT_EQ(info.st_mtim.tv_sec, 2000);
    ASSERT_EQ(::stat((folder_ / "to/a/file").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777U, 04751U);
    EXPECT_EQ(info.st_nlink, 2U);
    EXPECT_EQ(fs::read_symlink(folder_ / "to/link"), "/etc/passwd");
    EXPECT_TRUE(fs::is_fifo(folder_ / "to/fifo"));
    EXPECT_EQ(copy_tree(from.get(), to.get(), Attributes::plain).error().code(), Code::conflict);
}

TEST_F(AdoptTest, EqualFilesAreShared) {
    const timespec times[2] = {{1000, 1}, {2000, 2}};
    for (const char* side : {"from", "to"}) {
        write(std::string(side) + "/d/same", "same");
        write(std::string(side) + "/d/other", side);
        write(std::string(side) + "/d/empty", "");
        for (const char* name : {"/d/same", "/d/other", "/d/empty", "/d"})
            ::utimensat(AT_FDCWD, (folder_.string() + "/" + side + name).c_str(), times, 0);
    }
    Fd from = open("from", O_RDONLY | O_DIRECTORY);
    Fd to = open("to", O_RDONLY | O_DIRECTORY);
    EXPECT_EQ(share_files(from.get(), to.get(), 5)->files, 0U);  // touched since
    auto totals = share_files(from.get(), to.get(), ::time(nullptr) + 10);
    ASSERT_TRUE(totals) << totals.error().describe();
    EXPECT_EQ(totals->files, 1U);  // "other" differs in size
    EXPECT_TRUE(fs::equivalent(folder_ / "from/d/same", folder_ / "to/d/same"));
    struct stat info{};
    ASSERT_EQ(::stat((folder_ / "to/d").c_str(), &info), 0);
    EXPECT_EQ(info.st_mtim.tv_sec, 2000);
}

TEST_F(AdoptTest, CutAndForeignNotesAreRefused) {
    write("plain", "{\"type\":2}\n");
    std::string line;
    EXPECT_EQ(GzipLines(open("plain")).next(line).error().code(), Code::data_loss);
    write_gzip("good.gz", std::string(100000, 'y') + "\nlast");
    GzipLines lines(open("good.gz"));
    EXPECT_TRUE(*lines.next(line));
    EXPECT_EQ(line.size(), 100000U);
    EXPECT_TRUE(*lines.next(line));
    EXPECT_EQ(line, "last");
    EXPECT_FALSE(*lines.next(line));
    fs::resize_file(folder_ / "good.gz", fs::file_size(folder_ / "good.gz") / 2);
    GzipLines cut(open("good.gz"));
    Result<bool> more = true;
    while (more && *more) more = cut.next(line);
    EXPECT_FALSE(more);
    for (const char* bad :
         {"", "[]", R"({"type":3})", R"({"type":1,"name":"a","size":-1})", R"({"type":2,"payload":"%"})"})
        EXPECT_FALSE(parse_tar_split_line(bad)) << bad;
}

}  // namespace
}  // namespace wherry::adopt
