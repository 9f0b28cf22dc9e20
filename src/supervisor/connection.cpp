#include "supervisor/connection.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/log.hpp"

namespace wherry::supervisor {

bool SendQueue::flush(int socket) {
    while (sent_ < bytes_.size()) {
        ssize_t sent = ::send(socket, bytes_.data() + sent_, bytes_.size() - sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EINTR) continue;
            return errno == EAGAIN;
        }
        sent_ += static_cast<std::size_t>(sent);
    }
    std::string().swap(bytes_);
    sent_ = 0;
    return true;
}

Result<std::unique_ptr<ControlConnection>> ControlConnection::create(EventLoop& loop, MessageHandler& handler,
                                                                     std::span<char> scratch, Fd socket,
                                                                     std::uint64_t id) {
    TRY(set_nonblocking(socket.get()));
    std::unique_ptr<ControlConnection> connection(new ControlConnection(handler, scratch, std::move(socket), id));
    connection->watch_ = TRY(loop.watch(connection->socket_.get(), EPOLLIN,
                                        [raw = connection.get()](std::uint32_t events) { raw->on_events(events); }));
    return connection;
}

void ControlConnection::on_events(std::uint32_t events) {
    if ((events & EPOLLOUT) != 0) {
        if (!unsent_.flush(socket_.get())) {
            close();
            return;
        }
        if (unsent_.empty()) watch_.set_events(EPOLLIN);
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) receive();
}

void ControlConnection::receive() {
    // SAFETY: received bytes are chars or std::byte alike.
    auto received = receive_with_fds(socket_.get(), std::as_writable_bytes(scratch_));
    if (!received) {
        if (received.error().os_errno() == EAGAIN) return;
        close();
        return;
    }
    for (Fd& fd : received->fds) fds_.push_back(std::move(fd));
    if (received->bytes == 0 || fds_.size() > 64 || !decoder_.feed({scratch_.data(), received->bytes})) {
        close();
        return;
    }
    deliver();
}

void ControlConnection::deliver() {
    while (!closed_) {
        std::optional<std::string> payload = decoder_.next();
        if (!payload) return;
        auto message = parse_message(*payload);
        std::string().swap(*payload);
        if (!message || message->kind != Message::Kind::request || message->fd_count > fds_.size()) {
            log_warn("connection.bad_message",
                     {{"error", message ? std::string("not a request") : message.error().describe()}});
            close();
            return;
        }
        std::vector<Fd> fds;
        for (std::size_t i = 0; i < message->fd_count; ++i) {
            fds.push_back(std::move(fds_.front()));
            fds_.pop_front();
        }
        handler_.on_message(*this, std::move(*message), std::move(fds));
    }
}

void ControlConnection::send(std::string_view frame) {
    if (closed_) return;
    unsent_.append(frame);
    if (!unsent_.flush(socket_.get()) || unsent_.size() > max_unsent_bytes) {
        close();
        return;
    }
    watch_.set_events(unsent_.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

void ControlConnection::close() {
    if (closed_) return;
    closed_ = true;
    watch_.reset();
    socket_.reset();
    handler_.on_closed(*this);
}

Fd ControlConnection::release(std::string& rest) {
    watch_.reset();
    rest = decoder_.take_rest();
    Fd socket = std::move(socket_);
    closed_ = true;
    handler_.on_closed(*this);
    return socket;
}

StreamConnection::StreamConnection(EventLoop& loop, std::span<char> scratch, Fd socket, std::shared_ptr<OutputHub> hub,
                                   std::shared_ptr<InputSink> input, ClosedCallback closed)
    : loop_(loop),
      scratch_(scratch),
      socket_(std::move(socket)),
      hub_(std::move(hub)),
      input_(std::move(input)),
      closed_callback_(std::move(closed)) {}

StreamConnection::~StreamConnection() {
    if (hub_) hub_->remove_client(*this);
}

Result<std::unique_ptr<StreamConnection>> StreamConnection::create(EventLoop& loop, std::span<char> scratch, Fd socket,
                                                                   std::shared_ptr<OutputHub> hub,
                                                                   std::shared_ptr<InputSink> input,
                                                                   ClosedCallback closed) {
    TRY(set_nonblocking(socket.get()));
    std::unique_ptr<StreamConnection> connection(
        new StreamConnection(loop, scratch, std::move(socket), std::move(hub), std::move(input), std::move(closed)));
    connection->watch_socket();
    if (!connection->watch_) return fail(Code::internal, "can't watch the stream");
    return connection;
}

void StreamConnection::watch_socket() {
    auto watch = loop_.watch(socket_.get(), EPOLLIN, [this](std::uint32_t events) { on_events(events); });
    if (watch) watch_ = std::move(*watch);
}

StreamOffsets StreamConnection::begin(const OutputInterest& interest) {
    if (interest.wanted[0] || interest.wanted[1]) return hub_->add_client(*this, interest);
    output_ended_ = true;
    return hub_->totals();
}

void StreamConnection::send_raw(std::string_view bytes) {
    unsent_.append(bytes);
    if (!unsent_.flush(socket_.get())) close();
    update_interest();
}

void StreamConnection::send_frame(StreamFrame kind, std::string_view payload) {
    if (closed_) return;
    std::array<char, stream_header_bytes> header{};
    put_stream_header(header.data(), kind, static_cast<std::uint32_t>(payload.size()));
    std::size_t sent = 0;
    if (unsent_.empty()) {
        std::array<iovec, 2> pieces{iovec{header.data(), header.size()},
                                    iovec{const_cast<char*>(payload.data()), payload.size()}};
        msghdr message{};
        message.msg_iov = pieces.data();
        message.msg_iovlen = pieces.size();
        ssize_t count = -1;
        do {
            count = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        } while (count < 0 && errno == EINTR);
        if (count < 0 && errno != EAGAIN) {
            close();
            return;
        }
        sent = count < 0 ? 0 : static_cast<std::size_t>(count);
    }
    if (sent < header.size()) unsent_.append(std::string_view(header.data(), header.size()).substr(sent));
    std::size_t sent_payload = sent < header.size() ? 0 : sent - header.size();
    unsent_.append(payload.substr(sent_payload));
    update_interest();
}

void StreamConnection::send_output(LogStream stream, std::string_view bytes) {
    StreamFrame kind = stream == LogStream::stderr_stream ? StreamFrame::stderr_data : StreamFrame::stdout_data;
    while (!bytes.empty()) {
        std::string_view piece = bytes.substr(0, max_stream_payload_bytes);
        send_frame(kind, piece);
        bytes.remove_prefix(piece.size());
    }
}

void StreamConnection::send_gap(LogStream stream, std::uint64_t lost_bytes) {
    std::array<char, 9> payload{};
    payload[0] = static_cast<char>(stream);
    put_u32(payload.data() + 1, static_cast<std::uint32_t>(lost_bytes >> 32U));
    put_u32(payload.data() + 5, static_cast<std::uint32_t>(lost_bytes));
    send_frame(StreamFrame::gap, {payload.data(), payload.size()});
}

void StreamConnection::send_end() {
    output_ended_ = true;
    send_frame(StreamFrame::output_end, {});
    if (unsent_.empty()) close();
}

void StreamConnection::update_interest() {
    if (closed_) return;
    std::uint32_t events = 0;
    if (!peer_finished_ && !input_paused_) events |= EPOLLIN;
    if (!unsent_.empty()) events |= EPOLLOUT;
    watch_.set_events(events);
}

void StreamConnection::on_events(std::uint32_t events) {
    if ((events & EPOLLERR) != 0) {
        close();
        return;
    }
    if ((events & EPOLLOUT) != 0) {
        if (!unsent_.flush(socket_.get())) {
            close();
            return;
        }
        if (unsent_.empty()) flushed();
        if (closed_) return;
    }
    if ((events & (EPOLLIN | EPOLLHUP)) != 0) receive(events);
    update_interest();
}

void StreamConnection::flushed() {
    if (output_ended_ && hub_ && (!input_ || input_ended_ || peer_finished_ || hub_->ended())) {
        close();
        return;
    }
    std::weak_ptr<const bool> alive = alive_;
    hub_->client_ready(*this);
    if (alive.expired()) return;
}

void StreamConnection::receive(std::uint32_t events) {
    if (peer_finished_) {
        if ((events & EPOLLHUP) != 0) close();
        return;
    }
    if (input_paused_) {
        // Gone, but what it sent is still to be read once the process takes it. A hang-up can't be masked.
        if ((events & EPOLLHUP) != 0) watch_.reset();
        return;
    }
    ssize_t got = -1;
    do {
        got = ::recv(socket_.get(), scratch_.data(), scratch_.size(), MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        if (errno != EAGAIN) close();
        return;
    }
    if (got == 0) {
        // A closed connection, or only its sending half: then output goes on.
        peer_finished_ = true;
        if ((events & EPOLLHUP) != 0) close();
        return;
    }
    take_received({scratch_.data(), static_cast<std::size_t>(got)});
}

void StreamConnection::take_received(std::string_view bytes) {
    if (closed_) return;
    if (!parse(bytes)) {
        close();
        return;
    }
    if (input_ && input_->full() && !input_paused_) {
        input_paused_ = true;
        input_->when_writable([this, alive = std::weak_ptr(alive_)] {
            if (alive.expired()) return;
            input_paused_ = false;
            if (!closed_ && !watch_) watch_socket();
            update_interest();
        });
    }
    update_interest();
}

bool StreamConnection::parse(std::string_view bytes) {
    while (!bytes.empty()) {
        if (remaining_ == 0) {
            std::size_t missing = stream_header_bytes - header_.size();
            header_.append(bytes.substr(0, missing));
            bytes.remove_prefix(std::min(missing, bytes.size()));
            if (header_.size() < stream_header_bytes) return true;
            auto header = parse_stream_header(header_);
            header_.clear();
            if (!header) return false;
            kind_ = header->kind;
            remaining_ = header->length;
            if (kind_ == static_cast<std::uint8_t>(StreamFrame::stdin_end)) {
                if (input_) input_->end();
                input_ended_ = true;
            }
            continue;
        }
        std::string_view payload = bytes.substr(0, remaining_);
        bytes.remove_prefix(payload.size());
        remaining_ -= static_cast<std::uint32_t>(payload.size());
        if (kind_ == static_cast<std::uint8_t>(StreamFrame::stdin_data) && input_) input_->write(payload);
    }
    return true;
}

void StreamConnection::close() {
    if (closed_) return;
    closed_ = true;
    watch_.reset();
    socket_.reset();
    if (hub_) hub_->remove_client(*this);
    if (input_) input_->client_left();
    loop_.defer([this, alive = std::weak_ptr(alive_)] {
        if (!alive.expired()) closed_callback_(*this);
    });
}

}  // namespace wherry::supervisor
