// The network the metadata service lives on: just enough of Ethernet, ARP, IPv4 and TCP (RFC 9293) to serve HTTP on
// port 80 of one address to one neighbour, the guest. Segments are taken in order only, what is lost is sent again
// from the first byte missing. Belongs to its network device's lock; time is passed in.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "vmm/core/http.hpp"
#include "vmm/mmds/service.hpp"

namespace wherry::vmm::mmds {

class Stack {
  public:
    static constexpr std::size_t most_connections = 30;

    explicit Stack(std::shared_ptr<Service> service) : service_(std::move(service)) {}

    // Whether a frame that starts with these bytes (42 are enough) is for the service and not for the network.
    bool wants(std::span<const std::byte> frame_head) const;
    void receive(std::span<const std::byte> frame, std::int64_t now_ns);
    bool has_output() const;
    // A frame for the guest, without a virtio header. Only when has_output().
    std::vector<std::byte> take_output();
    // Sends again what was not acknowledged in time, gives up what is dead.
    void tick(std::int64_t now_ns);
    std::optional<std::chrono::nanoseconds> next_timeout(std::int64_t now_ns) const;

  private:
    using Mac = std::array<std::uint8_t, 6>;
    struct Peer {
        Ipv4 address = {};
        std::uint16_t port = 0;
        friend auto operator<=>(const Peer&, const Peer&) = default;
    };
    struct Connection {
        Mac mac = {};
        std::uint32_t first_sequence = 0;
        std::uint32_t send_base = 0;  // oldest byte not acknowledged
        std::uint32_t send_next = 0;
        std::uint32_t receive_next = 0;
        std::uint32_t peer_window = 0;
        std::size_t segment_bytes = 536;
        bool established = false;
        bool must_acknowledge = false;
        bool close_after_data = false;  // FIN follows the data
        bool fin_sent = false;
        bool peer_closed = false;
        std::string data;  // from send_base on (the SYN and FIN are not in it)
        HttpParser parser{HttpParser::Limits{.head_bytes = 4096, .body_bytes = 4096}};
        std::int64_t deadline_ns = 0;  // for a retransmission, when something is in flight
        std::int64_t last_heard_ns = 0;
        unsigned retries = 0;

        bool in_flight() const { return send_next != send_base; }
        bool wants_to_send() const;
    };
    struct Segment {
        Peer peer;
        Mac mac = {};
        std::uint32_t sequence = 0;
        std::uint32_t acknowledgement = 0;
        std::uint8_t flags = 0;
        std::uint32_t window = 0;
        std::optional<std::uint16_t> largest_segment;
        std::string_view payload;
    };
    void receive_arp(std::span<const std::byte> frame);
    void receive_tcp(const Segment& segment, std::int64_t now_ns);
    void open(const Segment& segment, std::int64_t now_ns);
    void take_acknowledgement(Connection& connection, const Segment& segment, std::int64_t now_ns);
    void take_payload(Connection& connection, const Segment& segment, std::int64_t now_ns);
    void refuse(const Segment& segment);
    std::vector<std::byte> next_segment(const Peer& peer, Connection& connection);
    std::vector<std::byte> make_segment(const Peer& peer, const Mac& mac, std::uint32_t sequence,
                                        std::uint32_t acknowledgement, std::uint8_t flags, std::string_view payload);
    void queue_frame(std::vector<std::byte> frame);
    void forget(const Peer& peer);

    std::shared_ptr<Service> service_;
    std::deque<std::vector<std::byte>> frames_;
    std::map<Peer, Connection> connections_;
    std::int64_t now_ns_ = 0;
};

}  // namespace wherry::vmm::mmds
