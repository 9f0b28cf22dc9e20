// The DNS server's sockets: UDP in batches and TCP with pipelining (RFC 7766), a set of each for every thread
// (SO_REUSEPORT), so that threads share nothing but the zones.
//
//     auto server = TRY(Server::create({.listen = {...}, .threads = 2}, std::move(responder), zones));
//     server->set_zones(reloaded);   // any time, from any thread: each query sees the old or the new set, whole
//     server->stop();
#pragma once

#include <sys/socket.h>

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

namespace wherry::dns {

// "192.0.2.1", "192.0.2.1:5353", "[2001:db8::1]:53", "2001:db8::1"; port 53 when there is none.
struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t size = 0;

    static Result<SocketAddress> parse(std::string_view text, std::uint16_t default_port = 53);
    std::string to_text() const;
    std::uint16_t port() const;
    void set_port(std::uint16_t port);
};

struct ServerOptions {
    std::vector<SocketAddress> listen;
    unsigned threads = 1;
    std::size_t tcp_connections = 1024;  // for each thread; the longest idle one gives way
    unsigned tcp_idle_ms = 10'000;       // RFC 7766 section 6.2.3
};

// Counts since the start, summed over the threads.
struct ServerCounters {
    std::uint64_t udp_queries = 0;
    std::uint64_t tcp_queries = 0;
    std::uint64_t truncated = 0;
    std::uint64_t dropped = 0;  // no answer: no header, or itself an answer
    std::uint64_t send_failures = 0;
    std::array<std::uint64_t, 24> rcodes{};
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
    ServerCounters counters() const;
    // Where it listens: port 0 resolved.
    const std::vector<SocketAddress>& addresses() const { return addresses_; }

  private:
    class Worker;
    Server(ServerOptions options, Responder responder);
    std::shared_ptr<const ZoneSet> zones() const;

    ServerOptions options_;
    Responder responder_;
    std::vector<SocketAddress> addresses_;
    mutable std::mutex zones_lock_;
    std::shared_ptr<const ZoneSet> zones_;
    std::atomic<std::uint64_t> generation_{0};
    std::vector<std::unique_ptr<Worker>> workers_;
    std::vector<std::thread> threads_;
};

}  // namespace wherry::dns
