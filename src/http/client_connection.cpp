#include "http/client_connection.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace wherry::http::detail {
namespace {

constexpr std::size_t receive_size = 32U << 10U;

constexpr std::chrono::milliseconds cancel_check{200};

// A timeout of zero: none.
Result<> wait_for(int fd, short events, std::chrono::milliseconds timeout, std::string_view what,
                  const std::function<bool()>& cancelled) {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point deadline = timeout.count() > 0 ? Clock::now() + timeout : Clock::time_point::max();
    pollfd entry{.fd = fd, .events = events, .revents = 0};
    while (true) {
        int wait_ms = -1;
        if (timeout.count() > 0) {
            auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
            wait_ms = static_cast<int>(std::max<std::chrono::milliseconds::rep>(left.count(), 0));
        }
        if (cancelled && (wait_ms < 0 || wait_ms > cancel_check.count()))
            wait_ms = static_cast<int>(cancel_check.count());
        int ready = ::poll(&entry, 1, wait_ms);
        if (ready > 0) return {};
        if (ready < 0 && errno != EINTR) return fail_errno(what);
        if (cancelled && cancelled()) return fail(Code::cancelled, "cancelled");
        if (ready == 0 && Clock::now() >= deadline)
            return fail(Code::deadline_exceeded, std::string(what) + ": timed out");
    }
}

Result<Fd> connect_tcp(const Endpoint& endpoint, const ClientOptions& options) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    std::string where = endpoint.host + ":" + std::to_string(endpoint.port);
    if (int error = ::getaddrinfo(endpoint.host.c_str(), std::to_string(endpoint.port).c_str(), &hints, &found);
        error != 0)
        return fail(Code::unavailable, "resolve " + endpoint.host + ": " + ::gai_strerror(error));
    std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, &::freeaddrinfo);
    int last_error = ECONNREFUSED;
    for (addrinfo* address = found; address != nullptr; address = address->ai_next) {
        Fd socket(::socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (!socket) return fail_errno("socket");
        if (::connect(socket.get(), address->ai_addr, address->ai_addrlen) < 0) {
            if (errno != EINPROGRESS) {
                last_error = errno;
                continue;
            }
            TRY(wait_for(socket.get(), POLLOUT, options.connect_timeout, "connect to " + where, options.cancelled));
            int error = 0;
            socklen_t length = sizeof error;
            ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length);
            if (error != 0) {
                last_error = error;
                continue;
            }
        }
        int flags = ::fcntl(socket.get(), F_GETFL);
        ::fcntl(socket.get(), F_SETFL, flags & ~O_NONBLOCK);
        int one = 1;
        ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        return socket;
    }
    return fail_errno(last_error, "connect to " + where);
}

}  // namespace

Result<std::unique_ptr<BlockingConnection>> BlockingConnection::open(const Endpoint& endpoint,
                                                                     const ClientOptions& options) {
    auto connection = std::make_unique<BlockingConnection>();
    connection->idle_timeout_ = options.idle_timeout;
    connection->peer_ = options.peer;
    connection->cancelled_ = options.cancelled;
    if (endpoint.kind == Endpoint::Kind::unix_socket) {
        connection->socket_ = TRY(connect_unix(endpoint.path));
        return connection;
    }
    connection->socket_ = TRY(connect_tcp(endpoint, options));
    if (endpoint.kind == Endpoint::Kind::tls)
        connection->tls_ = TRY(start_tls(connection->socket_.get(), endpoint.tls, endpoint.host, options.peer));
    return connection;
}

bool BlockingConnection::is_readable() const {
    if (has_buffered()) return true;
    pollfd entry{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    return ::poll(&entry, 1, 0) > 0;
}

bool BlockingConnection::is_stale() const {
    return is_readable();
}

Result<> BlockingConnection::wait_ready(short events, std::string_view what) const {
    return wait_for(socket_.get(), events, idle_timeout_, std::string(what) + peer_, cancelled_);
}

Result<std::size_t> BlockingConnection::receive(std::span<std::byte> buffer) {
    if ((idle_timeout_.count() > 0 || cancelled_) && !(tls_ && tls_->has_pending()))
        TRY(wait_ready(POLLIN, "waiting for "));
    if (tls_) return tls_->read_some(buffer);
    while (true) {
        ssize_t count = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
        if (count >= 0) return static_cast<std::size_t>(count);
        if (errno == EAGAIN) {
            TRY(wait_ready(POLLIN, "waiting for "));
            continue;
        }
        if (errno != EINTR) return fail_errno("read from " + peer_);
    }
}

Result<std::size_t> BlockingConnection::read_some(std::span<std::byte> buffer) {
    if (offset_ < buffer_.size()) {
        std::size_t count = std::min(buffer.size(), buffer_.size() - offset_);
        std::memcpy(buffer.data(), buffer_.data() + offset_, count);
        offset_ += count;
        return count;
    }
    return receive(buffer);
}

Result<std::size_t> BlockingConnection::fill() {
    if (offset_ > 0) {
        buffer_.erase(0, offset_);
        offset_ = 0;
    }
    std::size_t before = buffer_.size();
    buffer_.resize(before + receive_size);
    // SAFETY: chars as bytes.
    auto count = receive({reinterpret_cast<std::byte*>(buffer_.data()) + before, receive_size});
    buffer_.resize(before + (count ? *count : 0));
    return count;
}

Result<> BlockingConnection::write_all(std::string_view data) {
    while (!data.empty()) {
        if (tls_) {
            data.remove_prefix(TRY(tls_->write_some(data)));
            continue;
        }
        ssize_t count = ::send(socket_.get(), data.data(), data.size(), MSG_NOSIGNAL);
        if (count >= 0) {
            data.remove_prefix(static_cast<std::size_t>(count));
        } else if (errno == EAGAIN) {
            TRY(wait_ready(POLLOUT, "write to "));
        } else if (errno != EINTR) {
            return fail_errno("write to " + peer_);
        }
    }
    return {};
}

Result<> BlockingConnection::shutdown_write() {
    if (tls_) return tls_->shutdown_write();
    if (::shutdown(socket_.get(), SHUT_WR) < 0) return fail_errno("shutdown");
    return {};
}

}  // namespace wherry::http::detail
