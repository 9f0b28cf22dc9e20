// Events to containerd, in order, one at a time: by ttrpc to the socket containerd named (TTRPC_ADDRESS), or else by
// its publish command. While containerd is away they are kept and sent again, the oldest beyond `max_queued` forgotten.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <string>

#include "api/containerd/messages.hpp"
#include "api/containerd/ttrpc.hpp"
#include "base/fd.hpp"
#include "supervisor/connection.hpp"
#include "supervisor/event_loop.hpp"

namespace wherry::api::containerd {

struct PublisherOptions {
    std::string name_space;
    std::string ttrpc_address;   // path of a unix socket, "unix://" in front or not; empty: by command
    std::string address;         // containerd's gRPC socket, for the command
    std::string publish_binary;  // both empty: events are dropped
};

class EventPublisher {
  public:
    static constexpr std::size_t max_queued = 4096;

    EventPublisher(supervisor::EventLoop& loop, std::span<char> scratch, PublisherOptions options);
    EventPublisher(const EventPublisher&) = delete;
    EventPublisher& operator=(const EventPublisher&) = delete;

    template <class Event>
    void publish(const Event& event) {
        publish(std::string(Event::topic), Any{std::string(Event::type), encode(event)});
    }
    void publish(std::string topic, Any event);
    bool idle() const { return queue_.empty(); }
    bool child_ended(pid_t pid, int wait_status);  // true: it was the publish command

  private:
    struct Queued {
        std::string topic;
        Any event;
        Timestamp time;
        int attempts = 0;
    };

    void send_next();
    void send_by_ttrpc();
    void send_by_command();
    Result<> connect();
    Result<> spawn_command(const Queued& item);
    void on_events(std::uint32_t events);
    bool receive();
    void delivered();
    void refused(std::string_view why);
    void try_again();
    void disconnect();

    supervisor::EventLoop& loop_;
    std::span<char> scratch_;
    PublisherOptions options_;
    std::deque<Queued> queue_;  // the first one is on its way when in_flight_
    bool in_flight_ = false;
    Fd socket_;
    supervisor::Watch watch_;
    supervisor::SendQueue unsent_;
    TtrpcDecoder decoder_;
    std::uint32_t next_stream_ = 1;
    std::uint32_t stream_ = 0;
    supervisor::Timer timer_;  // of the answer, or until the next attempt
    std::chrono::milliseconds delay_{0};
    pid_t command_ = -1;
};

}  // namespace wherry::api::containerd
