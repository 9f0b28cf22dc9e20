// The server and its parts on a folder of its own; what the real process does around them is tests/fs's business.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "fuse/testing.hpp"

namespace wherry::fuse {
namespace {

namespace fs = std::filesystem;
using testing::Arguments;
using testing::Client;

class ServerTest : public ::testing::Test {
  public:
    ServerTest() {
        std::string pattern = (fs::temp_directory_path() / "fuse-test-XXXXXX").string();
        folder_ = mkdtemp(pattern.data());
        start({.descriptors = 512});
    }
    ~ServerTest() override {
        server_.reset();
        files_.reset();
        fs::remove_all(folder_);
    }

  protected:
    void start(FileSystemOptions options) {
        auto made = FileSystem::create(*open_file(folder_.string(), O_PATH | O_DIRECTORY),
                                       *open_file("/proc/self/fd", O_PATH | O_DIRECTORY), std::move(options));
        ASSERT_TRUE(made) << made.error().describe();
        server_.reset();
        files_ = std::move(*made);
        server_ = std::make_unique<Server>(*files_);
        client_ = std::make_unique<Client>(*server_);
        EXPECT_EQ(client_->initialize().error, 0);
    }
    void put(const std::string& name, const std::string& text) { std::ofstream(folder_ / name) << text; }
    fuse_entry_out look_up(const std::string& name) {
        const auto reply = client_->ask(FUSE_LOOKUP, root_node, Arguments().name(name));
        EXPECT_EQ(reply.error, 0) << name;
        return reply.as<fuse_entry_out>();
    }
    std::uint64_t open(std::uint64_t node, std::uint32_t flags) {
        const auto reply =
            client_->ask(FUSE_OPEN, node, Arguments().add(fuse_open_in{.flags = flags, .open_flags = 0}));
        EXPECT_EQ(reply.error, 0);
        return reply.as<fuse_open_out>().fh;
    }
    static Arguments lock(std::uint64_t handle, std::uint64_t owner, std::uint32_t type) {
        fuse_lk_in in = {};
        in.fh = handle;
        in.owner = owner;
        in.lk = {.start = 0, .end = INT64_MAX, .type = type, .pid = 1};
        return Arguments().add(in);
    }

    fs::path folder_;
    std::unique_ptr<FileSystem> files_;
    std::unique_ptr<Server> server_;
    std::unique_ptr<Client> client_;
};

TEST(IdMap, MapsRangesBothWays) {
    const auto map = IdMap::create({{0, 1000, 1}, {1000, 5000, 10}}, std::nullopt);
    ASSERT_TRUE(map);
    EXPECT_EQ(*map->to_host(0), 1000U);
    EXPECT_EQ(*map->to_host(1009), 5009U);
    EXPECT_EQ(map->to_host(1010).error().value, EOVERFLOW);
    EXPECT_EQ(map->to_guest(5009), 1009U);
    EXPECT_EQ(map->to_guest(5010), IdMap::nobody);
    EXPECT_EQ(*IdMap::create({{0, 1000, 1}}, 7)->to_host(3), 7U);
    EXPECT_EQ(*IdMap().to_host(12), 12U);
    EXPECT_EQ(IdMap().to_guest(12), 12U);
    EXPECT_EQ(IdMap().to_host(UINT32_MAX).error().value, EINVAL);
}

TEST(IdMap, RefusesWhatMakesNoSense) {
    EXPECT_FALSE(IdMap::create({{0, 0, 0}}, std::nullopt));
    EXPECT_FALSE(IdMap::create({{0, UINT32_MAX - 5, 10}}, std::nullopt));
    EXPECT_FALSE(IdMap::create({{0, 0, 10}, {9, 100, 1}}, std::nullopt));
    EXPECT_FALSE(IdMap::create({{0, 0, 10}, {10, 9, 1}}, std::nullopt));
    EXPECT_TRUE(IdMap::create({{0, 0, 10}, {10, 10, 1}}, std::nullopt));
    for (const char* text : {"", "1", "1:2", "1:2:", "1:2:3:4", "a:2:3", "-1:2:3", "1:2:3 ", "4294967296:1:1"})
        EXPECT_FALSE(parse_id_range(text)) << text;
    EXPECT_EQ(parse_id_range("1:22:333")->count, 333U);
}

TEST_F(ServerTest, WritesAndReads) {
    const auto made = client_->ask(FUSE_CREATE, root_node,
                                   Arguments().add(fuse_create_in{.flags = O_RDWR, .mode = 0600}).name("file"));
    ASSERT_EQ(made.error, 0);
    const std::uint64_t node = made.as<fuse_entry_out>().nodeid;
    const std::uint64_t handle = made.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
    fuse_write_in in = {};
    in.fh = handle;
    in.size = 5;
    EXPECT_EQ(client_->ask(FUSE_WRITE, node, Arguments().add(in).raw("hello")).as<fuse_write_out>().size, 5U);
    in.size = 6;  // more than came along
    EXPECT_EQ(client_->ask(FUSE_WRITE, node, Arguments().add(in).raw("hello")).error, EINVAL);
    in.size = 5;
    in.offset = INT64_MAX;
    EXPECT_EQ(client_->ask(FUSE_WRITE, node, Arguments().add(in).raw("hello")).error, EINVAL);
    fuse_read_in read = {};
    read.fh = handle;
    read.size = 100;
    EXPECT_EQ(client_->ask(FUSE_READ, node, Arguments().add(read)).text(), "hello");
    // Never more than there is room for.
    EXPECT_EQ(client_->ask(FUSE_READ, node, Arguments().add(read), sizeof(fuse_out_header) + 2).text(), "he");
    EXPECT_EQ(client_->ask(FUSE_READ, node + 1, Arguments().add(read)).error, EBADF);
}

TEST_F(ServerTest, AReplyWithoutRoomLeavesNothing) {
    put("file", "x");
    EXPECT_EQ(client_->ask(FUSE_LOOKUP, root_node, Arguments().name("file"), 40).error, EIO);
    EXPECT_EQ(files_->inodes().size(), 1U);
    const auto node = look_up("file").nodeid;
    EXPECT_EQ(client_->ask(FUSE_OPEN, node, Arguments().add(fuse_open_in{}), 20).error, EIO);
    EXPECT_EQ(files_->handles().size(), 0U);
    EXPECT_EQ(client_
                  ->ask(FUSE_CREATE, root_node,
                        Arguments().add(fuse_create_in{.flags = O_RDWR, .mode = 0600}).name("new"), 100)
                  .error,
              EIO);
    EXPECT_EQ(files_->handles().size(), 0U);
    EXPECT_EQ(files_->inodes().size(), 2U);
}

TEST_F(ServerTest, ForgetsWhatNobodyKnows) {
    put("file", "x");
    const auto node = look_up("file").nodeid;
    EXPECT_EQ(look_up("file").nodeid, node);
    const auto handle = open(node, O_RDONLY);
    client_->ask(FUSE_FORGET, node, Arguments().add(fuse_forget_in{UINT64_MAX}));
    EXPECT_EQ(files_->inodes().size(), 2U) << "it is open";
    fuse_release_in release = {};
    release.fh = handle;
    EXPECT_EQ(client_->ask(FUSE_RELEASE, node, Arguments().add(release)).error, 0);
    EXPECT_EQ(files_->inodes().size(), 1U);
    client_->ask(FUSE_FORGET, root_node, Arguments().add(fuse_forget_in{UINT64_MAX}));
    EXPECT_EQ(client_->ask(FUSE_GETATTR, root_node, Arguments().add(fuse_getattr_in{})).error, 0);
}

TEST_F(ServerTest, FewNodesAreOpen) {
    start({.descriptors = 256});
    for (int i = 0; i < 200; ++i) put("file-" + std::to_string(i), std::to_string(i));
    std::vector<std::uint64_t> nodes;
    for (int i = 0; i < 200; ++i) nodes.push_back(look_up("file-" + std::to_string(i)).nodeid);
    EXPECT_LE(files_->inodes().open(), 48U);
    EXPECT_EQ(client_->ask(FUSE_GETATTR, nodes[0], Arguments().add(fuse_getattr_in{})).error, 0);
    for (std::uint64_t node : nodes) client_->ask(FUSE_GETATTR, node, Arguments().add(fuse_getattr_in{}));
    // The same name, another file: the number of the node does not pass to it.
    fs::rename(folder_ / "file-1", folder_ / "file-0");
    EXPECT_EQ(client_->ask(FUSE_GETATTR, nodes[0], Arguments().add(fuse_getattr_in{})).error, ESTALE);
}

TEST_F(ServerTest, KeepsABoundOfNodes) {
    start({.descriptors = 256, .nodes = 3});
    for (const char* name : {"a", "b", "c"}) put(name, "");
    look_up("a");
    look_up("b");
    EXPECT_EQ(client_->ask(FUSE_LOOKUP, root_node, Arguments().name("c")).error, ENFILE);
}

TEST_F(ServerTest, AWaitForALockIsAnsweredLater) {
    put("file", "x");
    const auto node = look_up("file").nodeid;
    const auto handle = open(node, O_RDWR);
    const Fd host = *open_file((folder_ / "file").string(), O_RDWR);
    struct flock whole = {};
    whole.l_type = F_WRLCK;
    ASSERT_EQ(fcntl(host.get(), F_OFD_SETLK, &whole), 0);
    EXPECT_EQ(client_->ask(FUSE_SETLK, node, lock(handle, 1, F_RDLCK)).error, EAGAIN);
    EXPECT_TRUE(client_->ask(FUSE_SETLKW, node, lock(handle, 1, F_RDLCK)).is_later);
    const auto first = client_->last_unique;
    EXPECT_TRUE(client_->ask(FUSE_SETLKW, node, lock(handle, 2, F_RDLCK)).is_later);
    client_->ask(FUSE_INTERRUPT, 0, Arguments().add(fuse_interrupt_in{first}));
    const auto wait = [&](std::size_t count) {
        while (client_->finished.replies.size() < count) {
            pollfd event = {.fd = files_->locks().completion_event(), .events = POLLIN, .revents = 0};
            poll(&event, 1, files_->locks().is_ending() ? 1 : -1);
            files_->locks().tell_again();
            files_->locks().run_completed();
        }
    };
    wait(1);
    EXPECT_EQ(Client::parse(client_->finished.replies[0], 16).error, EINTR);
    whole.l_type = F_UNLCK;
    ASSERT_EQ(fcntl(host.get(), F_OFD_SETLK, &whole), 0);
    wait(2);
    EXPECT_EQ(Client::parse(client_->finished.replies[1], 16).error, 0);
    // A session that ends takes its waits along.
    EXPECT_TRUE(client_->ask(FUSE_SETLKW, node, lock(handle, 3, F_WRLCK)).is_later);
    server_->reset();
    EXPECT_EQ(client_->finished.replies.size(), 2U);
}

TEST_F(ServerTest, JudgesLengths) {
    for (std::uint32_t opcode = 1; opcode < 64; ++opcode) {
        if (opcode == FUSE_DESTROY || opcode == FUSE_INIT || opcode == FUSE_SYNCFS) continue;
        for (std::size_t bytes : {0U, 1U, 7U, 8U, 15U, 39U}) {
            const auto reply = client_->ask(opcode, root_node, Arguments().raw(std::string(bytes, '\xff')));
            EXPECT_LT(reply.payload.size(), 4096U) << opcode;
        }
    }
    fuse_in_header header = {};
    header.opcode = FUSE_GETATTR;
    for (std::uint32_t claimed : {0U, 39U, 57U, UINT32_MAX}) {
        header.len = claimed;
        auto bytes = testing::bytes_of(&header, sizeof header);
        bytes.resize(56);
        testing::PlainMessage message(std::move(bytes), 100);
        EXPECT_EQ(server_->handle(message), std::optional<std::uint32_t>(sizeof(fuse_out_header))) << claimed;
    }
    testing::PlainMessage nothing({}, 100);
    EXPECT_EQ(server_->handle(nothing), std::optional<std::uint32_t>(0U));
}

}  // namespace
}  // namespace wherry::fuse
