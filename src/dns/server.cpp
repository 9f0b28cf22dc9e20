#include "dns/server.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <ctime>
#include <list>
#include <unordered_map>

#include "base/clock.hpp"
#include "base/log.hpp"

namespace wherry::dns {

namespace {

constexpr std::size_t batch = 64;
constexpr std::size_t udp_query_bytes = 4096;   // longer ones are cut and then malformed
constexpr std::size_t udp_answer_bytes = 4096;  // at least ResponderOptions::udp_payload_bytes
constexpr std::size_t write_backlog_bytes = 256U << 10U;

// The client's address bytes, for cookies.
std::span<const std::uint8_t> address_bytes(const sockaddr_storage& address) {
    // SAFETY: the family says which address type the kernel stored.
    if (address.ss_family == AF_INET) {
        const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address);
        return {reinterpret_cast<const std::uint8_t*>(&v4->sin_addr), 4};
    }
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address);
    return {reinterpret_cast<const std::uint8_t*>(&v6->sin6_addr), 16};
}

Result<Fd> bind_socket(const SocketAddress& address, int type) {
    int family = address.storage.ss_family;
    Fd socket(::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) return fail_errno("socket");
    const int on = 1;
    auto set = [&](int level, int option, int value) {
        return ::setsockopt(socket.get(), level, option, &value, sizeof value);
    };
    if (set(SOL_SOCKET, SO_REUSEPORT, on) < 0) return fail_errno("SO_REUSEPORT");
    if (set(SOL_SOCKET, SO_REUSEADDR, on) < 0) return fail_errno("SO_REUSEADDR");
    if (family == AF_INET6 && set(IPPROTO_IPV6, IPV6_V6ONLY, on) < 0) return fail_errno("IPV6_V6ONLY");
    if (type == SOCK_DGRAM) {
        // RFC 9715: answers are not fragmented on the way out, and path MTU messages, which can be forged, are ignored.
        if (family == AF_INET)
            (void)set(IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_OMIT);
        else
            (void)set(IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_OMIT);
        (void)set(SOL_SOCKET, SO_RCVBUF, 4 << 20);
        (void)set(SOL_SOCKET, SO_SNDBUF, 4 << 20);
    }
    // SAFETY: the sockets API takes every address family through sockaddr.
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.size) < 0)
        return fail_errno("bind " + address.to_text());
    if (type == SOCK_STREAM && ::listen(socket.get(), 512) < 0) return fail_errno("listen on " + address.to_text());
    return socket;
}

}  // namespace

Result<SocketAddress> SocketAddress::parse(std::string_view text, std::uint16_t default_port) {
    auto bad = [&] {
        return fail(Code::invalid_argument,
                    "\"" + std::string(text.substr(0, 80)) + "\" is not ADDRESS[:PORT] or [IPv6][:PORT]");
    };
    std::string host;
    std::string_view port;
    if (text.starts_with('[')) {
        auto close = text.find(']');
        if (close == std::string_view::npos) return bad();
        host = text.substr(1, close - 1);
        std::string_view rest = text.substr(close + 1);
        if (!rest.empty() && !rest.starts_with(':')) return bad();
        port = rest.empty() ? rest : rest.substr(1);
        if (!rest.empty() && port.empty()) return bad();
    } else if (auto colon = text.find(':');
               colon != std::string_view::npos && text.find(':', colon + 1) == std::string_view::npos) {
        host = text.substr(0, colon);
        port = text.substr(colon + 1);
        if (port.empty()) return bad();
    } else {
        host = text;
    }
    std::uint16_t number = default_port;
    if (!port.empty()) {
        auto [stop, error] = std::from_chars(port.data(), port.data() + port.size(), number);
        if (error != std::errc() || stop != port.data() + port.size()) return bad();
    }
    SocketAddress address;
    // SAFETY: sockaddr_storage is made for holding either.
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
    if (::inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        address.size = sizeof(sockaddr_in);
    } else if (::inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        address.size = sizeof(sockaddr_in6);
    } else {
        return bad();
    }
    address.set_port(number);
    return address;
}

std::uint16_t SocketAddress::port() const {
    // SAFETY: both families keep the port at the same place.
    return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
}

void SocketAddress::set_port(std::uint16_t port) {
    // SAFETY: as above.
    reinterpret_cast<sockaddr_in*>(&storage)->sin_port = htons(port);
}

std::string SocketAddress::to_text() const {
    std::array<char, INET6_ADDRSTRLEN> text{};
    ::inet_ntop(storage.ss_family, address_bytes(storage).data(), text.data(), text.size());
    std::string host = text.data();
    return (storage.ss_family == AF_INET6 ? "[" + host + "]" : host) + ":" + std::to_string(port());
}

// One thread: its sockets, its epoll loop, its TCP connections.
class Server::Worker {
  public:
    Worker(Server& server, std::size_t count)
        : server_(server),
          queries_(batch * udp_query_bytes),
          answers_(batch * udp_answer_bytes),
          stream_answer_(2 + max_message_bytes) {
        udp_.reserve(count);
        tcp_.reserve(count);
    }

    Result<> open(const std::vector<SocketAddress>& addresses) {
        epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
        wake_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!epoll_ || !wake_) return fail_errno("epoll");
        TRY(watch(wake_.get(), EPOLLIN));
        for (const SocketAddress& address : addresses) {
            udp_.push_back(TRY(bind_socket(address, SOCK_DGRAM)));
            tcp_.push_back(TRY(bind_socket(address, SOCK_STREAM)));
            TRY(watch(udp_.back().get(), EPOLLIN));
            TRY(watch(tcp_.back().get(), EPOLLIN));
        }
        return {};
    }

    void run() {
        std::array<epoll_event, 64> events{};
        while (true) {
            int timeout = connections_.empty() ? -1 : 250;
            int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout);
            if (count < 0 && errno != EINTR) return;
            refresh();
            for (int i = 0; i < count; ++i) {
                int fd = events[static_cast<std::size_t>(i)].data.fd;
                if (fd == wake_.get()) return;
                if (std::ranges::any_of(udp_, [fd](const Fd& s) { return s.get() == fd; }))
                    serve_udp(fd);
                else if (std::ranges::any_of(tcp_, [fd](const Fd& s) { return s.get() == fd; }))
                    accept_all(fd);
                else
                    serve_connection(fd, events[static_cast<std::size_t>(i)].events);
            }
            if (!connections_.empty()) close_idle();
        }
    }

    void wake() {
        std::uint64_t one = 1;
        [[maybe_unused]] auto written = ::write(wake_.get(), &one, sizeof one);
    }

    void add_to(ServerCounters& sum) const {
        auto get = [](const std::atomic<std::uint64_t>& c) { return c.load(std::memory_order_relaxed); };
        sum.udp_queries += get(udp_queries_);
        sum.tcp_queries += get(tcp_queries_);
        sum.truncated += get(truncated_);
        sum.dropped += get(dropped_);
        sum.send_failures += get(send_failures_);
        for (std::size_t i = 0; i < rcodes_.size(); ++i) sum.rcodes[i] += get(rcodes_[i]);
    }

    const std::vector<Fd>& udp() const { return udp_; }

  private:
    struct Connection {
        Fd socket;
        sockaddr_storage peer{};
        std::vector<std::uint8_t> input;
        std::vector<std::uint8_t> output;
        std::size_t sent = 0;
        std::int64_t last_ns = 0;
        bool input_ended = false;
        bool wants_write = false;
        std::list<int>::iterator position;  // in by_age_
    };

    Result<> watch(int fd, std::uint32_t what) {
        epoll_event event{.events = what, .data = {.fd = fd}};
        if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return fail_errno("epoll");
        return {};
    }

    // The newest zones and the time, once a batch.
    void refresh() {
        std::uint64_t generation = server_.generation_.load(std::memory_order_acquire);
        if (generation != generation_ || !zones_) {
            zones_ = server_.zones();
            generation_ = generation;
        }
        timespec now{};
        ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
        now_seconds_ = static_cast<std::uint32_t>(now.tv_sec);
    }

    static void bump(std::atomic<std::uint64_t>& counter) {
        counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }

    std::size_t respond(const sockaddr_storage& peer, Transport transport, std::span<const std::uint8_t> query,
                        std::span<std::uint8_t> answer) {
        Outcome outcome;
        std::size_t size = server_.responder_.respond(
            *zones_, {.client = address_bytes(peer), .transport = transport, .now = now_seconds_}, query, answer,
            outcome);
        bump(transport == Transport::udp ? udp_queries_ : tcp_queries_);
        if (size == 0) {
            bump(dropped_);
            return 0;
        }
        if (outcome.truncated) bump(truncated_);
        if (auto rcode = static_cast<std::size_t>(outcome.rcode); rcode < rcodes_.size()) bump(rcodes_[rcode]);
        return size;
    }

    void serve_udp(int socket) {
        // A bounded number of batches, so that TCP and the other sockets get their turn under load.
        for (int round = 0; round < 16; ++round) {
            for (std::size_t i = 0; i < batch; ++i) {
                vectors_[i] = {queries_.data() + i * udp_query_bytes, udp_query_bytes};
                messages_[i].msg_hdr = {};
                messages_[i].msg_hdr.msg_name = &peers_[i];
                messages_[i].msg_hdr.msg_namelen = sizeof peers_[i];
                messages_[i].msg_hdr.msg_iov = &vectors_[i];
                messages_[i].msg_hdr.msg_iovlen = 1;
            }
            int received = ::recvmmsg(socket, messages_.data(), batch, MSG_DONTWAIT, nullptr);
            if (received <= 0) return;
            unsigned ready = 0;
            for (std::size_t i = 0; i < static_cast<std::size_t>(received); ++i) {
                std::span<std::uint8_t> answer(answers_.data() + i * udp_answer_bytes, udp_answer_bytes);
                std::size_t size = respond(peers_[i], Transport::udp,
                                           {queries_.data() + i * udp_query_bytes, messages_[i].msg_len}, answer);
                if (size == 0) continue;
                vectors_[ready] = {answer.data(), size};
                msghdr& header = replies_[ready].msg_hdr;
                header = {};
                header.msg_name = &peers_[i];
                header.msg_namelen = messages_[i].msg_hdr.msg_namelen;
                header.msg_iov = &vectors_[ready];
                header.msg_iovlen = 1;
                ++ready;
            }
            for (unsigned done = 0; done < ready;) {
                int sent = ::sendmmsg(socket, replies_.data() + done, ready - done, MSG_DONTWAIT);
                if (sent <= 0) {
                    // This one cannot be sent (a full buffer, an unreachable client): the rest can.
                    bump(send_failures_);
                    sent = 1;
                }
                done += static_cast<unsigned>(sent);
            }
            if (static_cast<std::size_t>(received) < batch) return;
        }
    }

    void accept_all(int listener) {
        while (true) {
            Connection connection;
            socklen_t size = sizeof connection.peer;
            // SAFETY: the sockets API takes every address family through sockaddr.
            connection.socket = Fd(::accept4(listener, reinterpret_cast<sockaddr*>(&connection.peer), &size,
                                             SOCK_CLOEXEC | SOCK_NONBLOCK));
            if (!connection.socket) return;
            int fd = connection.socket.get();
            const int on = 1;
            (void)::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            if (connections_.size() >= server_.options_.tcp_connections) close_connection(by_age_.front());
            if (!watch(fd, EPOLLIN | EPOLLRDHUP)) continue;
            connection.last_ns = monotonic_ns();
            connection.position = by_age_.insert(by_age_.end(), fd);
            connections_.emplace(fd, std::move(connection));
        }
    }

    void serve_connection(int fd, std::uint32_t events) {
        auto found = connections_.find(fd);
        if (found == connections_.end()) return;
        Connection& connection = found->second;
        if ((events & EPOLLERR) != 0) return close_connection(fd);
        if ((events & (EPOLLIN | EPOLLHUP | EPOLLRDHUP)) != 0 && !connection.input_ended) {
            std::array<std::uint8_t, 16384> buffer;
            ssize_t got = ::recv(fd, buffer.data(), buffer.size(), 0);
            if (got < 0 && errno != EAGAIN && errno != EINTR) return close_connection(fd);
            if (got == 0) connection.input_ended = true;
            if (got > 0) connection.input.insert(connection.input.end(), buffer.begin(), buffer.begin() + got);
        }
        std::size_t at = 0;
        bool answered = false;
        while (connection.input.size() - at >= 2 && connection.output.size() - connection.sent < write_backlog_bytes) {
            std::size_t length = load_u16(connection.input.data() + at);
            if (connection.input.size() - at - 2 < length) break;
            std::size_t size =
                respond(connection.peer, Transport::tcp, std::span(connection.input).subspan(at + 2, length),
                        std::span(stream_answer_).subspan(2));
            at += 2 + length;
            if (size == 0) return close_connection(fd);  // not a DNS query
            store_u16(stream_answer_.data(), static_cast<std::uint16_t>(size));
            connection.output.insert(connection.output.end(), stream_answer_.begin(),
                                     stream_answer_.begin() + static_cast<std::ptrdiff_t>(size + 2));
            answered = true;
        }
        connection.input.erase(connection.input.begin(), connection.input.begin() + static_cast<std::ptrdiff_t>(at));
        if (answered) {
            // Only whole queries keep a connection young: trickled bytes do not.
            connection.last_ns = monotonic_ns();
            by_age_.splice(by_age_.end(), by_age_, connection.position);
        }
        while (connection.sent < connection.output.size()) {
            ssize_t sent = ::send(fd, connection.output.data() + connection.sent,
                                  connection.output.size() - connection.sent, MSG_NOSIGNAL);
            if (sent < 0) {
                if (errno == EINTR) continue;
                if (errno != EAGAIN) return close_connection(fd);
                break;
            }
            connection.sent += static_cast<std::size_t>(sent);
        }
        if (connection.sent == connection.output.size()) {
            connection.output.clear();
            connection.sent = 0;
            if (connection.input_ended) return close_connection(fd);
        }
        update_interest(connection);
    }

    // Reading stops while a client does not take its answers (back-pressure), and writing is only watched while needed.
    void update_interest(Connection& connection) {
        bool pending = !connection.output.empty();
        if (pending == connection.wants_write && !connection.input_ended) return;
        connection.wants_write = pending;
        epoll_event event{.events = pending ? EPOLLOUT : EPOLLIN | EPOLLRDHUP, .data = {.fd = connection.socket.get()}};
        (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, connection.socket.get(), &event);
    }

    void close_connection(int fd) {
        auto found = connections_.find(fd);
        if (found == connections_.end()) return;
        by_age_.erase(found->second.position);
        connections_.erase(found);
    }

    void close_idle() {
        std::int64_t limit = monotonic_ns() - static_cast<std::int64_t>(server_.options_.tcp_idle_ms) * 1'000'000;
        while (!by_age_.empty() && connections_.at(by_age_.front()).last_ns < limit) close_connection(by_age_.front());
    }

    Server& server_;
    Fd epoll_;
    Fd wake_;
    std::vector<Fd> udp_;
    std::vector<Fd> tcp_;
    std::shared_ptr<const ZoneSet> zones_;
    std::uint64_t generation_ = 0;
    std::uint32_t now_seconds_ = 0;
    std::vector<std::uint8_t> queries_;
    std::vector<std::uint8_t> answers_;
    std::array<iovec, batch> vectors_{};
    std::array<mmsghdr, batch> messages_{};
    std::array<mmsghdr, batch> replies_{};
    std::array<sockaddr_storage, batch> peers_{};
    std::unordered_map<int, Connection> connections_;
    std::list<int> by_age_;  // least recently used first
    std::vector<std::uint8_t> stream_answer_;
    // Written by this thread only.
    std::atomic<std::uint64_t> udp_queries_{0};
    std::atomic<std::uint64_t> tcp_queries_{0};
    std::atomic<std::uint64_t> truncated_{0};
    std::atomic<std::uint64_t> dropped_{0};
    std::atomic<std::uint64_t> send_failures_{0};
    std::array<std::atomic<std::uint64_t>, 24> rcodes_{};
};

Server::Server(ServerOptions options, Responder responder)
    : options_(std::move(options)), responder_(std::move(responder)) {}

Server::~Server() {
    stop();
}

Result<std::unique_ptr<Server>> Server::create(ServerOptions options, Responder responder,
                                               std::shared_ptr<const ZoneSet> zones) {
    if (options.listen.empty()) return fail(Code::invalid_argument, "no address to listen on");
    if (responder.options().udp_payload_bytes > udp_answer_bytes || responder.options().udp_payload_bytes < 512)
        return fail(Code::invalid_argument,
                    "UDP payload size is not between 512 and " + std::to_string(udp_answer_bytes));
    std::unique_ptr<Server> server(new Server(std::move(options), std::move(responder)));
    server->zones_ = std::move(zones);
    server->addresses_ = server->options_.listen;
    for (unsigned i = 0; i < std::max(1U, server->options_.threads); ++i) {
        auto worker = std::make_unique<Worker>(*server, server->addresses_.size());
        TRY(worker->open(server->addresses_));
        if (i == 0) {
            // Port 0 became a real one; the other threads and TCP must share it.
            bool resolved = false;
            for (std::size_t k = 0; k < server->addresses_.size(); ++k) {
                SocketAddress& address = server->addresses_[k];
                if (address.port() != 0) continue;
                socklen_t size = sizeof address.storage;
                // SAFETY: the sockets API takes every address family through sockaddr.
                ::getsockname(worker->udp()[k].get(), reinterpret_cast<sockaddr*>(&address.storage), &size);
                resolved = true;
            }
            if (resolved) {
                worker = std::make_unique<Worker>(*server, server->addresses_.size());
                TRY(worker->open(server->addresses_));
            }
        }
        server->workers_.push_back(std::move(worker));
    }
    return server;
}

void Server::start() {
    for (auto& worker : workers_) threads_.emplace_back([w = worker.get()] { w->run(); });
}

void Server::stop() {
    for (auto& worker : workers_) worker->wake();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
}

void Server::set_zones(std::shared_ptr<const ZoneSet> zones) {
    std::shared_ptr<const ZoneSet> old;  // freed after the lock, by whoever is last
    {
        std::lock_guard lock(zones_lock_);
        old = std::exchange(zones_, std::move(zones));
    }
    generation_.fetch_add(1, std::memory_order_release);
}

std::shared_ptr<const ZoneSet> Server::zones() const {
    std::lock_guard lock(zones_lock_);
    return zones_;
}

ServerCounters Server::counters() const {
    ServerCounters sum;
    for (const auto& worker : workers_) worker->add_to(sum);
    return sum;
}

}  // namespace wherry::dns
