// wherryd's end of the control protocol: spawns shims, connects to running ones, calls them, follows their events and
// opens stdio streams. Asio coroutines; nothing here blocks.
//
// Threading: a ShimClient and the streams it opened belong to one executor (a strand); every call is made on it.
// Lifetime: share the client; calls keep it alive while they run. When the shim dies or close() is called, every
// outstanding and later call ends with `unavailable` (close(): `cancelled`).
//
//     CO_TRY(auto shim, co_await ShimClient::spawn(executor, options));
//     CO_TRY(auto state, co_await shim->run(std::move(request), std::move(netns)));
//     CO_TRY(auto stream, co_await shim->open_stream({.container_id = id, .want_stdout = true, .stdout_offset = 0}));
//     CO_TRY(auto status, co_await shim->wait(id));
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "supervisor/protocol.hpp"

namespace wherry::supervisor {

namespace asio = boost::asio;

struct SpawnOptions {
    std::string binary;  // path of wherry-shim
    std::string sandbox_id;
    std::string directory;  // exists; the shim makes shim.sock in it
    std::string log_path;   // the shim's own messages; empty: nowhere
};

// A frame of an output stream, or its end.
struct StreamChunk {
    enum class Kind : unsigned char { stdout_data, stderr_data, gap, end };
    Kind kind = Kind::end;
    std::string data;              // gap: empty
    std::uint64_t lost_bytes = 0;  // gap only: bytes that the log no longer has
    StreamFrame gap_stream = StreamFrame::stdout_data;
};

// One stdio stream connection. Reading and writing may be outstanding at the same time, one of each.
class StdioStream {
  public:
    ~StdioStream();
    StdioStream(StdioStream&&) noexcept;
    StdioStream& operator=(StdioStream&&) noexcept;
    StdioStream(const StdioStream&) = delete;
    StdioStream& operator=(const StdioStream&) = delete;

    const StreamReply& reply() const;
    // The next piece of output. `unavailable` when the connection broke before the end of the output.
    asio::awaitable<Result<StreamChunk>> read();
    // Input for the process; returns when the shim's socket took it (back-pressure).
    asio::awaitable<Result<>> write(std::string data);
    // End of input: closes the process's stdin. Output goes on.
    asio::awaitable<Result<>> close_input();
    // Ends the connection and whatever waits on it (`cancelled`). The process does not notice, unless stdin_once.
    void close();

  private:
    friend class ShimClient;
    struct State;
    explicit StdioStream(std::shared_ptr<State> state);
    std::shared_ptr<State> state_;
};

using Event = std::variant<ExitEvent, OomEvent>;

class ShimClient : public std::enable_shared_from_this<ShimClient> {
  public:
    // Calls other than wait and wait_log answer within this, or fail with deadline_exceeded.
    static constexpr std::chrono::seconds call_timeout{60};

    // Starts a shim for a new sandbox and greets it. The shim outlives the caller.
    static asio::awaitable<Result<std::shared_ptr<ShimClient>>> spawn(asio::any_io_executor executor,
                                                                      SpawnOptions options);
    // Connects to the shim of an existing sandbox. not_found or unavailable when there is none.
    static asio::awaitable<Result<std::shared_ptr<ShimClient>>> connect(asio::any_io_executor executor,
                                                                        std::string directory);
    ~ShimClient();
    ShimClient(const ShimClient&) = delete;
    ShimClient& operator=(const ShimClient&) = delete;

    const HelloReply& server() const;  // what the shim said in its hello
    bool has_feature(std::string_view name) const;
    bool alive() const;  // false once the connection is gone

    // The namespaces that the sandbox's containers are to share.
    asio::awaitable<Result<SandboxState>> make_sandbox(SandboxRequest request, Fd netns = {});
    asio::awaitable<Result<ContainerState>> create(CreateRequest request, Fd netns = {});
    asio::awaitable<Result<ContainerState>> start(std::string container_id);
    // create and start in one round trip: the hot path.
    asio::awaitable<Result<ContainerState>> run(CreateRequest request, Fd netns = {});
    asio::awaitable<Result<ExecState>> exec(ExecRequest request);
    asio::awaitable<Result<>> kill(KillRequest request);
    asio::awaitable<Result<>> resize(ResizeRequest request);
    // Returns when the process has ended and its output is flushed; no time limit. At once when it has ended before.
    asio::awaitable<Result<ExitStatus>> wait(std::string container_id, std::string exec_id = {});
    asio::awaitable<Result<>> pause(std::string container_id);
    asio::awaitable<Result<>> resume(std::string container_id);
    asio::awaitable<Result<Stats>> stats(std::string container_id);
    asio::awaitable<Result<ContainerState>> state(std::string container_id);
    asio::awaitable<Result<SandboxState>> list();
    // Removes an ended container. The shim ends itself after its last one.
    asio::awaitable<Result<>> remove(DeleteRequest request);
    asio::awaitable<Result<>> remove_exec(std::string container_id, std::string exec_id);
    asio::awaitable<Result<>> update(UpdateRequest request);
    asio::awaitable<Result<>> close_stdin(std::string container_id, std::string exec_id = {});
    asio::awaitable<Result<>> discard_output(std::string container_id, std::string exec_id = {});
    asio::awaitable<Result<LogProgress>> wait_log(std::string container_id, std::uint64_t after);
    // Kills everything in the sandbox and ends the shim.
    asio::awaitable<Result<>> shutdown();

    // From here on events are queued; the state returned is the one that they continue.
    asio::awaitable<Result<SandboxState>> subscribe();
    // The next event; waits. One caller at a time.
    asio::awaitable<Result<Event>> next_event();

    asio::awaitable<Result<StdioStream>> open_stream(StreamRequest request);

    // Closes the connection; the shim goes on.
    void close();

  private:
    struct State;
    explicit ShimClient(std::shared_ptr<State> state);
    std::shared_ptr<State> state_;
};

}  // namespace wherry::supervisor
