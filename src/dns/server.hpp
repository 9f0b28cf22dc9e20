// The DNS server's sockets and threads: UDP in batches, a thread for each socket; TCP with pipelining (RFC 7766) and
// DNS over TLS (RFC 7858) on a thread with epoll; as many of each as there are to be (SO_REUSEPORT), so that threads
// share nothing but the zones.
//
//     auto server = TRY(Server::create({.listen = {...}, .threads = 2}, std::move(responder), zones));
//     server->set_zones(reloaded);   // any time, from any thread: each query sees the old or the new set, whole
//     server->stop();
#pragma once

#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "dns/catalog.hpp"
#include "dns/responder.hpp"
#include "dns/socket_address.hpp"

namespace wherry::dns {

class TlsContext;

// Where the answer to a request goes that is answered later.
struct ReplyTo {
    std::size_t worker = 0;
    Transport transport = Transport::udp;
    int socket = -1;               // UDP: of the server, open as long as it
    std::uint64_t connection = 0;  // TCP, TLS: a number that is not used again
    sockaddr_storage peer{};
    socklen_t peer_size = 0;
};

// An UPDATE or NOTIFY: well-formed as far as its question and signature go.
struct ControlRequest {
    Action action = Action::none;
    Bytes packet;
    std::shared_ptr<const TsigKey> key;  // that it was signed with
    Bytes mac;
    ReplyTo reply;
};

// Whoever acts on them. Called from the server's threads; may not block.
class ControlSink {
  public:
    virtual ~ControlSink() = default;
    ControlSink() = default;
    ControlSink(const ControlSink&) = delete;
    ControlSink& operator=(const ControlSink&) = delete;
    // False: too many are waiting; the sender will ask again.
    virtual bool submit(ControlRequest request) = 0;
};

struct ServerOptions {
    std::vector<SocketAddress> listen;
    std::vector<SocketAddress> listen_tls;
    unsigned threads = 1;                // UDP threads of each address, and threads for TCP and TLS
    std::size_t tcp_connections = 1024;  // for each thread; the longest idle one gives way
    unsigned tcp_idle_ms = 10'000;       // RFC 7766 section 6.2.3
    unsigned rate_limit = 0;             // like answers a second to one client network over UDP; 0: no limit
    unsigned rate_slip = 2;              // every so manieth answer over the limit is sent truncated instead of dropped
    ControlSink* control = nullptr;      // without: UPDATE and NOTIFY are NOTIMP
    std::shared_ptr<TlsContext> tls;     // needed for listen_tls
};

// Counts since the start, summed over the threads.
struct ServerCounters {
    std::uint64_t udp_queries = 0;
    std::uint64_t tcp_queries = 0;
    std::uint64_t tls_queries = 0;
    std::uint64_t truncated = 0;
    std::uint64_t dropped = 0;  // no answer: no header, or itself an answer
    std::uint64_t rate_limited = 0;
    std::uint64_t send_failures = 0;
    std::uint64_t transfers = 0;
    std::uint64_t connections = 0;  // open now
    std::array<std::uint64_t, 24> rcodes{};
    std::array<std::uint64_t, 260> types{};  // by type; others in the last
};

class Server {
  public:
    // Binds every socket, and starts no thread yet: privileges can be dropped in between.
    static Result<std::unique_ptr<Server>> create(ServerOptions options, Responder responder,
                                                  std::shared_ptr<const ZoneSet> zones);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    void start();
    void stop();  // ends and joins the threads; open TCP connections are closed
    void set_zones(std::shared_ptr<const ZoneSet> zones);
    std::shared_ptr<const ZoneSet> zones() const;
    // The late answer to a ControlRequest; from any thread. Lost when the client has gone.
    void reply(const ReplyTo& to, std::span<const std::uint8_t> message);
    ServerCounters counters() const;
    // Where it listens: port 0 resolved.
    const std::vector<SocketAddress>& addresses() const { return addresses_; }
    const std::vector<SocketAddress>& tls_addresses() const { return tls_addresses_; }

  private:
    class Worker;
    class UdpWorker;
    class StreamWorker;
    Server(ServerOptions options, Responder responder);

    ServerOptions options_;
    Responder responder_;
    std::vector<SocketAddress> addresses_;
    std::vector<SocketAddress> tls_addresses_;
    mutable std::mutex zones_lock_;
    std::shared_ptr<const ZoneSet> zones_;
    std::atomic<std::uint64_t> generation_{0};
    std::uint64_t secret_ = 0;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::vector<std::thread> threads_;
};

}  // namespace wherry::dns
