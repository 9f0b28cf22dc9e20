#include "engine/streams.hpp"

#include <deque>
#include <utility>

namespace wherry::engine {
namespace {

constexpr std::chrono::seconds exit_patience{3};

// What the session and its coroutines share; a dropped session lets running calls come to their end.
struct Shared {
    ContainerPtr container;
    StreamSessionOptions options;
    std::unique_ptr<supervisor::StdioStream> stream;
    Mutex opening;
    bool cancelled = false;
    bool detached = false;
    std::size_t matched = 0;  // of the detach keys

    void stop() {
        cancelled = true;
        if (stream) stream->close();
        container->changed.notify_all();
        if (options.exec) options.exec->changed.notify_all();
    }
};

// Clients ask for an exec's exit code as soon as its streams end.
asio::awaitable<void> wait_for_exit_code(std::shared_ptr<Shared> shared) {
    const std::shared_ptr<Exec> exec = shared->options.exec;
    if (!exec) co_return;
    const Signal::Clock::time_point deadline = Signal::Clock::now() + exit_patience;
    while (!exec->exit_code && !shared->cancelled && !shared->detached && Signal::Clock::now() < deadline)
        co_await exec->changed.wait(deadline);
}

asio::awaitable<Result<bool>> open(std::shared_ptr<Shared> shared) {  // false: there is nothing to stream
    const Mutex::Guard guard = co_await shared->opening.lock();
    if (shared->stream) co_return true;
    const ContainerPtr container = shared->container;
    const std::uint64_t wanted = shared->options.wait_for_start;
    while (!shared->cancelled && !container->removed && container->starts < wanted) co_await container->changed.wait();
    if (shared->cancelled || container->starts < wanted) co_return false;
    const std::shared_ptr<supervisor::ShimClient> shim = container->shim;
    if (!shim) co_return false;
    CO_TRY(supervisor::StdioStream stream, co_await shim->open_stream(shared->options.request));
    shared->stream = std::make_unique<supervisor::StdioStream>(std::move(stream));
    if (shared->cancelled) shared->stream->close();
    co_return true;
}

class StreamSession final : public StdioSession {
  public:
    explicit StreamSession(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}
    ~StreamSession() override {
        shared_->stop();
        if (shared_->options.closed) std::exchange(shared_->options.closed, nullptr)();
    }

    bool terminal() const override { return shared_->options.terminal; }

    asio::awaitable<Result<std::optional<OutputChunk>>> read() override {
        const std::shared_ptr<Shared> shared = shared_;
        if (!shared->options.backlog.empty()) {
            co_return OutputChunk{.stream = StreamId::standard_output,
                                  .data = std::exchange(shared->options.backlog, {})};
        }
        CO_TRY(const bool there, co_await open(shared));
        if (!there) co_return std::optional<OutputChunk>();
        while (!shared->cancelled) {
            Result<supervisor::StreamChunk> chunk = co_await shared->stream->read();
            if (shared->cancelled || shared->detached) break;
            if (!chunk) co_return std::unexpected(std::move(chunk).error());
            switch (chunk->kind) {
                case supervisor::StreamChunk::Kind::stdout_data:
                    co_return OutputChunk{.stream = StreamId::standard_output, .data = std::move(chunk->data)};
                case supervisor::StreamChunk::Kind::stderr_data:
                    co_return OutputChunk{.stream = StreamId::standard_error, .data = std::move(chunk->data)};
                case supervisor::StreamChunk::Kind::gap:
                    continue;  // rotated away before anybody read it
                case supervisor::StreamChunk::Kind::end:
                    co_await wait_for_exit_code(shared);
                    co_return std::optional<OutputChunk>();
            }
        }
        co_return std::optional<OutputChunk>();
    }

    asio::awaitable<Result<>> write(std::string data) override {
        const std::shared_ptr<Shared> shared = shared_;
        CO_TRY(const bool there, co_await open(shared));
        if (!there || shared->cancelled) co_return Result<>{};
        const std::string input = filter(*shared, std::move(data));
        if (!input.empty()) CO_CHECK(co_await shared->stream->write(input));
        if (shared->detached) shared->stop();
        co_return Result<>{};
    }

    asio::awaitable<Result<>> close_stdin() override {
        const std::shared_ptr<Shared> shared = shared_;
        CO_TRY(const bool there, co_await open(shared));
        if (!there || shared->cancelled) co_return Result<>{};
        co_return co_await shared->stream->close_input();
    }

    void cancel() override { shared_->stop(); }

  private:
    // Takes the detach keys out; what only began like them is passed on.
    static std::string filter(Shared& shared, std::string data) {
        const std::string& keys = shared.options.detach_keys;
        if (keys.empty()) return data;
        std::string out;
        for (const char byte : data) {
            if (byte == keys[shared.matched]) {
                if (++shared.matched == keys.size()) {
                    shared.detached = true;
                    return out;
                }
                continue;
            }
            out.append(keys, 0, shared.matched);
            shared.matched = byte == keys[0] ? 1 : 0;
            if (shared.matched == 0) out.push_back(byte);
            if (shared.matched == keys.size()) {
                shared.detached = true;
                return out;
            }
        }
        return out;
    }

    std::shared_ptr<Shared> shared_;
};

}  // namespace

Result<std::string> parse_detach_keys(std::string_view text) {
    std::string keys;
    while (!text.empty()) {
        const std::size_t comma = text.find(',', 1);
        const std::string_view key = text.substr(0, comma);
        if (key.size() == 1) {
            keys.push_back(key[0]);
        } else if (key.starts_with("ctrl-") && key.size() == 6) {
            const char c = key[5];
            if (c >= 'a' && c <= 'z')
                keys.push_back(static_cast<char>(c - 'a' + 1));
            else if (c >= '@' && c <= '_')
                keys.push_back(static_cast<char>(c - '@'));
            else
                return fail(Code::invalid_argument, "Invalid escape keys (" + std::string(text) + ") provided");
        } else {
            return fail(Code::invalid_argument, "Invalid escape keys (" + std::string(text) + ") provided");
        }
        if (comma == std::string_view::npos) break;
        text.remove_prefix(comma + 1);
    }
    return keys;
}

std::unique_ptr<StdioSession> make_stream_session(ContainerPtr container, StreamSessionOptions options) {
    auto shared = std::make_shared<Shared>();
    shared->container = std::move(container);
    shared->options = std::move(options);
    return std::make_unique<StreamSession>(std::move(shared));
}

}  // namespace wherry::engine
