#include "dns/stream_server.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <ctime>

#include "base/clock.hpp"

namespace wherry::dns {

namespace {
constexpr std::size_t write_backlog_bytes = 256U << 10U;
constexpr std::size_t input_limit_bytes = 2U * (2 + max_message_bytes);
constexpr unsigned most_owed = 64;
}  // namespace

void StreamServer::accept_all(int listener, Transport transport) {
    while (true) {
        Connection connection;
        socklen_t size = sizeof connection.from.peer;
        // SAFETY: the sockets API takes every address family through sockaddr.
        connection.socket = Fd(::accept4(listener, reinterpret_cast<sockaddr*>(&connection.from.peer), &size,
                                         SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!connection.socket) return;
        if (transport == Transport::tls) {
            auto session = options_.tls->accept();
            if (!session) continue;
            connection.tls = std::move(*session);
        }
        const int fd = connection.socket.get();
        const int on = 1;
        (void)::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (connections_.size() >= options_.connections) close(by_age_.front());
        connection.watched = EPOLLIN | EPOLLRDHUP;
        epoll_event event{.events = connection.watched, .data = {.fd = fd}};
        if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) < 0) continue;
        connection.from.worker = worker_;
        connection.from.transport = transport;
        connection.from.connection = next_number_++;
        connection.from.peer_size = size;
        connection.last_ns = monotonic_ns();
        connection.position = by_age_.insert(by_age_.end(), fd);
        by_number_.emplace(connection.from.connection, fd);
        connections_.emplace(fd, std::move(connection));
    }
}

bool StreamServer::receive(Connection& connection) {
    std::array<std::uint8_t, 16384> buffer;
    ssize_t got = ::recv(connection.socket.get(), buffer.data(), buffer.size(), 0);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) connection.input_ended = true;
    std::span<const std::uint8_t> bytes(buffer.data(), static_cast<std::size_t>(got));
    if (!connection.tls) {
        connection.input.insert(connection.input.end(), bytes.begin(), bytes.end());
        return true;
    }
    bool good = bytes.empty() || connection.tls->receive(bytes, connection.input);
    connection.tls->take_output(connection.output);
    if (connection.tls->ended()) connection.input_ended = true;
    return good && connection.input.size() <= input_limit_bytes;
}

bool StreamServer::queue(Connection& connection, std::span<const std::uint8_t> framed) {
    if (!connection.tls) {
        connection.output.insert(connection.output.end(), framed.begin(), framed.end());
        return true;
    }
    if (!connection.tls->send(framed)) return false;
    connection.tls->take_output(connection.output);
    return true;
}

// False: the connection is to be closed.
bool StreamServer::answer_queries(Connection& connection, bool& answered) {
    std::size_t at = 0;
    bool good = true;
    while (good && connection.output.size() - connection.sent < write_backlog_bytes) {
        if (connection.transfer) {
            // A transfer's messages come as fast as the client takes them; what it asks next waits.
            std::size_t size =
                connection.transfer->next(std::span(answer_).subspan(2), static_cast<std::uint64_t>(::time(nullptr)));
            if (size == 0) {
                good = connection.transfer->done();
                connection.transfer.reset();
                continue;
            }
            store_u16(answer_.data(), static_cast<std::uint16_t>(size));
            good = queue(connection, std::span(answer_).first(size + 2));
            if (connection.transfer->done()) connection.transfer.reset();
            answered = true;
            continue;
        }
        if (connection.input.size() - at < 2 || connection.owed >= most_owed) break;
        std::size_t length = load_u16(connection.input.data() + at);
        if (connection.input.size() - at - 2 < length) break;
        StreamAnswer made = handler_(connection.from, std::span(connection.input).subspan(at + 2, length),
                                     std::span(answer_).subspan(2));
        at += 2 + length;
        answered = true;
        if (made.later) {
            ++connection.owed;
        } else if (made.transfer) {
            connection.transfer = std::move(made.transfer);
        } else if (made.size == 0) {
            good = false;  // not a DNS query
        } else {
            store_u16(answer_.data(), static_cast<std::uint16_t>(made.size));
            good = queue(connection, std::span(answer_).first(made.size + 2));
        }
    }
    connection.input.erase(connection.input.begin(), connection.input.begin() + static_cast<std::ptrdiff_t>(at));
    return good;
}

bool StreamServer::flush(Connection& connection) {
    while (connection.sent < connection.output.size()) {
        ssize_t sent = ::send(connection.socket.get(), connection.output.data() + connection.sent,
                              connection.output.size() - connection.sent, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR) continue;
            return errno == EAGAIN;
        }
        connection.sent += static_cast<std::size_t>(sent);
    }
    connection.output.clear();
    connection.sent = 0;
    return true;
}

void StreamServer::touch(Connection& connection) {
    connection.last_ns = monotonic_ns();
    by_age_.splice(by_age_.end(), by_age_, connection.position);
}

// Answers what can be answered, writes what can be written, and says what to wait for next.
void StreamServer::advance(Connection& connection) {
    const int fd = connection.socket.get();
    while (true) {
        bool answered = false;
        if (!answer_queries(connection, answered)) return close(fd);
        // Only whole queries keep a connection young: trickled bytes do not.
        if (answered) touch(connection);
        if (!flush(connection)) return close(fd);
        if (!connection.output.empty() || !answered) break;
    }
    const bool pending = !connection.output.empty();
    if (connection.input_ended && !pending && connection.owed == 0 && !connection.transfer) return close(fd);
    // Reading stops while a client does not take its answers (back-pressure).
    std::uint32_t wanted = 0;
    if (pending) wanted |= EPOLLOUT;
    if (!pending && !connection.input_ended && connection.owed < most_owed) wanted |= EPOLLIN | EPOLLRDHUP;
    if (wanted == connection.watched) return;
    connection.watched = wanted;
    epoll_event event{.events = wanted, .data = {.fd = fd}};
    (void)::epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event);
}

void StreamServer::serve(int fd, std::uint32_t events) {
    auto found = connections_.find(fd);
    if (found == connections_.end()) return;
    Connection& connection = found->second;
    if ((events & EPOLLERR) != 0) return close(fd);
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLRDHUP)) != 0 && !connection.input_ended && !receive(connection))
        return close(fd);
    if ((events & EPOLLHUP) != 0 && connection.input_ended && connection.output.empty() && connection.owed > 0)
        return close(fd);  // nobody is left to hear the answer
    advance(connection);
}

void StreamServer::reply(std::uint64_t number, std::span<const std::uint8_t> message) {
    auto found = by_number_.find(number);
    if (found == by_number_.end()) return;
    Connection& connection = connections_.at(found->second);
    if (connection.owed > 0) --connection.owed;
    Bytes framed(2 + message.size());
    store_u16(framed.data(), static_cast<std::uint16_t>(message.size()));
    std::copy(message.begin(), message.end(), framed.begin() + 2);
    touch(connection);
    // A transfer that is on its way goes message by message: another answer may stand between two of them.
    if (!queue(connection, framed)) return close(found->second);
    advance(connection);
}

void StreamServer::close(int fd) {
    auto found = connections_.find(fd);
    if (found == connections_.end()) return;
    by_number_.erase(found->second.from.connection);
    by_age_.erase(found->second.position);
    connections_.erase(found);
}

void StreamServer::close_idle() {
    std::int64_t limit = monotonic_ns() - static_cast<std::int64_t>(options_.idle_ms) * 1'000'000;
    while (!by_age_.empty() && connections_.at(by_age_.front()).last_ns < limit) close(by_age_.front());
}

}  // namespace wherry::dns
