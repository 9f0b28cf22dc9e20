// An HTTP/1.1 server (RFC 9110, 9112) of Asio coroutines: unix sockets, TCP, TLS; streaming both ways; raw streams
// after an upgrade, as Docker's attach and exec need them.
//
//     asio::awaitable<void> handle(http::Exchange& exchange) {
//         co_await exchange.send(200, "text/plain", "pong\n");
//     }
//     auto server = TRY(http::Server::create(io.get_executor(), handle, {}));
//     TRY(server->listen({.kind = http::Listen::Kind::unix_socket, .path = "/run/wherry/wherry.sock"}));
//
// Threading: everything happens on the executor given to create(), which one thread runs (or which is a strand):
// handlers too. An Exchange lives until its handler returns.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "http/message.hpp"

namespace wherry::http {

namespace asio = boost::asio;

namespace detail {
class ServerConnection;
struct ServerState;
}  // namespace detail

// A raw two-way byte stream. One read and one write may be under way at a time. Cancellation of the calling coroutine
// ends both with Code::cancelled. Destroying it closes the connection.
class Stream {
  public:
    virtual ~Stream() = default;
    // 0: the peer ended its side.
    virtual asio::awaitable<Result<std::size_t>> read_some(std::span<std::byte> buffer) = 0;
    virtual asio::awaitable<Result<>> write(std::string_view data) = 0;
    // The peer sees the end of our output; reading goes on.
    virtual asio::awaitable<Result<>> shutdown_write() = 0;
    // Returns when the peer has gone altogether; ending its output alone (shutdown) is not that.
    virtual asio::awaitable<Result<>> wait_closed() = 0;
    // Makes pending operations end with Code::cancelled.
    virtual void cancel() = 0;
    virtual void close() = 0;
    // For splice(2) and the like; -1 with TLS. Bytes that came together with the request wait in the stream, not there.
    virtual int native_fd() const = 0;
};

struct Request {
    std::string method;     // as sent: "GET"
    std::string target;     // as sent: "/v1.47/images/json?all=1"
    std::string path;       // percent-decoded, without the query; starts with '/'; holds no NUL
    std::string raw_query;  // as sent, without '?'
    Query query;
    Headers headers;
    std::string peer;                // "unix", "192.0.2.1:5000"
    std::string client_certificate;  // common name of a verified client certificate, else empty
    bool has_body = false;           // Content-Length above 0, or chunked
};

// One request and its response. The order is: read the body (or not), then exactly one of send(), stream(), hijack().
// A handler that does none of them gives 500. What the handler leaves unread of the body is drained or the connection
// closed.
class Exchange {
  public:
    explicit Exchange(detail::ServerConnection& connection) : connection_(connection) {}
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;

    const Request& request() const;

    // At most buffer.size() bytes of the body, chunking removed; 0 is its end. Sends "100 Continue" first where the
    // client waits for it. invalid_argument on bad chunking, deadline_exceeded on a stalled sender, unavailable when it
    // broke off.
    asio::awaitable<Result<std::size_t>> read_body(std::span<std::byte> buffer);
    // The whole body; resource_exhausted beyond `limit` bytes (answer it with 413).
    asio::awaitable<Result<std::string>> read_all(std::size_t limit);

    // The connection ends behind this response.
    void close_after_response();
    // A header of the response to come.
    void set_header(std::string_view name, std::string value);
    // A whole response. With HEAD, and with 204 and 304, the body is not sent.
    asio::awaitable<Result<>> send(unsigned status, std::string content_type, std::string body);
    asio::awaitable<Result<>> send(unsigned status);  // no body
    // For a body that several responses share.
    asio::awaitable<Result<>> send_shared(unsigned status, std::string content_type,
                                          std::shared_ptr<const std::string> body);

    // Starts a response of unknown length; its head is flushed at once. Then write() any number of times; the end is
    // sent when the handler returns, or by finish(). abort() breaks the connection instead, so that the client sees the
    // body is cut.
    asio::awaitable<Result<>> stream(unsigned status, std::string content_type);
    asio::awaitable<Result<>> write(std::string_view data);  // flushed at once
    asio::awaitable<Result<>> finish();
    void abort();

    // Takes the connection out of HTTP: answers "101 UPGRADED" where the client asked for an upgrade, else "200 OK"
    // without a length, and gives the raw connection. Bytes the client sent early are read from the stream first.
    asio::awaitable<Result<std::unique_ptr<Stream>>> hijack(std::string content_type);
    bool wants_upgrade() const;

    // Runs `work`, and cancels it when the client goes away meanwhile (for wait, logs -f, events): then
    // Code::cancelled. Cancelling is Asio's (terminal) and `on_gone`, for what has a cancel() of its own. The body must
    // have been read.
    asio::awaitable<Result<>> while_connected(asio::awaitable<Result<>> work, std::function<void()> on_gone = {});

    bool responded() const;  // the response's head is sent

  private:
    detail::ServerConnection& connection_;
};

struct ServerListeners;

using Handler = std::function<asio::awaitable<void>(Exchange&)>;

struct ServerTls {
    std::string certificate;  // PEM files
    std::string key;
    std::string certificate_authority;  // for client certificates
    bool verify_client = false;
};

struct Listen {
    enum class Kind : unsigned char { unix_socket, tcp, tls, inherited };
    Kind kind = Kind::unix_socket;
    std::string path;        // unix: replaces a stale socket; refuses one that somebody listens on (conflict)
    unsigned mode = 0660;    // unix
    std::string group = {};  // unix: name or number; empty: leave. Missing group: not_found
    std::string host = {};   // tcp, tls: an address; empty: loopback
    std::uint16_t port = 0;  // 0: any free one
    ServerTls tls = {};
    int fd = -1;  // inherited: a listening socket (socket activation), taken over
};

// "unix:///path", "tcp://address:port", "fd://" forms of dockerd's -H. TLS is the caller's to set.
Result<Listen> parse_listen(std::string_view text);

struct ServerOptions {
    std::string server_name = "wherry/" WHERRY_VERSION;   // the Server header
    std::size_t header_limit_bytes = 256U << 10U;         // beyond: 431
    std::size_t connection_limit = 4096;                  // beyond: accepting pauses
    std::chrono::milliseconds header_timeout{30'000};     // from a request's first byte to its head's end: 408
    std::chrono::milliseconds handshake_timeout{10'000};  // of TLS
    std::chrono::milliseconds idle_timeout{300'000};      // between requests
    std::chrono::milliseconds body_idle_timeout{300'000};
    std::chrono::milliseconds send_timeout{60'000};  // of a whole response to a client that does not read
};

struct ServerMetrics {
    std::uint64_t connections_total = 0;
    std::uint64_t connections_open = 0;
    std::uint64_t requests_total = 0;
    std::uint64_t malformed_total = 0;
};

class Server {
  public:
    static Result<std::unique_ptr<Server>> create(asio::any_io_executor executor, Handler handler,
                                                  ServerOptions options);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    // Binds and starts accepting. May be called several times.
    Result<> listen(const Listen& where);
    // "unix:///…", "tcp://127.0.0.1:41234" of each listener, ports filled in.
    std::vector<std::string> addresses() const;

    // Stops accepting and removes unix sockets, lets requests under way end for `grace`, then cancels them and closes.
    // Returns when no handler is left.
    asio::awaitable<void> shutdown(std::chrono::milliseconds grace);

    ServerMetrics metrics() const;

  private:
    explicit Server(std::shared_ptr<detail::ServerState> state);
    std::shared_ptr<detail::ServerState> state_;
    std::unique_ptr<ServerListeners> listeners_;
};

}  // namespace wherry::http
