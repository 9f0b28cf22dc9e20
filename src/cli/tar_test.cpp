#include "cli/tar.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace wherry::cli {
namespace {

class Folder {
  public:
    Folder() {
        char pattern[] = "/tmp/wherry-cli-tar-XXXXXX";
        path_ = ::mkdtemp(pattern);
    }
    ~Folder() { [[maybe_unused]] auto removed = remove_tree(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

ByteSource source_of(const std::string& bytes) {
    return [&bytes, at = std::size_t{0}](std::span<std::byte> buffer) mutable -> Result<std::size_t> {
        std::size_t count = std::min({buffer.size(), bytes.size() - at, std::size_t{700}});
        std::memcpy(buffer.data(), bytes.data() + at, count);
        at += count;
        return count;
    };
}

std::string archive_of(const std::string& path, const std::string& name) {
    auto archive = TarOfPath::open(path, name, true);
    std::string out;
    std::array<std::byte, 1000> buffer{};
    while (true) {
        auto count = archive->read(buffer);
        if (!count || *count == 0) return out;
        // SAFETY: bytes seen as characters.
        out.append(reinterpret_cast<const char*>(buffer.data()), *count);
    }
}

Result<> unpack(const std::string& bytes, const std::string& folder, const std::string& root_name = "") {
    TarReader reader(source_of(bytes));
    return extract_tar(reader, folder, {.owners = false, .root_name = root_name});
}

TarEntry entry(std::string name, char type, std::string link = "", std::uint64_t size = 0) {
    TarEntry made;
    made.name = std::move(name);
    made.type = type;
    made.link = std::move(link);
    made.size = size;
    made.mode = 0644;
    return made;
}

TEST(tar, a_tree_comes_back_as_it_was) {
    Folder from;
    Folder to;
    std::string deep = from / ("tree/" + std::string(120, 'd'));
    ASSERT_TRUE(make_directories(deep, 0755));
    ASSERT_TRUE(write_file_atomic(deep + "/" + std::string(90, 'f'), std::string(5000, 'x'), 0640, Durability::none));
    ASSERT_TRUE(write_file_atomic(from / "tree/empty", "", 0755, Durability::none));
    ASSERT_EQ(::symlink("../outside", (from / "tree/link").c_str()), 0);
    ASSERT_TRUE(unpack(archive_of(from / "tree", "renamed"), to.path(), "copy"));
    EXPECT_EQ(read_file(to / ("copy/" + std::string(120, 'd') + "/" + std::string(90, 'f')))->size(), 5000U);
    struct stat info{};
    ASSERT_EQ(::lstat((to / "copy/link").c_str(), &info), 0);
    EXPECT_TRUE(S_ISLNK(info.st_mode));
    ASSERT_EQ(::stat((to / "copy/empty").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777U, 0755U);
}

TEST(tar, contents_go_into_the_folder_itself) {
    Folder from;
    Folder to;
    ASSERT_TRUE(make_directories(from / "tree/sub", 0755));
    ASSERT_TRUE(write_file_atomic(from / "tree/sub/file", "x", 0644, Durability::none));
    ASSERT_TRUE(unpack(archive_of(from / "tree", "."), to.path()));
    EXPECT_TRUE(path_exists(to / "sub/file"));
}

TEST(tar, hostile_archives_stay_inside) {
    Folder outer;
    ASSERT_TRUE(make_directories(outer / "in", 0755));
    ASSERT_TRUE(write_file_atomic(outer / "victim", "safe", 0644, Durability::none));
    std::string data = "evil" + std::string(508, '\0');
    const std::vector<std::string> archives = {
        tar_header(entry("r", '5')) + tar_header(entry("../victim", '0', "", 4)) + data + tar_end(),
        tar_header(entry("r", '5')) + tar_header(entry("r/../../victim", '0', "", 4)) + data + tar_end(),
        tar_header(entry("r", '5')) + tar_header(entry("r/link", '2', "../..")) +
            tar_header(entry("r/link/victim", '0', "", 4)) + data + tar_end(),
        tar_header(entry("r", '5')) + tar_header(entry("r/link", '2', "../../victim")) +
            tar_header(entry("r/link", '0', "", 4)) + data + tar_end(),
        tar_header(entry("r", '5')) + tar_header(entry("r/hard", '1', "../victim")) +
            tar_header(entry("r/hard", '0', "", 4)) + data + tar_end(),
        tar_header(entry("..", '5')) + tar_header(entry("../victim", '0', "", 4)) + data + tar_end(),
        tar_header(entry("r", '3')) + tar_end(),
    };
    for (const std::string& archive : archives) {
        [[maybe_unused]] auto result = unpack(archive, outer / "in", "r");
        EXPECT_EQ(*read_file(outer / "victim"), "safe");
    }
}

TEST(tar, broken_archives_are_errors) {
    Folder to;
    std::string whole = tar_header(entry("f", '0', "", 600)) + std::string(600, 'x') + tar_padding(600) + tar_end();
    for (std::size_t cut : {std::size_t{100}, std::size_t{700}, std::size_t{1100}})
        EXPECT_FALSE(unpack(whole.substr(0, cut), to.path())) << cut;
    std::string damaged = whole;
    damaged[0] = 'g';
    EXPECT_FALSE(unpack(damaged, to.path()));
    EXPECT_TRUE(unpack("", to.path()));
}

TEST(tar, set_id_bits_are_not_brought_to_the_host) {
    Folder to;
    TarEntry program = entry("p", '0');
    program.mode = 06755;
    ASSERT_TRUE(unpack(tar_header(program) + tar_end(), to.path(), "p"));
    struct stat info{};
    ASSERT_EQ(::stat((to / "p").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777U, 0755U);
}

}  // namespace
}  // namespace wherry::cli
