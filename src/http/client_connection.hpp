// The blocking connection under the client: a socket, maybe TLS, a response parser and its buffer. Room-internal.
// One thread at a time, except that one may write while another reads on a plain socket.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "http/client.hpp"
#include "http/parser.hpp"

namespace wherry::http::detail {

// TLS on a connected socket.
class BlockingTls {
  public:
    virtual ~BlockingTls() = default;
    virtual Result<std::size_t> read_some(std::span<std::byte> buffer) = 0;  // 0: end
    virtual Result<std::size_t> write_some(std::string_view data) = 0;
    virtual Result<> shutdown_write() = 0;
    virtual bool has_pending() const = 0;
};
// Shakes hands; unauthenticated when the server's certificate does not hold.
Result<std::unique_ptr<BlockingTls>> start_tls(int socket, const ClientTls& tls, const std::string& host,
                                               std::string_view peer);

class BlockingConnection {
  public:
    static Result<std::unique_ptr<BlockingConnection>> open(const Endpoint& endpoint, const ClientOptions& options);

    int fd() const { return socket_.get(); }
    bool has_buffered() const { return offset_ < buffer_.size() || (tls_ && tls_->has_pending()); }
    // The peer closed, or sent what nobody asked for: not to be used again.
    bool is_stale() const;
    // Something can be read without blocking.
    bool is_readable() const;

    // Bytes that came behind the response's head first.
    Result<std::size_t> read_some(std::span<std::byte> buffer);
    Result<> write_all(std::string_view data);
    Result<> shutdown_write();

    // More bytes behind those buffered; 0 is the end of stream.
    Result<std::size_t> fill();
    std::string_view buffered() const { return std::string_view(buffer_).substr(offset_); }
    void consume(std::size_t count) { offset_ += count; }

    void set_idle_timeout(std::chrono::milliseconds timeout) { idle_timeout_ = timeout; }

    MessageParser parser{MessageParser::Kind::response, 1U << 20U};

  private:
    Result<std::size_t> receive(std::span<std::byte> buffer);

    Fd socket_;
    std::unique_ptr<BlockingTls> tls_;
    std::string buffer_;
    std::size_t offset_ = 0;
    // Until the socket is ready for `events`, the timeout or the owner's change of mind.
    Result<> wait_ready(short events, std::string_view what) const;

    std::chrono::milliseconds idle_timeout_{0};
    std::string peer_;
    std::function<bool()> cancelled_;
};

}  // namespace wherry::http::detail
