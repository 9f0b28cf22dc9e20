#include "api/docker/stdio_pump.hpp"

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <exception>

namespace wherry::api::docker {

std::string_view stream_content_type(bool terminal, int minor) {
    return !terminal && minor >= 42 ? multiplexed_stream_type : raw_stream_type;
}

void append_frame(std::string& out, engine::StreamId stream, std::string_view data) {
    auto size = static_cast<std::uint32_t>(data.size());
    const std::array<char, 8> header = {static_cast<char>(stream),
                                        0,
                                        0,
                                        0,
                                        static_cast<char>(size >> 24U),
                                        static_cast<char>(size >> 16U),
                                        static_cast<char>(size >> 8U),
                                        static_cast<char>(size)};
    out.append(header.data(), header.size());
    out.append(data);
}

namespace {

constexpr std::chrono::milliseconds client_close_timeout{2'000};

// Shared by the two directions; whoever ends last lets go.
struct Pump {
    std::unique_ptr<engine::StdioSession> session;
    std::unique_ptr<http::Stream> client;
    bool input_ended = false;
};

// The client's bytes to the process. Ends with the client, or when the output's end cancels it.
asio::awaitable<void> forward_input(std::shared_ptr<Pump> pump, Input input) {
    co_await asio::this_coro::throw_if_cancelled(false);
    std::array<std::byte, 16384> buffer;
    while (true) {
        auto count = co_await pump->client->read_some(buffer);
        if (!count) {
            if (count.error().code() != Code::cancelled) pump->session->cancel();
            co_return;
        }
        if (*count == 0) break;
        if (input == Input::none) continue;  // what nobody asked for is read and dropped
        // SAFETY: bytes as chars.
        auto written = co_await pump->session->write({reinterpret_cast<const char*>(buffer.data()), *count});
        // The process may have closed its input while its output goes on.
        if (!written) input = Input::none;
    }
    if (input == Input::forwarded) static_cast<void>(co_await pump->session->close_stdin());
    // The client ended its input and may wait for output as long as it likes, unless it is gone altogether.
    if (co_await pump->client->wait_closed()) pump->session->cancel();
}

asio::awaitable<Result<>> forward_output(Pump& pump, Output output) {
    bool raw = output == Output::raw || pump.session->terminal();
    std::string frame;
    while (true) {
        CO_TRY(auto chunk, co_await pump.session->read());
        if (!chunk) co_return Result<>{};
        if (raw) {
            CO_CHECK(co_await pump.client->write(chunk->data));
            continue;
        }
        frame.clear();
        append_frame(frame, chunk->stream, chunk->data);
        CO_CHECK(co_await pump.client->write(frame));
    }
}

}  // namespace

asio::awaitable<Result<>> pump_stdio(std::unique_ptr<engine::StdioSession> session,
                                     std::unique_ptr<http::Stream> client, Input input, Output output) {
    auto pump = std::make_shared<Pump>(Pump{.session = std::move(session), .client = std::move(client)});
    auto executor = co_await asio::this_coro::executor;
    asio::steady_timer ended(executor, asio::steady_timer::time_point::max());
    asio::cancellation_signal stop;
    asio::steady_timer* wake = &ended;  // this frame waits until the handler ran
    asio::co_spawn(executor, forward_input(pump, input),
                   asio::bind_cancellation_slot(stop.slot(), [pump, wake](const std::exception_ptr& /*thrown*/) {
                       pump->input_ended = true;
                       wake->cancel();
                   }));
    Result<> result = co_await forward_output(*pump, output);
    // All output is on its way: end our side, and give the client a moment to close its own. Closing over input that
    // nobody has read yet would turn the client's end of stream into a reset.
    static_cast<void>(co_await pump->client->shutdown_write());
    pump->session->cancel();
    ended.expires_after(result ? client_close_timeout : std::chrono::milliseconds(0));
    if (!pump->input_ended) co_await ended.async_wait(asio::as_tuple(asio::use_awaitable));
    ended.expires_at(asio::steady_timer::time_point::max());
    if (!pump->input_ended) {
        stop.emit(asio::cancellation_type::terminal);
        pump->client->cancel();
    }
    while (!pump->input_ended) co_await ended.async_wait(asio::as_tuple(asio::use_awaitable));
    co_return result;
}

}  // namespace wherry::api::docker
