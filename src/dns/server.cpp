#include "dns/server.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "base/id.hpp"
#include "base/log.hpp"
#include "dns/fast_answer.hpp"
#include "dns/rate_limit.hpp"
#include "dns/stream_server.hpp"
#include "dns/tls.hpp"

namespace wherry::dns {

namespace {

constexpr std::size_t batch = 64;
constexpr std::size_t udp_query_bytes = 4096;   // longer ones are cut and then malformed
constexpr std::size_t udp_answer_bytes = 4096;  // at least ResponderOptions::udp_payload_bytes
constexpr std::size_t udp_control_bytes = 64;   // the address a datagram came to, on sockets for every address
// From buffer to buffer: not a power of two, or the beginnings of all of them would share one set of the cache's lines.
constexpr std::size_t udp_query_stride = udp_query_bytes + 192;
constexpr std::size_t udp_answer_stride = udp_answer_bytes + 192;

Result<Fd> bind_socket(const SocketAddress& address, int type) {
    int family = address.storage.ss_family;
    // UDP's threads wait in the call that receives; the others in epoll.
    Fd socket(::socket(family, type | SOCK_CLOEXEC | (type == SOCK_DGRAM ? 0 : SOCK_NONBLOCK), 0));
    if (!socket) return fail_errno("socket");
    const int on = 1;
    auto set = [&](int level, int option, int value) {
        return ::setsockopt(socket.get(), level, option, &value, sizeof value);
    };
    if (set(SOL_SOCKET, SO_REUSEPORT, on) < 0) return fail_errno("SO_REUSEPORT");
    if (set(SOL_SOCKET, SO_REUSEADDR, on) < 0) return fail_errno("SO_REUSEADDR");
    if (family == AF_INET6 && set(IPPROTO_IPV6, IPV6_V6ONLY, on) < 0) return fail_errno("IPV6_V6ONLY");
    if (type == SOCK_DGRAM) {
        // RFC 9715: nobody fragments answers, here or on the way, and path MTU messages, which can be forged, are
        // ignored. Such datagrams also need no identification, which the kernel would compute for each.
        if (family == AF_INET)
            (void)set(IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
        else
            (void)set(IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
        // Answers leave from the address that was asked.
        if (address.is_wildcard()) {
            if (family == AF_INET)
                (void)set(IPPROTO_IP, IP_PKTINFO, on);
            else
                (void)set(IPPROTO_IPV6, IPV6_RECVPKTINFO, on);
        }
        (void)set(SOL_SOCKET, SO_RCVBUF, 4 << 20);
        (void)set(SOL_SOCKET, SO_SNDBUF, 4 << 20);
    }
    if (::bind(socket.get(), address.raw(), address.size) < 0) return fail_errno("bind " + address.to_text());
    if (type == SOCK_STREAM && ::listen(socket.get(), 512) < 0) return fail_errno("listen on " + address.to_text());
    return socket;
}

}  // namespace

// What every thread of the server has: the newest zones, the time, its counters, and how requests are answered that the
// responder leaves to others.
class Server::Worker {
  public:
    Worker(Server& server, std::size_t index) : server_(server), index_(index) {}
    virtual ~Worker() = default;
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;
    virtual void run() = 0;
    virtual void stop() = 0;
    virtual void reply(std::uint64_t, std::span<const std::uint8_t>) {}

    void add_to(ServerCounters& sum) const {
        auto get = [](const std::atomic<std::uint64_t>& c) { return c.load(std::memory_order_relaxed); };
        sum.udp_queries += get(queries_by_transport_[0]);
        sum.tcp_queries += get(queries_by_transport_[1]);
        sum.tls_queries += get(queries_by_transport_[2]);
        sum.truncated += get(truncated_);
        sum.dropped += get(dropped_);
        sum.rate_limited += get(rate_limited_);
        sum.send_failures += get(send_failures_);
        sum.transfers += get(transfers_);
        sum.connections += get(open_connections_);
        for (std::size_t i = 0; i < rcodes_.size(); ++i) sum.rcodes[i] += get(rcodes_[i]);
        for (std::size_t i = 0; i < types_.size(); ++i) sum.types[i] += get(types_[i]);
    }

  protected:
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
        now_ms_ = static_cast<std::uint32_t>(now.tv_sec * 1000 + now.tv_nsec / 1'000'000);
    }

    static void bump(std::atomic<std::uint64_t>& counter) {
        counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }

    void count(Transport transport, Type type, Rcode rcode, bool truncated) {
        bump(queries_by_transport_[static_cast<std::size_t>(transport)]);
        bump(types_[std::min<std::size_t>(static_cast<std::size_t>(type), types_.size() - 1)]);
        if (truncated) bump(truncated_);
        if (auto code = static_cast<std::size_t>(rcode); code < rcodes_.size()) bump(rcodes_[code]);
    }

    // What the responder leaves to others: transfers are answered from here, UPDATE and NOTIFY go to the control sink.
    StreamAnswer act(const ReplyTo& from, std::span<const std::uint8_t> query, std::span<std::uint8_t> answer,
                     Outcome& outcome) {
        TsigSession session{outcome.key, std::move(outcome.mac)};
        auto plainly = [&](Rcode rcode) {
            outcome.rcode = rcode;
            return StreamAnswer{.size = Responder::answer_plainly(query, rcode, session, now_seconds_, answer)};
        };
        if (outcome.action == Action::transfer) {
            auto begun = begin_transfer(from, query, session);
            if (!begun.stream) return plainly(begun.rcode);
            bump(transfers_);
            return {.transfer = std::move(begun.stream)};
        }
        if (server_.options_.control == nullptr) return plainly(Rcode::NOTIMP);
        ControlRequest request{outcome.action, Bytes(query.begin(), query.end()), session.key, session.mac, from};
        if (!server_.options_.control->submit(std::move(request))) return plainly(Rcode::SERVFAIL);
        return {.later = true};
    }

    struct Begun {
        Rcode rcode = Rcode::REFUSED;
        std::optional<TransferStream> stream;
    };
    Begun begin_transfer(const ReplyTo& from, std::span<const std::uint8_t> query, const TsigSession& session) {
        auto reader = MessageReader::open(query);
        if (!reader) return {};
        auto question = reader->read_question();
        if (!question) return {};
        const ServedZone* served = zones_->find_exact(question->name);
        if (served == nullptr) return {.rcode = Rcode::NOTAUTH};
        if (!served->access || !served->access->transfer.allows(socket_address_bytes(from.peer),
                                                                session.key ? &session.key->name : nullptr))
            return {};
        if (!served->zone) return {.rcode = Rcode::SERVFAIL};
        const Header header = reader->header();
        if (question->type == Type::AXFR) {
            if (from.transport == Transport::udp) return {.rcode = Rcode::FORMERR};  // RFC 5936 section 4.2
            return {Rcode::NOERROR, TransferStream::axfr(header, *question, served->zone, session)};
        }
        for (unsigned i = 0; i < unsigned{header.answers} + header.authorities; ++i) {
            auto record = reader->read_record();
            if (!record) break;
            if (record->type != Type::SOA || i < header.answers) continue;
            auto soa = rdata_from_message(*reader, *record);
            if (!soa) break;
            std::uint32_t serial = soa_serial(*soa);
            // RFC 1995 section 2: over UDP the newest SOA alone sends the client to TCP.
            if (from.transport == Transport::udp && serial_newer(served->zone->serial(), serial))
                serial = served->zone->serial();
            return {Rcode::NOERROR,
                    TransferStream::ixfr(header, *question, served->zone, serial, served->history.get(), session)};
        }
        return {.rcode = Rcode::FORMERR};
    }

    Server& server_;
    std::size_t index_;
    std::atomic<bool> stopping_{false};
    std::shared_ptr<const ZoneSet> zones_;
    std::uint64_t generation_ = 0;
    std::uint32_t now_seconds_ = 0;
    std::uint32_t now_ms_ = 0;
    // Written by this thread only.
    std::array<std::atomic<std::uint64_t>, 3> queries_by_transport_{};
    std::atomic<std::uint64_t> truncated_{0};
    std::atomic<std::uint64_t> dropped_{0};
    std::atomic<std::uint64_t> rate_limited_{0};
    std::atomic<std::uint64_t> send_failures_{0};
    std::atomic<std::uint64_t> transfers_{0};
    std::atomic<std::uint64_t> open_connections_{0};
    std::array<std::atomic<std::uint64_t>, 24> rcodes_{};
    std::array<std::atomic<std::uint64_t>, 260> types_{};
};

// One thread with one UDP socket. It blocks in the system call that takes the next batch: with nothing between the
// socket and the thread, an arriving datagram costs the kernel least.
class Server::UdpWorker final : public Server::Worker {
  public:
    UdpWorker(Server& server, std::size_t index)
        : Worker(server, index),
          limiter_(server.options_.rate_limit, server.options_.rate_slip, server.secret_),
          queries_(batch * udp_query_stride),
          answers_(batch * udp_answer_stride),
          controls_(batch * udp_control_bytes) {
        for (std::size_t i = 0; i < batch; ++i) {
            vectors_[i] = {queries_.data() + i * udp_query_stride, udp_query_bytes};
            msghdr& header = messages_[i].msg_hdr;
            header.msg_name = &peers_[i];
            header.msg_iov = &vectors_[i];
            header.msg_iovlen = 1;
            replies_[i].msg_hdr.msg_iov = &answer_vectors_[i];
            replies_[i].msg_hdr.msg_iovlen = 1;
        }
    }

    Result<> open(const SocketAddress& address) {
        socket_ = TRY(bind_socket(address, SOCK_DGRAM));
        wildcard_ = address.is_wildcard();
        return {};
    }

    void run() override {
        std::size_t used = batch;  // of the messages: those that the kernel has written to
        while (!stopping_.load(std::memory_order_relaxed)) {
            for (std::size_t i = 0; i < used; ++i) {
                msghdr& header = messages_[i].msg_hdr;
                header.msg_namelen = sizeof peers_[i];
                if (wildcard_) {
                    header.msg_control = controls_.data() + i * udp_control_bytes;
                    header.msg_controllen = udp_control_bytes;
                }
            }
            int received = ::recvmmsg(socket_.get(), messages_.data(), batch, MSG_WAITFORONE, nullptr);
            used = received > 0 ? static_cast<std::size_t>(received) : batch;
            if (received <= 0) continue;  // stopped, interrupted, or an error of an earlier answer
            refresh();
            send(answer_batch(used));
        }
    }

    void stop() override {
        stopping_.store(true, std::memory_order_relaxed);
        // Wakes the thread although the socket is connected to nobody.
        (void)::shutdown(socket_.get(), SHUT_RD);
    }

  private:
    // The table's cells, the names and the data of a whole batch are fetched before the first of them is looked at.
    unsigned answer_batch(std::size_t received) {
        const Responder& responder = server_.responder_;
        for (std::size_t i = 0; i < received; ++i)
            fast_[i].prepare(*zones_, responder.options(), Transport::udp, query(i));
        for (std::size_t i = 0; i < received; ++i) fast_[i].fetch_node();
        bool steered = false;
        for (std::size_t i = 0; i < received; ++i)
            steered = fast_[i].fetch_data(query(i), socket_address_bytes(peers_[i])) || steered;
        for (unsigned step = 0; steered && step < AnswerPolicy::steps; ++step)
            for (std::size_t i = 0; i < received; ++i) fast_[i].step();
        unsigned ready = 0;
        for (std::size_t i = 0; i < received; ++i) {
            std::span<std::uint8_t> answer(answers_.data() + i * udp_answer_stride, udp_answer_bytes);
            std::size_t size = fast_[i].answer(responder.options(), now_seconds_, query(i), answer);
            if (size != 0) {
                count(Transport::udp, fast_[i].type(), Rcode::NOERROR, false);
                if (limiter_.enabled()) size = limit(i, fast_[i].name_hash(), answer.first(size));
            } else {
                size = respond(i, answer);
            }
            if (size == 0) continue;
            answer_vectors_[ready] = {answer.data(), size};
            msghdr& header = replies_[ready].msg_hdr;
            header.msg_name = &peers_[i];
            header.msg_namelen = messages_[i].msg_hdr.msg_namelen;
            if (wildcard_) reply_from(messages_[i].msg_hdr, header);
            ++ready;
        }
        return ready;
    }

    void send(unsigned ready) {
        for (unsigned done = 0; done < ready;) {
            int sent = ::sendmmsg(socket_.get(), replies_.data() + done, ready - done, MSG_DONTWAIT);
            if (sent <= 0) {
                // Longer than the way out takes in one piece: the client is sent to TCP.
                iovec& answer = *replies_[done].msg_hdr.msg_iov;
                // SAFETY: the buffer is bytes.
                std::size_t cut = errno == EMSGSIZE
                                      ? Responder::cut({static_cast<std::uint8_t*>(answer.iov_base), answer.iov_len})
                                      : 0;
                if (cut != 0 && cut < answer.iov_len) {
                    answer.iov_len = cut;
                    continue;
                }
                // This one cannot be sent (a full buffer, an unreachable client): the rest can.
                bump(send_failures_);
                sent = 1;
            }
            done += static_cast<unsigned>(sent);
        }
    }

    std::span<const std::uint8_t> query(std::size_t i) const {
        return {queries_.data() + i * udp_query_stride, messages_[i].msg_len};
    }

    std::size_t respond(std::size_t i, std::span<std::uint8_t> answer) {
        Outcome outcome;
        std::size_t size = server_.responder_.respond_fully(
            *zones_, {.client = socket_address_bytes(peers_[i]), .transport = Transport::udp, .now = now_seconds_},
            query(i), answer, outcome);
        if (outcome.action != Action::none) {
            StreamAnswer made = act({.worker = index_,
                                     .transport = Transport::udp,
                                     .socket = socket_.get(),
                                     .peer = peers_[i],
                                     .peer_size = messages_[i].msg_hdr.msg_namelen},
                                    query(i), answer, outcome);
            count(Transport::udp, outcome.type, outcome.rcode, false);
            return made.transfer ? made.transfer->next(answer, now_seconds_) : made.size;
        }
        count(Transport::udp, outcome.type, outcome.rcode, outcome.truncated);
        if (size == 0) {
            bump(dropped_);
            return 0;
        }
        if (!limiter_.enabled() || outcome.cookie_valid) return size;
        // Denials and errors of one client network count together: each may be about another name.
        return limit(i, outcome.rcode == Rcode::NOERROR ? outcome.name_hash : static_cast<std::uint64_t>(outcome.rcode),
                     answer.first(size));
    }

    std::size_t limit(std::size_t i, std::uint64_t kind, std::span<std::uint8_t> answer) {
        RateLimiter::Verdict verdict = limiter_.check(socket_address_bytes(peers_[i]), kind, now_ms_);
        if (verdict == RateLimiter::Verdict::send) return answer.size();
        bump(rate_limited_);
        return verdict == RateLimiter::Verdict::slip ? Responder::cut(answer) : 0;
    }

    // The control message that told where a datagram went tells where its answer comes from; not by which interface.
    static void reply_from(msghdr& received, msghdr& reply) {
        for (cmsghdr* at = CMSG_FIRSTHDR(&received); at != nullptr; at = CMSG_NXTHDR(&received, at)) {
            // SAFETY: the type of a control message says what it holds.
            if (at->cmsg_level == IPPROTO_IP && at->cmsg_type == IP_PKTINFO) {
                auto* info = reinterpret_cast<in_pktinfo*>(CMSG_DATA(at));
                info->ipi_ifindex = 0;
                info->ipi_spec_dst = info->ipi_addr;
            } else if (at->cmsg_level == IPPROTO_IPV6 && at->cmsg_type == IPV6_PKTINFO) {
                auto* info = reinterpret_cast<in6_pktinfo*>(CMSG_DATA(at));
                if (!IN6_IS_ADDR_LINKLOCAL(&info->ipi6_addr)) info->ipi6_ifindex = 0;
            } else {
                continue;
            }
            reply.msg_control = at;
            reply.msg_controllen = CMSG_ALIGN(at->cmsg_len);
            return;
        }
    }

    Fd socket_;
    bool wildcard_ = false;
    RateLimiter limiter_;
    std::vector<std::uint8_t> queries_;
    std::vector<std::uint8_t> answers_;
    std::vector<std::uint8_t> controls_;
    std::array<FastQuery, batch> fast_{};
    std::array<iovec, batch> vectors_{};
    std::array<iovec, batch> answer_vectors_{};
    std::array<mmsghdr, batch> messages_{};
    std::array<mmsghdr, batch> replies_{};
    std::array<sockaddr_storage, batch> peers_{};
};

// One thread with the listening TCP and TLS sockets and their connections.
class Server::StreamWorker final : public Server::Worker {
  public:
    using Worker::Worker;

    Result<> open(const std::vector<SocketAddress>& addresses, const std::vector<SocketAddress>& tls_addresses) {
        epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
        wake_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!epoll_ || !wake_) return fail_errno("epoll");
        TRY(watch(wake_.get(), EPOLLIN));
        for (const SocketAddress& address : addresses) {
            tcp_.push_back(TRY(bind_socket(address, SOCK_STREAM)));
            TRY(watch(tcp_.back().get(), EPOLLIN));
        }
        for (const SocketAddress& address : tls_addresses) {
            tls_.push_back(TRY(bind_socket(address, SOCK_STREAM)));
            TRY(watch(tls_.back().get(), EPOLLIN));
        }
        streams_.emplace(epoll_.get(), index_,
                         StreamOptions{.connections = server_.options_.tcp_connections,
                                       .idle_ms = server_.options_.tcp_idle_ms,
                                       .tls = server_.options_.tls},
                         [this](const ReplyTo& from, std::span<const std::uint8_t> query,
                                std::span<std::uint8_t> answer) { return respond(from, query, answer); });
        return {};
    }

    void run() override {
        std::array<epoll_event, 64> events{};
        while (!stopping_.load(std::memory_order_relaxed)) {
            int timeout = streams_->size() == 0 ? -1 : 250;
            int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout);
            if (count < 0 && errno != EINTR) return;
            refresh();
            for (int i = 0; i < count; ++i) {
                const int fd = events[static_cast<std::size_t>(i)].data.fd;
                auto among = [fd](const std::vector<Fd>& sockets) {
                    return std::ranges::any_of(sockets, [fd](const Fd& s) { return s.get() == fd; });
                };
                if (fd == wake_.get())
                    take_replies();
                else if (among(tcp_))
                    streams_->accept_all(fd, Transport::tcp);
                else if (among(tls_))
                    streams_->accept_all(fd, Transport::tls);
                else
                    streams_->serve(fd, events[static_cast<std::size_t>(i)].events);
            }
            if (streams_->size() != 0) streams_->close_idle();
            open_connections_.store(streams_->size(), std::memory_order_relaxed);
        }
    }

    void stop() override {
        stopping_.store(true, std::memory_order_relaxed);
        wake();
    }

    void reply(std::uint64_t connection, std::span<const std::uint8_t> message) override {
        {
            std::lock_guard lock(replies_lock_);
            late_.emplace_back(connection, Bytes(message.begin(), message.end()));
        }
        wake();
    }

  private:
    void wake() {
        std::uint64_t one = 1;
        [[maybe_unused]] auto written = ::write(wake_.get(), &one, sizeof one);
    }

    Result<> watch(int fd, std::uint32_t what) {
        epoll_event event{.events = what, .data = {.fd = fd}};
        if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return fail_errno("epoll");
        return {};
    }

    void take_replies() {
        std::uint64_t count = 0;
        [[maybe_unused]] auto got = ::read(wake_.get(), &count, sizeof count);
        std::vector<std::pair<std::uint64_t, Bytes>> late;
        {
            std::lock_guard lock(replies_lock_);
            late.swap(late_);
        }
        for (const auto& [connection, message] : late) streams_->reply(connection, message);
    }

    StreamAnswer respond(const ReplyTo& from, std::span<const std::uint8_t> query, std::span<std::uint8_t> answer) {
        Outcome outcome;
        StreamAnswer made;
        made.size = server_.responder_.respond(
            *zones_, {.client = socket_address_bytes(from.peer), .transport = from.transport, .now = now_seconds_},
            query, answer, outcome);
        if (outcome.action != Action::none) made = act(from, query, answer, outcome);
        count(from.transport, outcome.type, outcome.rcode, outcome.truncated);
        if (made.size == 0 && !made.later && !made.transfer) bump(dropped_);
        return made;
    }

    Fd epoll_;
    Fd wake_;
    std::vector<Fd> tcp_;
    std::vector<Fd> tls_;
    std::optional<StreamServer> streams_;
    std::mutex replies_lock_;
    std::vector<std::pair<std::uint64_t, Bytes>> late_;
};

Server::Server(ServerOptions options, Responder responder)
    : options_(std::move(options)), responder_(std::move(responder)) {
    // SAFETY: random bytes into a number.
    fill_random(std::as_writable_bytes(std::span(&secret_, 1)));
}

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
    server->tls_addresses_ = server->options_.listen_tls;
    if (!server->tls_addresses_.empty() && !server->options_.tls)
        return fail(Code::invalid_argument, "TLS needs a certificate and a key");
    // Port 0 becomes a real one, which the other threads and TCP must share.
    auto resolve = [](SocketAddress& address, int type) -> Result<Fd> {
        Fd first;
        if (address.port() != 0) return first;
        first = TRY(bind_socket(address, type));
        socklen_t size = sizeof address.storage;
        // SAFETY: the sockets API takes every address family through sockaddr.
        if (::getsockname(first.get(), reinterpret_cast<sockaddr*>(&address.storage), &size) < 0)
            return fail_errno("getsockname");
        return first;
    };
    std::vector<Fd> held;  // until the workers have theirs
    for (SocketAddress& address : server->addresses_) held.push_back(TRY(resolve(address, SOCK_DGRAM)));
    for (SocketAddress& address : server->tls_addresses_) held.push_back(TRY(resolve(address, SOCK_STREAM)));
    for (unsigned i = 0; i < std::max(1U, server->options_.threads); ++i) {
        auto worker = std::make_unique<StreamWorker>(*server, i);
        TRY(worker->open(server->addresses_, server->tls_addresses_));
        server->workers_.push_back(std::move(worker));
    }
    // After all of those, whose places in the list ReplyTo names.
    for (std::size_t i = 0; i < std::max(1U, server->options_.threads) * server->addresses_.size(); ++i) {
        auto worker = std::make_unique<UdpWorker>(*server, server->workers_.size());
        TRY(worker->open(server->addresses_[i % server->addresses_.size()]));
        server->workers_.push_back(std::move(worker));
    }
    return server;
}

void Server::start() {
    for (auto& worker : workers_) threads_.emplace_back([w = worker.get()] { w->run(); });
}

void Server::stop() {
    for (auto& worker : workers_) worker->stop();
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

void Server::reply(const ReplyTo& to, std::span<const std::uint8_t> message) {
    if (to.transport != Transport::udp) {
        workers_[to.worker]->reply(to.connection, message);
        return;
    }
    // SAFETY: the sockets API takes every address family through sockaddr.
    (void)::sendto(to.socket, message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
                   reinterpret_cast<const sockaddr*>(&to.peer), to.peer_size);
}

ServerCounters Server::counters() const {
    ServerCounters sum;
    for (const auto& worker : workers_) worker->add_to(sum);
    return sum;
}

}  // namespace wherry::dns
