// A small blocking HTTP/1.1 client for command lines: unix sockets, TCP, TLS. No Asio; nothing starts before the first
// request, so that a program that uses it is up in a few milliseconds.
//
//     http::Client client(TRY(http::parse_endpoint("unix:///run/wherry/wherry.sock")));
//     http::ClientResponse response = TRY(client.send({.method = "GET", .target = "/v1.47/containers/json?all=1"}));
//     std::string body = TRY(response.read_all());
//
// Threading: a Client may be shared by threads (each request has a connection of its own, idle ones are kept and used
// again); a ClientResponse or RawStream belongs to one thread at a time. SIGPIPE is never raised.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "http/message.hpp"

namespace wherry::http {

// Files in PEM. Empty certificate_authority: the system's. Empty certificate and key: no client certificate.
struct ClientTls {
    std::string certificate_authority;
    std::vector<std::string> more_authorities;  // trusted beside the system's
    std::string certificate;
    std::string key;
    bool verify_server = true;
};

struct Endpoint {
    enum class Kind : unsigned char { unix_socket, tcp, tls };
    Kind kind = Kind::unix_socket;
    std::string path;  // of the unix socket
    std::string host;  // name or address, without brackets
    std::uint16_t port = 0;
    ClientTls tls;

    // "unix:///run/x.sock", "tcp://host:port".
    std::string describe() const;
};

// "unix:///path", "tcp://host:port", "tcp://[::1]:2375", "http://…", "https://…"; ports default to Docker's 2375, 2376
// with TLS. `tls` given: a tcp endpoint speaks TLS. invalid_argument otherwise (ssh:// and npipe:// too).
Result<Endpoint> parse_endpoint(std::string_view text, std::optional<ClientTls> tls = std::nullopt);

namespace detail {
class BlockingConnection;
struct ResponseState;
struct ClientState;
}  // namespace detail

// Reads at most buffer.size() bytes of a body; 0 is its end.
using BodySource = std::function<Result<std::size_t>(std::span<std::byte> buffer)>;

struct ClientRequest {
    std::string method = "GET";
    std::string target = "/";  // path and query, already percent-encoded
    Headers headers = {};      // Host, Content-Length, Transfer-Encoding, Connection are made here
    std::string body = {};
    std::string content_type = {};  // set with a body
    // Instead of body, sent with Transfer-Encoding: chunked while it is read: a descriptor (not closed here) or a
    // function.
    int body_fd = -1;
    BodySource body_source = {};
    // What a streamed body is long, where that is known: sent with Content-Length instead. The source must keep to it.
    std::optional<std::uint64_t> body_length = {};
    // Asks for a raw connection ("Connection: Upgrade", "Upgrade: tcp"); see ClientResponse::take_stream.
    bool upgrade = false;
};

// The raw connection after an upgrade. Reading and writing may be done by two threads, one each (not with TLS).
class RawStream {
  public:
    ~RawStream();
    RawStream(RawStream&&) noexcept;
    RawStream& operator=(RawStream&&) noexcept;
    RawStream(const RawStream&) = delete;
    RawStream& operator=(const RawStream&) = delete;

    // For poll(2). Read while has_buffered() before polling: bytes may be waiting that the kernel no longer has.
    int fd() const;
    bool has_buffered() const;
    // Blocks until there is something; 0 is the end of stream.
    Result<std::size_t> read_some(std::span<std::byte> buffer);
    Result<> write_all(std::string_view data);
    // Half-closes: the peer sees the end of our input and may go on sending.
    Result<> shutdown_write();

  private:
    friend class ClientResponse;
    explicit RawStream(std::unique_ptr<detail::BlockingConnection> connection);
    std::unique_ptr<detail::BlockingConnection> connection_;
};

class ClientResponse {
  public:
    ~ClientResponse();
    ClientResponse(ClientResponse&&) noexcept;
    ClientResponse& operator=(ClientResponse&&) noexcept;
    ClientResponse(const ClientResponse&) = delete;
    ClientResponse& operator=(const ClientResponse&) = delete;

    unsigned status() const;
    const Headers& headers() const;
    bool ok() const { return status() >= 200 && status() < 300; }

    // The body as it comes, chunking removed; 0 is its end. data_loss when the connection breaks inside it.
    Result<std::size_t> read_some(std::span<std::byte> buffer);
    // The rest of the body; resource_exhausted beyond `limit` bytes.
    Result<std::string> read_all(std::size_t limit = 64U << 20U);
    // For poll(2) between reads of a streamed body (events, logs -f); read while has_buffered() before polling.
    int fd() const;
    bool has_buffered() const;
    bool at_end() const;

    // After upgrade = true and status 101 (or 200, which older daemons send): the connection as a plain stream.
    Result<RawStream> take_stream();

  private:
    friend class Client;
    explicit ClientResponse(std::unique_ptr<detail::ResponseState> state);
    std::unique_ptr<detail::ResponseState> state_;
};

struct ClientOptions {
    std::chrono::milliseconds connect_timeout{10'000};
    // Longest silence while waiting for response headers or body; zero: none (wait, logs -f, events).
    std::chrono::milliseconds idle_timeout{0};
    std::string user_agent = "wherry/" WHERRY_VERSION;
    std::string peer = "the daemon";  // who is at the other end, for messages
    // Asked a few times a second while waiting; true ends the wait with `cancelled`. From any thread of a request.
    std::function<bool()> cancelled = {};
};

class Client {
  public:
    explicit Client(Endpoint endpoint, ClientOptions options = {});
    ~Client();
    Client(Client&&) noexcept;
    Client& operator=(Client&&) noexcept;
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    // Sends the request with its body and reads the response's head. unavailable when nobody listens (with errno),
    // deadline_exceeded on a timeout, data_loss on an answer that is not HTTP. A status of 400 and more is not an error
    // here. A response that comes before the body was sent whole (an error) ends the sending.
    Result<ClientResponse> send(const ClientRequest& request);

    const Endpoint& endpoint() const;

  private:
    std::shared_ptr<detail::ClientState> state_;
};

}  // namespace wherry::http
