#include <sys/socket.h>
#include <sys/uio.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>

#include "http/transport.hpp"

namespace wherry::http {
namespace {

using Socket = asio::generic::stream_protocol::socket;

std::unexpected<Error> socket_failure(const boost::system::error_code& error, std::string_view what) {
    if (error == asio::error::operation_aborted) return fail(Code::cancelled, std::string(what) + " was cancelled");
    return fail_errno(error.value(), what);
}

class PlainTransport final : public Transport {
  public:
    PlainTransport(const asio::any_io_executor& executor, Fd socket) : socket_(executor) {
        sockaddr_storage address{};
        socklen_t length = sizeof address;
        // SAFETY: the generic socket address of getsockname(2); sockaddr_storage fits every family.
        ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length);
        boost::system::error_code error;
        socket_.assign(asio::generic::stream_protocol(address.ss_family, 0), socket.get(), error);
        if (!error) socket.release();
    }

    asio::awaitable<Result<>> handshake() override { co_return Result<>{}; }

    asio::awaitable<Result<std::size_t>> read_some(std::span<std::byte> buffer) override {
        auto [error, count] = co_await socket_.async_read_some(asio::buffer(buffer.data(), buffer.size()), as_result);
        if (error == asio::error::eof) co_return std::size_t{0};
        if (error) co_return socket_failure(error, "read from client");
        co_return count;
    }

    asio::awaitable<Result<>> write(WriteParts parts) override {
        std::size_t part = 0;
        while (true) {
            // Straight to the socket: a response nearly always fits, and a turn of the event loop is saved.
            std::array<iovec, 3> vectors{};
            std::size_t count = 0;
            for (std::size_t i = part; i < parts.size(); ++i) {
                if (parts[i].empty()) continue;
                // SAFETY: iovec has no const; sendmsg(2) only reads.
                vectors[count++] = {const_cast<char*>(parts[i].data()), parts[i].size()};
            }
            if (count == 0) co_return Result<>{};
            msghdr message{};
            message.msg_iov = vectors.data();
            message.msg_iovlen = count;
            ssize_t sent = ::sendmsg(socket_.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent < 0) {
                if (errno == EINTR) continue;
                if (errno != EAGAIN && errno != EWOULDBLOCK) co_return fail_errno("write to client");
                auto [error] = co_await socket_.async_wait(asio::socket_base::wait_write, as_result);
                if (error) co_return socket_failure(error, "write to client");
                continue;
            }
            auto rest = static_cast<std::size_t>(sent);
            while (part < parts.size() && rest >= parts[part].size()) rest -= parts[part++].size();
            if (part == parts.size()) co_return Result<>{};
            parts[part].remove_prefix(rest);
        }
    }

    asio::awaitable<Result<>> shutdown_write() override {
        boost::system::error_code error;
        socket_.shutdown(asio::socket_base::shutdown_send, error);
        if (error) co_return socket_failure(error, "shutdown");
        co_return Result<>{};
    }

    asio::awaitable<Result<>> wait_closed() override {
        // EPOLLHUP: both directions are shut (unix(7), tcp(7)).
        auto [error] = co_await socket_.async_wait(asio::socket_base::wait_error, as_result);
        if (error) co_return socket_failure(error, "wait for the client's end");
        co_return Result<>{};
    }

    void cancel() override {
        boost::system::error_code error;
        socket_.cancel(error);
    }

    void close() override {
        boost::system::error_code error;
        socket_.close(error);
    }

    int native_fd() const override {
        // SAFETY: native_handle() only lacks const.
        return socket_.is_open() ? const_cast<Socket&>(socket_).native_handle() : -1;
    }

  private:
    Socket socket_;
};

}  // namespace

std::unique_ptr<Transport> make_plain_transport(const asio::any_io_executor& executor, Fd socket) {
    return std::make_unique<PlainTransport>(executor, std::move(socket));
}

}  // namespace wherry::http
