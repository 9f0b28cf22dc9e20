// The server's side of ttrpc on the event loop: accepts containerd's connections, cuts them into requests, and sends
// the answers, at once or later. Only processes of our own user (or root) are listened to, whatever the socket's mode.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>

#include "api/containerd/ttrpc.hpp"
#include "base/fd.hpp"
#include "base/result.hpp"
#include "supervisor/connection.hpp"
#include "supervisor/event_loop.hpp"

namespace wherry::api::containerd {

// Where an answer goes; stays valid as a value when the connection is gone.
struct CallReference {
    std::uint64_t connection = 0;
    std::uint32_t stream = 0;
};

class RpcServer {
  public:
    // nullopt: answered later by answer().
    using Reply = Result<std::optional<std::string>>;
    using Handler = std::function<Reply(const TtrpcRequest& request, CallReference call)>;

    static constexpr std::size_t max_connections = 64;
    // A peer that lets this much pile up unread is cut off.
    static constexpr std::size_t max_unsent_bytes = 16U << 20U;

    // `scratch` is shared by everything on the loop.
    RpcServer(supervisor::EventLoop& loop, std::span<char> scratch, Handler handler)
        : loop_(loop), scratch_(scratch), handler_(std::move(handler)) {}
    RpcServer(const RpcServer&) = delete;
    RpcServer& operator=(const RpcServer&) = delete;

    Result<> listen(Fd listener);  // a listening, non-blocking unix socket
    void stop_listening();
    void answer(CallReference call, const Result<std::string>& payload);
    std::size_t connections() const { return connections_.size(); }
    bool everything_sent() const;

  private:
    struct Connection {
        Fd socket;
        supervisor::Watch watch;
        TtrpcDecoder decoder;
        supervisor::SendQueue unsent;
    };

    void accept_connections();
    void on_events(std::uint64_t id, std::uint32_t events);
    bool receive(std::uint64_t id, Connection& connection);
    bool handle(std::uint64_t id, const TtrpcFrame& frame);
    void send(std::uint64_t id, std::string_view bytes);

    supervisor::EventLoop& loop_;
    std::span<char> scratch_;
    Handler handler_;
    Fd listener_;
    supervisor::Watch listener_watch_;
    std::unordered_map<std::uint64_t, std::unique_ptr<Connection>> connections_;
    std::uint64_t next_connection_ = 1;
};

}  // namespace wherry::api::containerd
