// Containers: attach, logs, wait, stats.
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <charconv>

#include "api/docker/call.hpp"
#include "api/docker/shapes.hpp"
#include "api/docker/stdio_pump.hpp"
#include "http/websocket.hpp"

namespace wherry::api::docker {
namespace {

// ---- wait ----

asio::awaitable<Result<>> finish_wait(http::Exchange& exchange, engine::WaitHandle& handle) {
    auto result = co_await handle.result();
    if (!result && result.error().code() == Code::cancelled) co_return std::unexpected(std::move(result).error());
    JsonWriter writer;
    writer.begin_object().key("Error");
    std::string message = result ? result->error : result.error().describe();
    if (message.empty())
        writer.null();
    else
        writer.begin_object().member("Message", message).end_object();
    writer.member("StatusCode", result ? result->status_code : std::int64_t{-1}).end_object();
    co_return co_await exchange.write(writer.take_line());
}

asio::awaitable<Result<>> wait(Call& call) {
    // Before 1.30 there were no conditions.
    std::string wished = call.minor >= 30 ? call.text("condition") : std::string();
    CO_TRY(auto condition, engine::parse_wait_condition(wished));
    CO_TRY(auto handle, co_await call.engine.containers().wait(call.name(), condition));
    // The client starts the container only when it has seen these.
    CO_CHECK(co_await call.exchange.stream(200, "application/json"));
    engine::WaitHandle* waiting = handle.get();
    co_return co_await call.exchange.while_connected(finish_wait(call.exchange, *handle),
                                                     [waiting] { waiting->cancel(); });
}

// ---- attach ----

asio::awaitable<Result<>> attach(Call& call) {
    CO_CHECK(co_await call.exchange.read_all(4096));
    engine::AttachOptions options;
    options.logs = call.flag("logs");
    options.stream = call.flag("stream");
    options.standard_input = call.flag("stdin");
    options.standard_output = call.flag("stdout");
    options.standard_error = call.flag("stderr");
    options.detach_keys = call.text("detachKeys");
    bool with_input = options.standard_input && options.stream;
    auto session = co_await call.engine.containers().attach(call.name(), std::move(options));
    if (!session) {
        // Clients of attach expect text, not JSON, and read it to the connection's end.
        call.exchange.close_after_response();
        const Error& error = session.error();
        co_return co_await call.exchange.send(status_of(error.code()), std::string(raw_stream_type),
                                              error.describe() + "\r\n");
    }
    std::string type(stream_content_type((*session)->terminal(), call.minor));
    CO_TRY(auto client, co_await call.exchange.hijack(std::move(type)));
    co_return co_await pump_stdio(std::move(*session), std::move(client), with_input ? Input::forwarded : Input::none);
}

// The same over a WebSocket, for browsers and SDKs: binary messages, output without frames. Errors before the handshake
// are ordinary answers.
asio::awaitable<Result<>> attach_websocket(Call& call) {
    CO_CHECK(http::check_websocket_request(call.exchange.request()));
    engine::AttachOptions options;
    options.logs = call.flag("logs");
    options.stream = call.flag("stream");
    // Which streams are wished is asked since 1.42; before, it was all of them.
    const bool selects = call.minor >= 42;
    options.standard_input = !selects || call.flag("stdin");
    options.standard_output = !selects || call.flag("stdout");
    options.standard_error = !selects || call.flag("stderr");
    options.detach_keys = call.text("detachKeys");
    const bool with_input = options.standard_input && options.stream;
    CO_TRY(auto session, co_await call.engine.containers().attach(call.name(), std::move(options)));
    CO_TRY(auto client, co_await http::accept_websocket(call.exchange));
    co_return co_await pump_stdio(std::move(session), std::move(client), with_input ? Input::forwarded : Input::none,
                                  Output::raw);
}

// ---- logs ----

struct LogsFormat {
    bool timestamps = false;
    bool details = false;
    bool raw = false;     // a terminal's
    bool follow = false;  // each entry goes out at once
};

void append_entry(std::string& out, const engine::LogEntry& entry, const LogsFormat& format) {
    std::string line;
    if (format.details) {
        for (const auto& [name, value] : entry.attributes) {
            if (!line.empty()) line += ',';
            line += http::percent_encode(name) + "=" + http::percent_encode(value);
        }
        line += ' ';
    }
    if (format.timestamps) line.insert(0, format_rfc3339(entry.time) + " ");
    std::string_view data = entry.data;
    if (!line.empty()) {
        line += entry.data;
        data = line;
    }
    if (format.raw)
        out += data;
    else
        append_frame(out, entry.stream, data);
}

asio::awaitable<Result<>> send_logs(http::Exchange& exchange, engine::LogStream& logs, LogsFormat format) {
    constexpr std::size_t batch_bytes = 32U << 10U;
    std::string batch;
    while (true) {
        CO_TRY(auto entry, co_await logs.next());
        if (entry) append_entry(batch, *entry, format);
        if (!batch.empty() && (!entry || format.follow || batch.size() >= batch_bytes)) {
            CO_CHECK(co_await exchange.write(batch));
            batch.clear();
        }
        if (!entry) co_return Result<>{};
    }
}

asio::awaitable<Result<>> logs(Call& call) {
    engine::LogsOptions options;
    options.standard_output = call.flag("stdout");
    options.standard_error = call.flag("stderr");
    options.follow = call.flag("follow");
    if (!options.standard_output && !options.standard_error)
        co_return fail(Code::invalid_argument, "Bad parameters: you must choose at least one stream");
    CO_TRY(options.since, call.timestamp("since"));
    CO_TRY(options.until, call.timestamp("until"));
    // Anything but a number means all, as with dockerd.
    std::string_view tail = call.query().get("tail");
    std::uint64_t lines = 0;
    auto [end, error] = std::from_chars(tail.data(), tail.data() + tail.size(), lines);
    if (!tail.empty() && error == std::errc{} && end == tail.data() + tail.size()) options.tail = lines;

    LogsFormat format{.timestamps = call.flag("timestamps"), .details = call.flag("details"), .follow = options.follow};
    CO_TRY(auto stream, co_await call.engine.containers().logs(call.name(), options));
    format.raw = stream->terminal();
    CO_CHECK(co_await call.exchange.stream(200, std::string(stream_content_type(format.raw, call.minor))));
    engine::LogStream* reading = stream.get();
    auto sent = co_await call.exchange.while_connected(send_logs(call.exchange, *stream, format),
                                                       [reading] { reading->cancel(); });
    if (!sent && sent.error().code() != Code::cancelled) call.exchange.abort();
    co_return sent;
}

// ---- stats ----

asio::awaitable<void> pause_between_readings() {
    asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::seconds(1));
    co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
}

asio::awaitable<Result<>> send_stats(Call& call, std::string id, engine::StatsView first) {
    engine::StatsView previous = std::move(first);
    const engine::StatsView* before = nullptr;
    engine::StatsView current = previous;
    while (true) {
        JsonWriter writer;
        write_stats(writer, current, before);
        CO_CHECK(co_await call.exchange.write(writer.take_line()));
        previous = std::move(current);
        before = &previous;
        co_await pause_between_readings();
        if ((co_await asio::this_coro::cancellation_state).cancelled() != asio::cancellation_type::none)
            co_return fail(Code::cancelled, "the client went away");
        // A container that is gone ends the stream.
        CO_TRY(current, co_await call.engine.containers().stats(id));
    }
}

asio::awaitable<Result<>> single_stats(Call& call, std::string id, engine::StatsView& first, bool with_previous,
                                       JsonWriter& writer) {
    if (!with_previous) {
        write_stats(writer, first, nullptr);
        co_return Result<>{};
    }
    co_await pause_between_readings();
    CO_TRY(auto second, co_await call.engine.containers().stats(id));
    write_stats(writer, second, &first);
    co_return Result<>{};
}

asio::awaitable<Result<>> stats(Call& call) {
    bool stream = call.flag("stream", true);
    bool one_shot = call.flag("one-shot");
    if (stream && one_shot) co_return fail(Code::invalid_argument, "cannot have stream=true and one-shot=true");
    CO_TRY(auto first, co_await call.engine.containers().stats(call.name()));
    std::string id = first.id;
    if (stream) {
        CO_CHECK(co_await call.exchange.stream(200, "application/json"));
        co_return co_await call.exchange.while_connected(send_stats(call, std::move(id), std::move(first)));
    }
    JsonWriter writer;
    CO_CHECK(co_await call.exchange.while_connected(single_stats(call, std::move(id), first, !one_shot, writer)));
    co_return co_await call.send_json(200, std::move(writer));
}

}  // namespace

std::span<const Route> container_stream_routes() {
    static constexpr std::array routes = {
        Route{"POST", "/containers/{name}/wait", wait},
        Route{"POST", "/containers/{name}/attach", attach},
        Route{"GET", "/containers/{name}/attach/ws", attach_websocket},
        Route{"GET", "/containers/{name}/logs", logs},
        Route{"GET", "/containers/{name}/stats", stats},
    };
    return routes;
}

}  // namespace wherry::api::docker
