#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "base/clock.hpp"
#include "base/digest.hpp"
#include "base/encoding.hpp"
#include "base/fd.hpp"
#include "base/id.hpp"
#include "base/json.hpp"
#include "base/log.hpp"
#include "base/number.hpp"

namespace wherry {
namespace {

class Folder {
  public:
    Folder() {
        char pattern[] = "/tmp/wherry-base-XXXXXX";
        path_ = ::mkdtemp(pattern);
    }
    ~Folder() { [[maybe_unused]] auto removed = remove_tree(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  private:
    std::string path_;
};

Result<int> inner() {
    return fail_errno(ENOENT, "open x");
}
Result<int> outer() {
    int value = TRY(inner(), "reading the configuration");
    return value + 1;
}

TEST(result, context_is_printed_outermost_first) {
    auto result = outer();
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code(), Code::not_found);
    EXPECT_EQ(result.error().os_errno(), ENOENT);
    EXPECT_EQ(result.error().describe(), "reading the configuration: open x: No such file or directory");
}

TEST(number, is_all_there_is) {
    EXPECT_EQ(parse_number<int>("-12"), -12);
    EXPECT_EQ(parse_number<unsigned>("4294967295"), 4294967295U);
    for (const char* text : {"", " 1", "1 ", "+1", "0x1", "1.0", "4294967296", "-1"})
        EXPECT_FALSE(parse_number<unsigned>(text)) << text;
}

TEST(clock, formats_and_parses_rfc3339) {
    auto time = parse_rfc3339("2026-11-23T13:09:51.000000123Z");
    ASSERT_TRUE(time);
    EXPECT_EQ(format_rfc3339(*time), "2026-11-23T13:09:51.000000123Z");
    EXPECT_EQ(format_rfc3339_short(*parse_rfc3339("2026-11-23T13:09:51.5Z")), "2026-11-23T13:09:51.5Z");
    EXPECT_EQ(format_rfc3339_short(*parse_rfc3339("2026-11-23T14:09:51+01:00")), "2026-11-23T13:09:51Z");
    EXPECT_EQ(format_rfc3339_short(WallTime{}), "0001-01-01T00:00:00Z");
    EXPECT_EQ(*parse_rfc3339("0001-01-01T00:00:00Z"), WallTime{});
    EXPECT_EQ(*parse_rfc3339("6026-12-01T00:00:00Z"), WallTime::max());
    EXPECT_EQ(*parse_rfc3339("2262-04-11T23:47:17.9Z"), WallTime::max());
    EXPECT_EQ(*parse_rfc3339("1676-01-01T00:00:00.5Z"), WallTime::min());
    EXPECT_LT(*parse_rfc3339("2262-04-11T23:47:15.9Z"), WallTime::max());
    for (const char* bad : {"", "2026", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-01-01T00:00:00",
                            "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00Zx"})
        EXPECT_FALSE(parse_rfc3339(bad)) << bad;
}

TEST(fd, open_in_root_never_leaves_the_root) {
    Folder folder;
    ASSERT_EQ(::mkdir((folder / "root").c_str(), 0755), 0);
    ASSERT_TRUE(write_file_atomic(folder / "secret", "outside", 0644, Durability::none));
    ASSERT_TRUE(write_file_atomic(folder / "root/secret", "inside", 0644, Durability::none));
    ASSERT_EQ(::symlink("/secret", (folder / "root/absolute").c_str()), 0);
    ASSERT_EQ(::symlink("../../../../secret", (folder / "root/dots").c_str()), 0);
    Fd root = *open_file(folder / "root", O_PATH | O_DIRECTORY);
    for (const char* path : {"absolute", "dots", "../secret", "/secret"}) {
        auto file = open_in_root(root.get(), path, O_RDONLY);
        ASSERT_TRUE(file) << path;
        EXPECT_EQ(*read_to_end(file->get()), "inside") << path;
    }
    EXPECT_FALSE(open_in_root(root.get(), "/proc/self/root", O_RDONLY));
}

TEST(fd, remove_tree_does_not_follow_links) {
    Folder folder;
    ASSERT_TRUE(make_directories(folder / "a/b/c", 0755));
    ASSERT_TRUE(write_file_atomic(folder / "keep", "x", 0644, Durability::data));
    ASSERT_EQ(::symlink("../../keep", (folder / "a/b/link").c_str()), 0);
    ASSERT_TRUE(remove_tree(folder / "a"));
    EXPECT_FALSE(path_exists(folder / "a"));
    EXPECT_TRUE(path_exists(folder / "keep"));
    EXPECT_TRUE(remove_tree(folder / "a"));
}

TEST(fd, descriptors_travel_over_a_socket) {
    auto ends = make_socket_pair(SOCK_STREAM);
    ASSERT_TRUE(ends);
    auto pipe = make_pipe();
    int fds[] = {pipe->write.get()};
    ASSERT_TRUE(send_with_fds(ends->first.get(), "hello", fds));
    std::array<std::byte, 16> buffer{};
    auto received = receive_with_fds(ends->second.get(), buffer);
    ASSERT_TRUE(received);
    EXPECT_EQ(received->bytes, 5U);
    ASSERT_EQ(received->fds.size(), 1U);
    EXPECT_NE(::fcntl(received->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
    ASSERT_TRUE(write_all(received->fds[0].get(), "x"));
}

TEST(fd, long_socket_paths_work) {
    Folder folder;
    std::string deep = folder / std::string(60, 'd');
    ASSERT_TRUE(make_directories(deep + "/" + std::string(60, 'e'), 0755));
    std::string path = deep + "/" + std::string(60, 'e') + "/socket";
    auto server = listen_unix(path, 0600);
    ASSERT_TRUE(server) << server.error().describe();
    EXPECT_TRUE(connect_unix(path));
    EXPECT_TRUE(listen_unix(path, 0600)) << "a stale socket is replaced";
    ASSERT_TRUE(write_file_atomic(folder / "file", "", 0600, Durability::none));
    EXPECT_FALSE(listen_unix(folder / "file", 0600));
}

TEST(digest, matches_the_known_vector) {
    EXPECT_EQ(sha256_digest("abc"), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_TRUE(is_sha256_digest(sha256_digest("")));
    EXPECT_FALSE(is_sha256_digest("sha256:../../etc/passwd"));
    EXPECT_FALSE(is_sha256_digest("sha256:BA7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
}

TEST(encoding, base64_round_trip) {
    for (const std::string& text :
         {std::string(), std::string("f"), std::string("fo"), std::string("foo"), std::string("\0\xff\x10", 3)})
        EXPECT_EQ(*base64_decode(base64_encode(text)), text);
    EXPECT_EQ(base64_encode("foobar"), "Zm9vYmFy");
    EXPECT_EQ(*base64_decode("Zm8"), "fo");
    EXPECT_FALSE(base64_decode("Zm9v!"));
    EXPECT_FALSE(base64_decode("Z"));
}

TEST(id, is_64_hex_digits) {
    std::string id = make_id();
    EXPECT_EQ(id.size(), 64U);
    EXPECT_TRUE(unhex(id));
    EXPECT_NE(id, make_id());
    EXPECT_FALSE(unhex("abc"));
    EXPECT_FALSE(unhex("zz"));
}

TEST(json, wrong_types_name_their_path) {
    auto document = parse_json_object(R"({"process":{"args":["sh",1],"user":{"uid":-1}},"n":null})");
    ASSERT_TRUE(document);
    JsonReader root(*document);
    auto process = root.child("process");
    ASSERT_TRUE(process && *process);
    auto args = (*process)->strings("args");
    ASSERT_FALSE(args);
    EXPECT_EQ(args.error().describe(), "process.args: expected an array of strings");
    auto uid = (**(*process)->child("user")).unsigned_integer("uid");
    ASSERT_FALSE(uid);
    EXPECT_EQ(uid.error().describe(), "process.user.uid: expected a non-negative integer");
    EXPECT_FALSE(root.has("n"));
    EXPECT_FALSE(parse_json("{\"a\":1} x"));
    EXPECT_FALSE(parse_json(std::string(100, '[')));
    EXPECT_FALSE(parse_json(""));
    EXPECT_TRUE(parse_json(" {} \n"));
}

std::string captured;
TEST(log, quotes_what_could_be_mistaken) {
    set_log_sink([](LogLevel, std::string_view line) { captured = line; });
    log_info("test.event", {{"id", "a b"}, {"count", 3}, {"text", "x\ny\""}, {"empty", ""}});
    set_log_sink(nullptr);
    EXPECT_EQ(captured, R"(test.event id="a b" count=3 text="x\ny\"" empty="")");
}

}  // namespace
}  // namespace wherry
