// The byte streams under the server: a plain socket, or one with TLS. Room-internal.
// One read and one write may be under way at a time; everything on the socket's executor.
#pragma once

#include <array>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "http/server.hpp"

namespace wherry::http {

// What goes out together, in order; empty parts are fine.
using WriteParts = std::array<std::string_view, 3>;

// Completion as [error, ...] instead of an exception.
inline constexpr auto as_result = asio::as_tuple(asio::use_awaitable);

class Transport {
  public:
    Transport() = default;
    virtual ~Transport() = default;
    Transport(const Transport&) = delete;
    Transport& operator=(const Transport&) = delete;

    virtual asio::awaitable<Result<>> handshake() = 0;
    virtual asio::awaitable<Result<std::size_t>> read_some(std::span<std::byte> buffer) = 0;  // 0: end
    virtual asio::awaitable<Result<>> write(WriteParts parts) = 0;                            // all of them
    virtual asio::awaitable<Result<>> shutdown_write() = 0;
    virtual asio::awaitable<Result<>> wait_closed() = 0;  // the peer closed both ways
    virtual void cancel() = 0;                            // pending operations end with cancelled; nothing read is lost
    virtual void close() = 0;
    virtual int native_fd() const = 0;
    virtual std::string client_certificate() const { return {}; }
};

std::unique_ptr<Transport> make_plain_transport(const asio::any_io_executor& executor, Fd socket);

// OpenSSL's state of a listener.
class TlsContext {
  public:
    virtual ~TlsContext() = default;
    virtual std::unique_ptr<Transport> make_transport(const asio::any_io_executor& executor, Fd socket) = 0;
};
// not_found or invalid_argument when a file is missing or no PEM.
Result<std::shared_ptr<TlsContext>> make_tls_context(const ServerTls& tls);

}  // namespace wherry::http
