#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <optional>
#include <utility>

#include "supervisor/client/client.hpp"
#include "supervisor/client/stream_state.hpp"
#include "supervisor/frame.hpp"

namespace wherry::supervisor {

namespace {}  // namespace

StdioStream::StdioStream(std::shared_ptr<State> state) : state_(std::move(state)) {}
StdioStream::~StdioStream() {
    if (state_) close();
}
StdioStream::StdioStream(StdioStream&&) noexcept = default;
StdioStream& StdioStream::operator=(StdioStream&& other) noexcept {
    if (this != &other) {
        if (state_) close();
        state_ = std::move(other.state_);
    }
    return *this;
}

const StreamReply& StdioStream::reply() const {
    return state_->reply;
}

void StdioStream::close() {
    state_->closed = true;
    boost::system::error_code ignored;
    state_->socket.close(ignored);
}

namespace {

// Takes one piece of output out of what was received; nullopt: more bytes are needed.
template <class State>
Result<std::optional<StreamChunk>> next_chunk(State& state) {
    while (true) {
        std::string_view rest = std::string_view(state.received).substr(state.used);
        if (state.remaining == 0) {
            if (rest.size() < stream_header_bytes) return std::nullopt;
            StreamHeader header = TRY(parse_stream_header(rest));
            state.kind = header.kind;
            state.remaining = header.length;
            state.used += stream_header_bytes;
            if (state.kind == static_cast<std::uint8_t>(StreamFrame::output_end)) {
                state.ended = true;
                return StreamChunk{};
            }
            continue;
        }
        if (rest.empty()) return std::nullopt;
        StreamChunk chunk;
        bool is_stdout = state.kind == static_cast<std::uint8_t>(StreamFrame::stdout_data);
        bool is_stderr = state.kind == static_cast<std::uint8_t>(StreamFrame::stderr_data);
        if (state.kind == static_cast<std::uint8_t>(StreamFrame::gap)) {
            if (state.remaining != 9) return fail(Code::data_loss, "damaged frame from the shim");
            if (rest.size() < state.remaining) return std::nullopt;
            chunk.kind = StreamChunk::Kind::gap;
            chunk.gap_stream = rest[0] == 2 ? StreamFrame::stderr_data : StreamFrame::stdout_data;
            chunk.lost_bytes = (std::uint64_t{get_u32(rest.data() + 1)} << 32U) | get_u32(rest.data() + 5);
            state.used += state.remaining;
            state.remaining = 0;
            return chunk;
        }
        std::size_t count = std::min<std::size_t>(rest.size(), state.remaining);
        state.used += count;
        state.remaining -= static_cast<std::uint32_t>(count);
        if (!is_stdout && !is_stderr) continue;  // of a newer shim
        chunk.kind = is_stdout ? StreamChunk::Kind::stdout_data : StreamChunk::Kind::stderr_data;
        chunk.data = rest.substr(0, count);
        return chunk;
    }
}

}  // namespace

asio::awaitable<Result<StreamChunk>> StdioStream::read() {
    std::shared_ptr<State> state = state_;
    while (true) {
        if (state->closed) co_return fail(Code::cancelled, "the stream was closed");
        if (state->ended) co_return StreamChunk{};
        CO_TRY(std::optional<StreamChunk> chunk, next_chunk(*state));
        if (chunk) co_return std::move(*chunk);
        state->received.erase(0, state->used);
        state->used = 0;
        if (state->received.empty()) std::string().swap(state->received);
        thread_local std::array<char, 64U << 10U> buffer;
        ssize_t got = ::recv(state->socket.native_handle(), buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (got > 0) {
            state->received.append(buffer.data(), static_cast<std::size_t>(got));
            continue;
        }
        if (got < 0 && errno == EINTR) continue;
        if (got == 0 || errno != EAGAIN) co_return fail(Code::unavailable, "the shim closed the stream");
        auto [error] = co_await state->socket.async_wait(State::Socket::wait_read, tuple);
        if (error) co_return fail(Code::cancelled, "reading from the stream: cancelled");
    }
}

namespace {

// As many bytes as the socket takes now.
template <class State>
Result<std::size_t> send_some(State& state, std::string_view header, std::string_view payload) {
    std::array<iovec, 2> pieces{iovec{const_cast<char*>(header.data()), header.size()},
                                iovec{const_cast<char*>(payload.data()), payload.size()}};
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = pieces.size();
    ssize_t sent = -1;
    do {
        sent = ::sendmsg(state.socket.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0) return static_cast<std::size_t>(sent);
    if (errno == EAGAIN) return std::size_t{0};
    return fail(Code::unavailable, "the shim closed the stream", errno);
}

template <class State>
asio::awaitable<Result<>> send_frame(std::shared_ptr<State> state, StreamFrame kind, std::string payload) {
    std::array<char, stream_header_bytes> header_bytes{};
    put_stream_header(header_bytes.data(), kind, static_cast<std::uint32_t>(payload.size()));
    std::string_view header(header_bytes.data(), header_bytes.size());
    std::string_view rest = payload;
    while (!header.empty() || !rest.empty()) {
        if (state->closed) co_return fail(Code::cancelled, "the stream was closed");
        CO_TRY(std::size_t sent, send_some(*state, header, rest));
        std::size_t of_header = std::min(sent, header.size());
        header.remove_prefix(of_header);
        rest.remove_prefix(sent - of_header);
        if (sent > 0) continue;
        auto [error] = co_await state->socket.async_wait(State::Socket::wait_write, tuple);
        if (error) co_return fail(Code::cancelled, "writing to the stream: cancelled");
    }
    co_return Result<>{};
}

}  // namespace

asio::awaitable<Result<>> StdioStream::write(std::string data) {
    std::shared_ptr<State> state = state_;
    for (std::size_t at = 0; at < data.size(); at += max_stream_payload_bytes)
        CO_CHECK(co_await send_frame(state, StreamFrame::stdin_data, data.substr(at, max_stream_payload_bytes)));
    co_return Result<>{};
}

asio::awaitable<Result<>> StdioStream::close_input() {
    std::shared_ptr<State> state = state_;
    co_return co_await send_frame(state, StreamFrame::stdin_end, {});
}

}  // namespace wherry::supervisor
