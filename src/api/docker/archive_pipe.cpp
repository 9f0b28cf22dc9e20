#include "api/docker/archive_pipe.hpp"

#include <fcntl.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
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
    Pipe pipe = TRY(make_pipe());
    // Fewer switches between the two threads; less is fine where the limit is lower.
    ::fcntl(pipe.write.get(), F_SETPIPE_SZ, 1 << 20);
    Fd& ours = direction == Direction::to_engine ? pipe.write : pipe.read;
    Fd& theirs = direction == Direction::to_engine ? pipe.read : pipe.write;
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
        CO_TRY(std::size_t count, co_await exchange.read_body(state.buffer));
        if (count == 0) break;
        auto [error, written] = co_await asio::async_write(state.descriptor, asio::buffer(state.buffer.data(), count),
                                                           asio::as_tuple(asio::use_awaitable));
        if (error) co_return fail_errno(error.value(), "write the archive");
    }
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
