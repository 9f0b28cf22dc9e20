// virtio-vsock (Virtio 1.2, section 5.10), bridged to unix sockets as Firecracker does: the host connects to
// `uds_path`, says "CONNECT <port>\n" and reads "OK <host port>\n"; a guest that connects to port N of the host
// reaches the socket `<uds_path>_<N>`. Streams only.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/devices/vsock/connection.hpp"
#include "vmm/devices/vsock/metrics.hpp"
#include "vmm/virtio/device.hpp"

namespace wherry::vmm::vsock {

struct Config {
    std::uint64_t guest_cid = 3;
    std::string uds_path;

    void fields(this auto& self, auto&& f) { f(self.guest_cid, self.uds_path); }
};

struct State;

class VsockDevice final : public Device {
  public:
    // Listens at once. already_exists (EADDRINUSE) when something is at the path.
    static Result<std::shared_ptr<VsockDevice>> create(EventLoop& loop, const Config& config);
    ~VsockDevice() override;

    DeviceType type() const override { return DeviceType::vsock; }
    std::uint64_t offered_features() const override { return feature_event_index | feature_indirect_descriptors; }
    std::vector<std::byte> configuration() const override;
    const Config& config() const { return config_; }

    State save();
    // Connections end with a snapshot: the guest is told of it (section 5.10.6.7). It ends whatever connection it has
    // when it hears that, so new ones from the host wait until it has.
    Result<> restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt);
    // The guest runs, again: from now on connections wait for it no longer than `patience`.
    static constexpr std::chrono::milliseconds reset_patience{10'000};
    void resumed(std::chrono::nanoseconds patience = reset_patience);

    Metrics metrics;

  protected:
    void on_reset() override;
    Result<> on_queue(std::uint16_t queue) override;

  private:
    static constexpr std::uint16_t rx_queue = 0, tx_queue = 1, event_queue = 2;
    static constexpr std::uint32_t first_host_port = 1U << 30U;
    static constexpr std::size_t most_connections = 1023;
    // A client that has not said which port it wants.
    struct Greeting {
        Fd socket;
        Watch watch;
        std::string line;
    };
    struct Reset {
        PortPair ports;
    };
    VsockDevice(EventLoop& loop, const Config& config);
    Result<> accept_clients();
    Result<> read_greeting(std::uint64_t id);
    Result<> start_from_host(Fd socket, std::uint32_t guest_port);
    void expect_answers();  // to requests that are on their way to the guest
    Result<> take_packets();
    Result<> take_packet(const Header& header, GuestBuffers& data);
    Result<> start_from_guest(const Header& header);
    Result<> socket_event(PortPair ports, std::uint32_t events);
    void update_watch(Connection& connection);
    void begin_closing(Connection& connection);
    void remove(PortPair ports, bool tell_guest);
    Result<> send_packets();
    Header make_header(PortPair ports, std::uint16_t operation) const;
    Header make_header(Connection& connection, std::uint16_t operation);
    bool next_packet(Connection& connection, GuestBuffers& buffer, std::uint32_t& written);
    bool wants_to_send(const Connection& connection) const;
    Result<> sweep();
    void announce_reset(bool was_pending);
    void notice_reset_taken();
    void release_requests();  // of connections that wait; the caller sends them

    Config config_;
    Fd listener_;
    Watch listener_watch_;
    std::map<std::uint64_t, Greeting> greetings_;
    std::uint64_t next_greeting_ = 1;
    std::map<PortPair, Connection> connections_;
    PortPair last_served_;      // whose turn comes after whose
    std::deque<Reset> resets_;  // to be sent, for connections that are gone
    std::uint32_t next_host_port_ = first_host_port;
    std::unique_ptr<Timer> timer_;
    // The guest has not taken the news of a reset yet: it gives the event queue a buffer more when it has.
    bool reset_pending_ = false;
    std::uint16_t event_buffers_ = 0;
    std::unique_ptr<Timer> reset_timer_;
    bool tx_stalled_ = false;  // too many answers wait: the guest must take them first
    Chain chain_;
};

}  // namespace wherry::vmm::vsock
