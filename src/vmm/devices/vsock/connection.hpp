// One stream between a port of the guest and a unix socket of the host: its state, its credit, and what it wants to
// say. No I/O but reading and writing that socket; the device moves the packets.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/fd.hpp"
#include "vmm/core/event_loop.hpp"
#include "vmm/devices/vsock/packet.hpp"
#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm::vsock {

// Both ends, as the guest's packets name them.
struct PortPair {
    std::uint32_t host = 0;
    std::uint32_t guest = 0;
    friend auto operator<=>(const PortPair&, const PortPair&) = default;
};

class Connection {
  public:
    // What a guest may send ahead of what its peer has taken.
    static constexpr std::uint32_t buffer_bytes = 256U << 10U;

    enum class State : unsigned char { requested, established, closing };

    Connection(PortPair ports, Fd socket, State state) : ports(ports), socket(std::move(socket)), state(state) {}

    // Bytes the guest still has room for.
    std::uint32_t peer_credit() const { return peer_buffer_bytes - (sent - peer_forwarded); }
    bool can_send_data() const {
        return state == State::established && !host_ended && (peer_shutdown & shutdown_receive) == 0 &&
               peer_credit() > 0;
    }
    // The guest's view of us falls behind: it would soon stop although there is room.
    bool owes_credit() const { return forwarded - forwarded_told >= buffer_bytes / 2; }
    // Takes a packet's bytes, or refuses what is more than was allowed. False when the socket is broken.
    bool write(const GuestBuffers& data);
    // Writes what the socket did not take before. False when the socket is broken.
    bool flush();

    PortPair ports;
    Fd socket;
    Watch watch;
    State state;
    std::string unsent;  // to the host's socket
    std::uint32_t peer_buffer_bytes = 0;
    std::uint32_t peer_forwarded = 0;
    std::uint32_t sent = 0;
    std::uint32_t forwarded = 0;
    std::uint32_t forwarded_told = 0;
    std::uint32_t received = 0;
    std::uint32_t peer_shutdown = 0;  // flags the guest has given
    std::uint32_t our_shutdown = 0;   // flags we have given
    bool host_ended = false;          // end of file from the host's socket
    bool host_gone = false;           // and it takes nothing any more
    bool readable = false;
    // Packets to be sent as soon as the guest has a buffer.
    bool wants_request = false, wants_response = false, wants_credit_update = false, wants_shutdown = false;
    std::int64_t dead_at_ns = 0;  // in requested and closing: when patience ends
};

}  // namespace wherry::vmm::vsock
