#include "api/containerd/rpc_server.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.hpp"

namespace wherry::api::containerd {

namespace {

bool is_trusted(int socket) {
    ucred peer{};
    socklen_t length = sizeof peer;
    // SAFETY: SO_PEERCRED writes one ucred.
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) return false;
    return peer.uid == 0 || peer.uid == ::geteuid();
}

}  // namespace

Result<> RpcServer::listen(Fd listener) {
    TRY(set_nonblocking(listener.get()));
    listener_ = std::move(listener);
    listener_watch_ = TRY(loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_connections(); }));
    return {};
}

void RpcServer::stop_listening() {
    listener_watch_.reset();
    listener_.reset();
}

void RpcServer::accept_connections() {
    while (true) {
        Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!socket) return;
        if (!is_trusted(socket.get()) || connections_.size() >= max_connections) {
            log_warn("rpc.connection_refused", {{"connections", connections_.size()}});
            continue;
        }
        std::uint64_t id = next_connection_++;
        auto connection = std::make_unique<Connection>();
        connection->socket = std::move(socket);
        auto watch =
            loop_.watch(connection->socket.get(), EPOLLIN, [this, id](std::uint32_t events) { on_events(id, events); });
        if (!watch) {
            log_warn("rpc.accept_failed", {{"error", watch.error()}});
            continue;
        }
        connection->watch = std::move(*watch);
        connections_.emplace(id, std::move(connection));
    }
}

bool RpcServer::everything_sent() const {
    return std::ranges::all_of(connections_, [](const auto& entry) { return entry.second->unsent.empty(); });
}

void RpcServer::on_events(std::uint64_t id, std::uint32_t events) {
    auto found = connections_.find(id);
    if (found == connections_.end()) return;
    Connection& connection = *found->second;
    bool alive = true;
    if ((events & EPOLLOUT) != 0) {
        alive = connection.unsent.flush(connection.socket.get());
        if (alive && connection.unsent.empty()) connection.watch.set_events(EPOLLIN);
    }
    if (alive && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) alive = receive(id, connection);
    if (!alive) connections_.erase(id);
}

bool RpcServer::receive(std::uint64_t id, Connection& connection) {
    ssize_t got = -1;
    do {
        got = ::recv(connection.socket.get(), scratch_.data(), scratch_.size(), MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0) return errno == EAGAIN;
    if (got == 0) return false;
    connection.decoder.feed({scratch_.data(), static_cast<std::size_t>(got)});
    for (;;) {
        auto frame = connection.decoder.next();
        if (!frame) {
            log_warn("rpc.bad_frame", {{"error", frame.error()}});
            return false;
        }
        if (!*frame) return true;
        if (!handle(id, **frame)) return false;
        // An answer that could not be sent has closed the connection.
        if (!connections_.contains(id)) return true;
    }
}

// False: the peer does not speak ttrpc, and is let go.
bool RpcServer::handle(std::uint64_t id, const TtrpcFrame& frame) {
    CallReference call{id, frame.stream};
    if (frame.type == static_cast<std::uint8_t>(TtrpcType::data)) {
        // No method here streams: whoever sends data for one has been answered already.
        return true;
    }
    if (frame.type != static_cast<std::uint8_t>(TtrpcType::request) || frame.stream % 2 == 0) return false;
    auto request = decode<TtrpcRequest>(frame.payload);
    if (!request) {
        answer(call, std::unexpected(std::move(request).error()));
        return true;
    }
    Reply reply = handler_(*request, call);
    if (!reply) {
        answer(call, std::unexpected(std::move(reply).error()));
    } else if (*reply) {
        answer(call, std::move(**reply));
    }
    return true;
}

void RpcServer::answer(CallReference call, const Result<std::string>& payload) {
    send(call.connection, encode_response(call.stream, payload));
}

void RpcServer::send(std::uint64_t id, std::string_view bytes) {
    auto found = connections_.find(id);
    if (found == connections_.end()) return;
    Connection& connection = *found->second;
    connection.unsent.append(bytes);
    bool alive = connection.unsent.flush(connection.socket.get()) && connection.unsent.size() <= max_unsent_bytes;
    if (alive) {
        if (!connection.unsent.empty()) connection.watch.set_events(EPOLLIN | EPOLLOUT);
        return;
    }
    // The connection may be on the stack: its end comes with the loop's next round.
    ::shutdown(connection.socket.get(), SHUT_RDWR);
}

}  // namespace wherry::api::containerd
