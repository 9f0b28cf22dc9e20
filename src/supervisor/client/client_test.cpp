#include "supervisor/client/client.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/this_coro.hpp>
#include <filesystem>
#include <optional>
#include <thread>

#include "supervisor/event_loop.hpp"
#include "supervisor/frame.hpp"
#include "supervisor/server.hpp"

namespace wherry::supervisor {
namespace {

// Runs a coroutine to its end.
template <class T>
T run(asio::awaitable<T> work) {
    asio::io_context context;
    std::optional<T> result;
    asio::co_spawn(context, std::move(work), [&](const std::exception_ptr& error, T value) {
        if (error) std::rethrow_exception(error);
        result = std::move(value);
        context.stop();
    });
    context.run_for(std::chrono::seconds(30));
    if (!result) throw std::runtime_error("the coroutine did not end");
    return std::move(*result);
}

class Folder {
  public:
    Folder() {
        std::string path = testing::TempDir() + "/wherry-client-XXXXXX";
        if (::mkdtemp(path.data()) != nullptr) path_ = path;
    }
    ~Folder() { static_cast<void>(remove_tree(path_)); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

// The supervisor's server on a thread, without containers: enough for everything that needs no root.
class ServerThread {
  public:
    explicit ServerThread(const std::string& directory) : loop_(*EventLoop::create()) {
        server_ = std::make_unique<Server>(*loop_, scratch_, ServerOptions{"test/1", "s1", directory});
        EXPECT_TRUE(server_->listen());
        thread_ = std::thread([this] { loop_->run(); });
    }
    ~ServerThread() {
        // Its last connection's end ends the loop.
        thread_.join();
    }
    ServerThread(const ServerThread&) = delete;
    ServerThread& operator=(const ServerThread&) = delete;

  private:
    std::array<char, 65536> scratch_{};
    std::unique_ptr<EventLoop> loop_;
    std::unique_ptr<Server> server_;
    std::thread thread_;
};

TEST(Client, GreetsCallsAndFails) {
    Folder folder;
    ServerThread server(folder.path());
    auto outcome = run([](std::string directory) -> asio::awaitable<Result<int>> {
        auto executor = co_await asio::this_coro::executor;
        CO_TRY(auto shim, co_await ShimClient::connect(executor, directory));
        EXPECT_EQ(shim->server().software, "test/1");
        EXPECT_TRUE(shim->has_feature("run"));
        EXPECT_FALSE(shim->has_feature("of-the-future"));
        CO_TRY(auto sandbox, co_await shim->list());
        EXPECT_EQ(sandbox.sandbox_id, "s1");
        auto missing = co_await shim->state("nothing");
        EXPECT_FALSE(missing);
        if (!missing) EXPECT_EQ(missing.error().code(), Code::not_found);
        auto stream = co_await shim->open_stream({.container_id = "nothing", .want_stdout = true});
        EXPECT_FALSE(stream);
        EXPECT_TRUE(shim->alive());
        shim->close();
        EXPECT_FALSE(shim->alive());
        auto late = co_await shim->list();
        EXPECT_FALSE(late);
        if (!late) EXPECT_EQ(late.error().code(), Code::cancelled);
        co_return 0;
    }(folder.path()));
    ASSERT_TRUE(outcome) << outcome.error().describe();
}

TEST(Client, TellsOfAMissingShim) {
    Folder folder;
    auto outcome = run([](std::string directory) -> asio::awaitable<Result<int>> {
        auto executor = co_await asio::this_coro::executor;
        auto shim = co_await ShimClient::connect(executor, directory);
        EXPECT_FALSE(shim);
        if (!shim) EXPECT_EQ(shim.error().code(), Code::not_found);
        co_return 0;
    }(folder.path()));
    ASSERT_TRUE(outcome);
}

// A peer that greets, then answers a call with whatever it likes.
void misbehave(Fd listener, const std::string& bytes) {
    Fd peer(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    FrameDecoder decoder;
    std::array<char, 4096> buffer{};
    for (int frames = 0; frames < 2;) {
        ssize_t got = ::recv(peer.get(), buffer.data(), buffer.size(), 0);
        if (got <= 0 || !decoder.feed({buffer.data(), static_cast<std::size_t>(got)})) return;
        while (auto payload = decoder.next()) {
            auto message = parse_message(*payload);
            if (!message) return;
            if (++frames == 1)
                static_cast<void>(write_all(peer.get(), encode_answer(message->id, to_json_object(HelloReply{}))));
        }
    }
    static_cast<void>(write_all(peer.get(), bytes));
}

TEST(Client, BrokenPeersAreCleanErrors) {
    for (const std::string& bytes : {std::string(), std::string("\xFF\xFF\xFF\xFF", 4), std::string("\0\0\0\1{", 5),
                                     *encode_frame("[]"), *encode_frame(R"({"id":2,"result":5})")}) {
        Folder folder;
        auto listener = listen_unix(folder.path() + "/shim.sock", 0600);
        ASSERT_TRUE(listener);
        ASSERT_EQ(::fcntl(listener->get(), F_SETFL, 0), 0);
        std::thread peer(misbehave, std::move(*listener), bytes);
        auto outcome = run([](std::string directory) -> asio::awaitable<Result<int>> {
            auto executor = co_await asio::this_coro::executor;
            CO_TRY(auto shim, co_await ShimClient::connect(executor, directory));
            EXPECT_FALSE(co_await shim->list());
            EXPECT_FALSE(shim->alive());
            EXPECT_FALSE(co_await shim->next_event());
            co_return 0;
        }(folder.path()));
        peer.join();
        ASSERT_TRUE(outcome) << outcome.error().describe();
    }
}

// With root and the real shim beside this test's binary.
class RealShim : public testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root";
        binary_ = std::filesystem::read_symlink("/proc/self/exe").parent_path() / "wherry-shim";
        if (!std::filesystem::exists(binary_)) GTEST_SKIP() << "wherry-shim is not built";
        if (!std::filesystem::exists("/bin/busybox")) GTEST_SKIP() << "needs /bin/busybox";
        for (const char* name : {"sandbox", "root/bin", "root/proc", "root/dev", "upper", "work"})
            std::filesystem::create_directories(folder_.path() + "/" + name);
        std::filesystem::copy("/bin/busybox", folder_.path() + "/root/bin/busybox");
        std::filesystem::create_symlink("busybox", folder_.path() + "/root/bin/sh");
        std::filesystem::create_symlink("busybox", folder_.path() + "/root/bin/cat");
    }

    SpawnOptions options() const { return {binary_, "s1", folder_.path() + "/sandbox", ""}; }

    CreateRequest request(const std::string& script) const {
        CreateRequest request;
        request.container_id = "wherry-client-test-" + std::to_string(::getpid());
        json::object process{{"args", json::array{"/bin/busybox", "sh", "-c", json::string(script)}},
                             {"cwd", "/"},
                             {"env", json::array{"PATH=/bin"}}};
        json::array namespaces;
        for (const char* kind : {"pid", "mount", "ipc", "uts", "network"})
            namespaces.emplace_back(json::object{{"type", kind}});
        request.spec = {
            {"ociVersion", "1.2.0"},
            {"process", process},
            {"root", json::object{{"path", "/"}}},
            {"mounts", json::array{json::object{{"destination", "/proc"}, {"type", "proc"}, {"source", "proc"}}}},
            {"linux",
             json::object{{"namespaces", namespaces}, {"cgroupsPath", "/wherry-client-test/" + request.container_id}}}};
        request.bundle = folder_.path();
        request.root = {{folder_.path() + "/root"}, folder_.path() + "/upper", folder_.path() + "/work", false};
        request.log = {LogDriver::json_file, folder_.path() + "/log"};
        request.exit_record_path = folder_.path() + "/exit.json";
        return request;
    }

    Folder folder_;
    std::string binary_;
};

asio::awaitable<Result<std::string>> read_all(StdioStream& stream) {
    std::string output;
    while (true) {
        CO_TRY(StreamChunk chunk, co_await stream.read());
        if (chunk.kind == StreamChunk::Kind::end) co_return output;
        output += chunk.data;
    }
}

asio::awaitable<Result<int>> whole_life(SpawnOptions options, CreateRequest request) {
    auto executor = co_await asio::this_coro::executor;
    std::string id = request.container_id;
    request.stdin_open = true;
    CO_TRY(auto shim, co_await ShimClient::spawn(executor, options));
    EXPECT_EQ(shim->server().sandbox_id, "s1");
    CO_TRY(auto before, co_await shim->subscribe());
    EXPECT_TRUE(before.containers.empty());
    CO_TRY(auto state, co_await shim->run(std::move(request)));
    EXPECT_EQ(state.status, Status::running);
    CO_TRY(auto stream, co_await shim->open_stream({.container_id = id,
                                                    .want_stdin = true,
                                                    .want_stdout = true,
                                                    .want_stderr = true,
                                                    .stdout_offset = 0,
                                                    .stderr_offset = 0}));
    ExecRequest exec{.container_id = id, .exec_id = "e1"};
    exec.process = {{"args", json::array{"/bin/busybox", "sh", "-c", "echo from exec"}}, {"cwd", "/"}};
    CO_CHECK(co_await shim->exec(std::move(exec)));
    CO_TRY(auto exec_stream,
           co_await shim->open_stream({.container_id = id, .exec_id = "e1", .want_stdout = true, .stdout_offset = 0}));
    CO_TRY(auto exec_output, co_await read_all(exec_stream));
    EXPECT_EQ(exec_output, "from exec\n");
    CO_TRY(auto exec_status, co_await shim->wait(id, "e1"));
    EXPECT_EQ(exec_status.code, 0);
    CO_TRY(auto stats, co_await shim->stats(id));
    EXPECT_GT(stats.cpu_total_ns, 0U);
    CO_CHECK(co_await stream.write("line\n"));
    CO_CHECK(co_await stream.close_input());
    CO_TRY(auto output, co_await read_all(stream));
    EXPECT_EQ(output, "line\n");
    CO_TRY(auto status, co_await shim->wait(id));
    EXPECT_EQ(status.code, 3);
    CO_TRY(auto first, co_await shim->next_event());
    EXPECT_EQ(std::get<ExitEvent>(first).exec_id, "e1");
    CO_TRY(auto second, co_await shim->next_event());
    EXPECT_EQ(std::get<ExitEvent>(second).status.code, 3);
    CO_TRY(auto progress, co_await shim->wait_log(id, 0));
    EXPECT_TRUE(progress.ended);
    CO_CHECK(co_await shim->remove({.container_id = id}));
    auto gone = co_await shim->next_event();
    EXPECT_FALSE(gone);
    co_return 0;
}

TEST_F(RealShim, CarriesAContainerThroughItsLife) {
    auto outcome = run(whole_life(options(), request("cat; exit 3")));
    ASSERT_TRUE(outcome) << outcome.error().describe();
    EXPECT_EQ(read_exit_record(folder_.path() + "/exit.json")->status.code, 3);
}

asio::awaitable<Result<int>> death_of_the_shim(SpawnOptions options, CreateRequest request) {
    auto executor = co_await asio::this_coro::executor;
    std::string id = request.container_id;
    CO_TRY(auto shim, co_await ShimClient::spawn(executor, options));
    CO_TRY(auto state, co_await shim->run(std::move(request)));
    CO_TRY(auto stream, co_await shim->open_stream({.container_id = id, .want_stdout = true}));
    // A second client leaves without a trace.
    {
        CO_TRY(auto other, co_await ShimClient::connect(executor, options.directory));
        CO_CHECK(co_await other->list());
    }
    ::kill(shim->server().pid, SIGKILL);
    auto waited = co_await shim->wait(id);
    EXPECT_FALSE(waited);
    if (!waited) EXPECT_EQ(waited.error().code(), Code::unavailable);
    auto read = co_await stream.read();
    EXPECT_FALSE(read);
    if (!read) EXPECT_EQ(read.error().code(), Code::unavailable);
    EXPECT_FALSE(co_await shim->list());
    ::kill(state.pid, SIGKILL);
    co_return 0;
}

TEST_F(RealShim, ItsDeathEndsEveryCall) {
    CreateRequest create = request("cat /dev/zero >/dev/null & wait");
    std::string path = std::string(create.spec.at("linux").as_object().at("cgroupsPath").as_string());
    auto outcome = run(death_of_the_shim(options(), std::move(create)));
    ASSERT_TRUE(outcome) << outcome.error().describe();
    auto removed = confine::remove_cgroup_by_path(**confine::CgroupSystem::of_this_host(), path);
    EXPECT_TRUE(removed) << removed.error().describe();
    static_cast<void>(confine::remove_cgroup_by_path(**confine::CgroupSystem::of_this_host(), "/wherry-client-test"));
}

}  // namespace
}  // namespace wherry::supervisor
