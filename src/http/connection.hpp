// One connection of the server: reads requests, runs the handler, writes responses. Room-internal.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "http/parser.hpp"
#include "http/server.hpp"
#include "http/transport.hpp"

namespace wherry::http::detail {

class ServerConnection;

// What listeners and connections of a server share. On the server's executor only.
struct ServerState {
    ServerState(asio::any_io_executor on, Handler serve, ServerOptions limits);

    asio::any_io_executor executor;
    Handler handler;
    ServerOptions options;
    ServerMetrics metrics;
    bool stopping = false;
    std::map<ServerConnection*, std::weak_ptr<ServerConnection>> connections;
    asio::steady_timer changed;  // cancelled when a connection ends
};

class ServerConnection final : public std::enable_shared_from_this<ServerConnection> {
  public:
    ServerConnection(std::shared_ptr<ServerState> server, std::unique_ptr<Transport> transport, std::string peer);
    ~ServerConnection();
    ServerConnection(const ServerConnection&) = delete;
    ServerConnection& operator=(const ServerConnection&) = delete;

    void start();      // runs until the connection ends, holding itself
    void finish_up();  // no further request; an idle connection closes at once
    void cancel();     // cancels the handler; nothing is read or written any more

    // What Exchange does.
    const Request& request() const { return request_; }
    asio::awaitable<Result<std::size_t>> read_body(std::span<std::byte> buffer);
    void close_after_response() { keep_alive_ = false; }
    void set_header(std::string_view name, std::string value) { response_headers_.set(name, std::move(value)); }
    asio::awaitable<Result<>> send(unsigned status, std::string content_type, std::string body);
    // The body lives until the call is through.
    asio::awaitable<Result<>> send_view(unsigned status, std::string content_type, std::string_view body);
    asio::awaitable<Result<>> stream(unsigned status, std::string content_type);
    asio::awaitable<Result<>> write(std::string_view data);
    asio::awaitable<Result<>> finish();
    void abort();
    asio::awaitable<Result<std::unique_ptr<Stream>>> hijack(std::string content_type);
    bool wants_upgrade() const;
    asio::awaitable<Result<>> while_connected(asio::awaitable<Result<>> work, std::function<void()> on_gone);
    bool responded() const { return phase_ != Phase::open; }

    // What a hijacked stream does.
    asio::awaitable<Result<std::size_t>> raw_read(std::span<std::byte> buffer);
    asio::awaitable<Result<>> raw_write(std::string_view data);
    Transport& transport() { return *transport_; }

  private:
    enum class Phase : unsigned char { open, streaming, sent, hijacked, broken };

    asio::awaitable<void> run();
    asio::awaitable<bool> serve_one();  // false: the connection ends
    asio::awaitable<Result<bool>> read_head();
    Result<> make_request();
    asio::awaitable<void> run_handler();
    asio::awaitable<void> refuse(unsigned status, std::string message);
    asio::awaitable<bool> drain_body();
    asio::awaitable<void> linger();
    asio::awaitable<Result<>> fill();  // reads more into input_; data_loss at the end of stream
    std::string make_head(unsigned status, std::string_view content_type, std::optional<std::size_t> length);
    bool body_allowed(unsigned status) const;

    void set_deadline(std::chrono::milliseconds after);
    void clear_deadline() { deadline_ = no_deadline; }
    void watch_clock();

    using Clock = std::chrono::steady_clock;
    static constexpr Clock::time_point no_deadline = Clock::time_point::max();

    std::shared_ptr<ServerState> server_;
    std::unique_ptr<Transport> transport_;
    std::string peer_;
    asio::cancellation_signal cancellation_;
    asio::steady_timer timer_;
    Clock::time_point deadline_ = no_deadline;
    Clock::time_point armed_ = no_deadline;
    bool timed_out_ = false;

    MessageParser parser_;
    std::string input_;  // received and not yet consumed: from input_offset_ on
    std::size_t input_offset_ = 0;

    Request request_;
    Headers response_headers_;
    Phase phase_ = Phase::open;
    bool idle_ = true;
    bool keep_alive_ = true;
    bool chunked_response_ = false;
    bool head_only_ = false;
    bool body_started_ = false;
    bool cancelled_ = false;
};

}  // namespace wherry::http::detail
