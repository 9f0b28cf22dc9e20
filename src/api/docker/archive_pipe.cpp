#include "api/docker/archive_pipe.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <vector>

namespace wherry::api::docker {

struct ArchivePipe::State {
    State(const asio::any_io_executor& executor, int fd) : descriptor(executor, fd) {}
    asio::posix::stream_descriptor descriptor;
    Fd engine_end;
    std::vector<std::byte> buffer = std::vector<std::byte>(64U << 10U);
};

ArchivePipe::ArchivePipe(std::unique_ptr<State> state) : state_(std::move(state)) {}
ArchivePipe::ArchivePipe(ArchivePipe&&) noexcept = default;
ArchivePipe& ArchivePipe::operator=(ArchivePipe&&) noexcept = default;
ArchivePipe::~ArchivePipe() = default;

Result<ArchivePipe> ArchivePipe::create(const asio::any_io_executor& executor, Direction direction) {
    // Sockets, because the end of a pipe says nothing of why: closing a unix socket over a byte it has not read makes
    // the other side's reads fail. The engine's end leaves that byte here, and it is read only when the archive is
    // complete.
    auto [ours, theirs] = TRY(make_socket_pair(SOCK_STREAM));
    const int buffer_bytes = 1 << 20;  // fewer switches between the two threads
    Fd& writer = direction == Direction::to_engine ? ours : theirs;
    ::setsockopt(writer.get(), SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes);
    if (direction == Direction::to_engine) TRY(write_all(theirs.get(), "?"));
    TRY(set_nonblocking(ours.get()));
    auto state = std::make_unique<State>(executor, ours.release());
    state->engine_end = std::move(theirs);
    return ArchivePipe(std::move(state));
}

Fd ArchivePipe::take_engine_end() {
    return std::move(state_->engine_end);
}

void ArchivePipe::close() {
    boost::system::error_code error;
    state_->descriptor.close(error);
}

asio::awaitable<Result<>> ArchivePipe::send_body(http::Exchange& exchange) {
    State& state = *state_;
    while (true) {
        auto read = co_await exchange.read_body(state.buffer);
        if (!read) {
            close();
            co_return std::unexpected(std::move(read).error());
        }
        const std::size_t count = *read;
        if (count == 0) break;
        auto [error, written] = co_await asio::async_write(state.descriptor, asio::buffer(state.buffer.data(), count),
                                                           asio::as_tuple(asio::use_awaitable));
        if (error) co_return fail_errno(error.value(), "write the archive");
    }
    char mark = 0;
    if (::read(state.descriptor.native_handle(), &mark, 1) < 0 && errno != ECONNRESET)
        co_return fail_errno("end the archive");
    close();
    co_return Result<>{};
}

asio::awaitable<Result<std::string>> ArchivePipe::read_some() {
    State& state = *state_;
    auto [error, count] = co_await state.descriptor.async_read_some(
        asio::buffer(state.buffer.data(), state.buffer.size()), asio::as_tuple(asio::use_awaitable));
    if (error == asio::error::eof) co_return std::string();
    if (error) co_return fail_errno(error.value(), "read the archive");
    // SAFETY: bytes as chars.
    co_return std::string(reinterpret_cast<const char*>(state.buffer.data()), count);
}

}  // namespace wherry::api::docker
