// attach and logs.
#include <boost/asio/this_coro.hpp>
#include <utility>

#include "engine/container_service.hpp"
#include "engine/streams.hpp"
#include "engine/validate.hpp"
#include "supervisor/log.hpp"

namespace wherry::engine {
namespace {

constexpr std::size_t log_batch = 256;  // entries read in one go on the pool

struct LogShared {
    ContainerPtr container;
    Pool* pool = nullptr;
    supervisor::LogOptions log;
    supervisor::LogReadOptions read;
    std::optional<supervisor::LogReader> reader;
    bool follow = false;
    bool ended = false;
    bool cancelled = false;
    std::vector<supervisor::LogEntry> batch;
    std::size_t next = 0;
    std::uint64_t progress = 0;  // entries the shim has told of
    bool waiting = false;        // for it to tell of more
};

class LogSession final : public LogStream {
  public:
    explicit LogSession(std::shared_ptr<LogShared> shared) : shared_(std::move(shared)) {}
    ~LogSession() override { cancel(); }

    bool terminal() const override { return shared_->container->config().tty; }

    asio::awaitable<Result<std::optional<LogEntry>>> next() override {
        const std::shared_ptr<LogShared> shared = shared_;
        while (!shared->cancelled) {
            if (shared->next < shared->batch.size()) {
                supervisor::LogEntry& entry = shared->batch[shared->next++];
                LogEntry out{.time = entry.time,
                             .stream = entry.stream == supervisor::LogStream::stderr_stream ? StreamId::standard_error
                                                                                            : StreamId::standard_output,
                             .data = std::move(entry.data),
                             .attributes = {}};
                if (!entry.attributes.empty()) {
                    if (const auto object = parse_json_object(entry.attributes)) {
                        for (const auto& member : *object) {
                            if (member.value().is_string())
                                out.attributes[std::string(member.key())] = std::string(member.value().get_string());
                        }
                    }
                }
                co_return std::optional<LogEntry>(std::move(out));
            }
            if (shared->ended) break;
            // Whether more may come is asked before reading: what is written in between is read then.
            const bool was_running = shared->container->is_alive() && !shared->container->removed;
            CO_CHECK(co_await shared->pool->run([shared] { return fill(*shared); }));
            if (shared->cancelled) break;
            if (!shared->batch.empty()) continue;
            if (!shared->follow || shared->reader->past_until()) break;
            if (shared->read.until && *shared->read.until <= wall_now()) break;
            if (!was_running) break;
            co_await more(shared);
        }
        co_return std::optional<LogEntry>();
    }

    void cancel() override {
        shared_->cancelled = true;
        shared_->container->changed.notify_all();
    }

  private:
    // On the pool.
    static Result<> fill(LogShared& shared) {
        shared.batch.clear();
        shared.next = 0;
        if (!shared.reader) shared.reader.emplace(TRY(supervisor::LogReader::open(shared.log, shared.read)));
        while (shared.batch.size() < log_batch) {
            auto entry = TRY(shared.reader->next());
            if (!entry) break;
            shared.batch.push_back(std::move(*entry));
        }
        return {};
    }

    // Returns when the log may have grown: the shim says so, or the container's state changed.
    static asio::awaitable<void> more(std::shared_ptr<LogShared> shared) {
        const ContainerPtr container = shared->container;
        const std::shared_ptr<supervisor::ShimClient> shim = container->shim;
        if (!shim) {  // between two runs, or ending right now
            co_await container->changed.wait(Signal::Clock::now() + std::chrono::seconds(1));
            co_return;
        }
        if (!shared->waiting) {
            shared->waiting = true;
            asio::co_spawn(co_await asio::this_coro::executor, ask(shared, shim), asio::detached);
        }
        co_await container->changed.wait();
    }

    static asio::awaitable<void> ask(std::shared_ptr<LogShared> shared, std::shared_ptr<supervisor::ShimClient> shim) {
        const auto progress = co_await shim->wait_log(shared->container->id, shared->progress);
        shared->waiting = false;
        shared->progress = progress ? progress->entries : 0;
        shared->container->changed.notify_all();
    }

    std::shared_ptr<LogShared> shared_;
};

}  // namespace

asio::awaitable<Result<std::unique_ptr<LogStream>>> ContainerService::logs(std::string reference, LogsOptions options) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    if (!options.standard_output && !options.standard_error) {
        co_return fail(Code::invalid_argument, "You must choose at least one stream");
    }
    CO_TRY(supervisor::LogOptions log,
           log_options(container->host_config().log_config, container->config(), paths(*container).log));
    if (log.driver == supervisor::LogDriver::none) {
        co_return fail(Code::unimplemented, "configured logging driver does not support reading");
    }
    auto shared = std::make_shared<LogShared>();
    shared->container = container;
    shared->pool = &core_.pool;
    shared->log = std::move(log);
    shared->read.tail = options.tail;
    shared->read.since = options.since;
    shared->read.until = options.until;
    shared->read.want_stdout = options.standard_output;
    shared->read.want_stderr = options.standard_error;
    shared->follow = options.follow;
    co_return std::make_unique<LogSession>(std::move(shared));
}

asio::awaitable<Result<std::unique_ptr<StdioSession>>> ContainerService::attach(std::string reference,
                                                                                AttachOptions options) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    if (container->phase == Phase::paused) {
        co_return fail(Code::conflict, "container " + reference + " is paused, unpause the container before attach");
    }
    if (container->phase == Phase::restarting) {
        co_return fail(Code::conflict,
                       "container " + reference + " is restarting, wait until the container is running");
    }
    StreamSessionOptions session;
    session.terminal = container->config().tty;
    CO_TRY(session.detach_keys, parse_detach_keys(options.detach_keys.empty() ? "ctrl-p,ctrl-q" : options.detach_keys));
    if (!session.terminal) session.detach_keys.clear();
    session.request.container_id = container->id;
    session.request.want_stdin = options.standard_input && container->config().open_stdin;
    session.request.want_stdout = options.standard_output;
    session.request.want_stderr = options.standard_error;
    if (!container->is_running()) {
        session.wait_for_start = container->starts + 1;
        session.request.stdout_offset = 0;
        session.request.stderr_offset = 0;
    } else if (options.logs) {
        session.request.stdout_offset = 0;
        session.request.stderr_offset = 0;
    }
    if (options.logs && !options.stream) {
        // What was written so far, and nothing more.
        LogsOptions all;
        all.standard_output = options.standard_output;
        all.standard_error = options.standard_error;
        CO_TRY(const std::unique_ptr<LogStream> log, co_await logs(reference, all));
        while (true) {
            CO_TRY(std::optional<LogEntry> entry, co_await log->next());
            if (!entry) break;
            session.backlog += entry->data;
        }
        session.wait_for_start = ~std::uint64_t{0};
        auto only_logs = make_stream_session(container, std::move(session));
        only_logs->cancel();
        co_return only_logs;
    }
    ++container->attached;
    session.closed = [container] { --container->attached; };
    core_.publish(*container, "attach");
    co_return make_stream_session(container, std::move(session));
}

asio::awaitable<Result<>> ContainerService::resize(std::string reference, unsigned height, unsigned width) {
    CO_TRY(const ContainerPtr container, core_.containers.find(reference));
    if (height > 65535 || width > 65535) co_return fail(Code::invalid_argument, "invalid terminal size");
    const std::shared_ptr<supervisor::ShimClient> shim = container->shim;
    if (!container->is_running() || !shim)
        co_return fail(Code::conflict, "Container " + container->id + " is not running");
    if (!container->config().tty) co_return Result<>{};  // nothing to resize, and nothing wrong with asking
    CO_CHECK(co_await shim->resize({.container_id = container->id,
                                    .width = static_cast<std::uint16_t>(width),
                                    .height = static_cast<std::uint16_t>(height)}));
    core_.publish(*container, "resize", {{"height", std::to_string(height)}, {"width", std::to_string(width)}});
    co_return Result<>{};
}

}  // namespace wherry::engine
