// A thread's TCP and TLS connections: framing, pipelining, back-pressure, time-outs, transfers. Not thread-safe; the
// owner's epoll loop drives it.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/fd.hpp"
#include "dns/server.hpp"
#include "dns/tls.hpp"
#include "dns/transfer_out.hpp"

namespace wherry::dns {

struct StreamOptions {
    std::size_t connections = 1024;
    unsigned idle_ms = 10'000;
    std::shared_ptr<TlsContext> tls;
};

// What became of a query on a stream.
struct StreamAnswer {
    std::size_t size = 0;                    // bytes of the answer; 0 with neither of the next: close
    std::optional<TransferStream> transfer;  // its messages are the answer
    bool later = false;                      // it comes by reply()
};

class StreamServer {
  public:
    using Handler = std::function<StreamAnswer(const ReplyTo& from, std::span<const std::uint8_t> query,
                                               std::span<std::uint8_t> answer)>;

    StreamServer(int epoll, std::size_t worker, StreamOptions options, Handler handler)
        : epoll_(epoll),
          worker_(worker),
          options_(std::move(options)),
          handler_(std::move(handler)),
          answer_(2 + max_message_bytes) {}

    void accept_all(int listener, Transport transport);
    void serve(int fd, std::uint32_t events);  // unknown descriptors are ignored
    void reply(std::uint64_t connection, std::span<const std::uint8_t> message);
    void close_idle();
    std::size_t size() const { return connections_.size(); }

  private:
    struct Connection {
        Fd socket;
        ReplyTo from;
        std::unique_ptr<TlsContext::Session> tls;
        Bytes input;
        Bytes output;  // as it goes to the socket
        std::size_t sent = 0;
        std::optional<TransferStream> transfer;
        unsigned owed = 0;  // answers that come later
        std::int64_t last_ns = 0;
        bool input_ended = false;
        std::uint32_t watched = 0;
        std::list<int>::iterator position;  // in by_age_
    };

    bool receive(Connection& connection);
    bool queue(Connection& connection, std::span<const std::uint8_t> framed);
    bool answer_queries(Connection& connection, bool& answered);
    bool flush(Connection& connection);
    void advance(Connection& connection);
    void touch(Connection& connection);
    void close(int fd);

    int epoll_;
    std::size_t worker_;
    StreamOptions options_;
    Handler handler_;
    Bytes answer_;
    std::uint64_t next_number_ = 1;
    std::unordered_map<int, Connection> connections_;
    std::unordered_map<std::uint64_t, int> by_number_;
    std::list<int> by_age_;  // least recently used first
};

}  // namespace wherry::dns
