// Packets of virtio-vsock, both ways.
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.hpp"
#include "vmm/devices/vsock/device.hpp"

namespace wherry::vmm::vsock {
namespace {

constexpr std::size_t most_resets = 256;
constexpr std::uint64_t largest_payload = 64U << 10U;
constexpr std::int64_t closing_patience_ns = 2'000'000'000;

}  // namespace

Result<> VsockDevice::on_queue(std::uint16_t index) {
    if (index == rx_queue) {
        metrics.rx_queue_event_count.add();
        TRY(send_packets());
        if (tx_stalled_ && resets_.size() < most_resets) return take_packets();
    } else if (index == tx_queue) {
        metrics.tx_queue_event_count.add();
        return take_packets();
    } else if (index == event_queue && reset_pending_) {
        notice_reset_taken();
        return send_packets();
    }
    return {};
}

Result<> VsockDevice::take_packets() {
    tx_stalled_ = false;
    if (!queue(tx_queue).started()) return {};
    for (unsigned count = 0;; ++count) {
        if (count == turn) {
            again(tx_queue);
            break;
        }
        if (resets_.size() >= most_resets) {
            tx_stalled_ = true;
            break;
        }
        if (!TRY(queue(tx_queue).pop(chain_))) break;
        const auto header = chain_.readable.read<Header>(0);
        if (!header) return fail(Code::invalid_argument, "vsock packet without a header");
        if (header->bytes > largest_payload || header->bytes > chain_.readable.size() - sizeof(Header))
            return fail(Code::invalid_argument, "vsock packet longer than its buffers");
        chain_.readable.drop_front(sizeof(Header));
        chain_.readable.truncate(header->bytes);
        metrics.tx_packets_count.add();
        metrics.tx_bytes_count.add(header->bytes);
        TRY(take_packet(*header, chain_.readable));
        queue(tx_queue).push(chain_.head, 0);
    }
    signal(tx_queue);
    return send_packets();
}

Result<> VsockDevice::take_packet(const Header& header, GuestBuffers& data) {
    const PortPair ports{header.destination_port, header.source_port};
    // Packets from or for somebody else are dropped, as on a network.
    if (header.source_cid != config_.guest_cid || header.destination_cid != host_cid) return {};
    const auto found = connections_.find(ports);
    if (header.type != type_stream) {
        if (header.operation != operation_reset) resets_.push_back({ports});
        return {};
    }
    if (found == connections_.end()) {
        if (header.operation == operation_request) return start_from_guest(header);
        if (header.operation != operation_reset) resets_.push_back({ports});
        return {};
    }
    Connection& connection = found->second;
    connection.peer_buffer_bytes = header.buffer_bytes;
    connection.peer_forwarded = header.forwarded;
    switch (header.operation) {
        case operation_response:
            if (connection.state != Connection::State::requested) {
                remove(ports, true);
                return {};
            }
            connection.state = Connection::State::established;
            connection.dead_at_ns = 0;
            {
                const std::string line = fmt::format("OK {}\n", ports.host);
                if (send(connection.socket.get(), line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT) !=
                    static_cast<ssize_t>(line.size())) {
                    remove(ports, true);
                    return {};
                }
            }
            break;
        case operation_reset:
            remove(ports, false);
            return {};
        case operation_data:
            if (connection.state == Connection::State::requested || (connection.peer_shutdown & shutdown_send) != 0) {
                remove(ports, true);
                return {};
            }
            if (connection.host_gone) return {};  // the guest does not know yet
            if (!connection.write(data)) {
                metrics.tx_write_fails.add();
                remove(ports, true);
                return {};
            }
            break;
        case operation_shutdown:
            connection.peer_shutdown |= header.flags & (shutdown_receive | shutdown_send);
            if ((connection.peer_shutdown & shutdown_send) != 0 && connection.unsent.empty())
                shutdown(connection.socket.get(), SHUT_WR);
            if (connection.peer_shutdown == (shutdown_receive | shutdown_send) && connection.unsent.empty()) {
                remove(ports, true);
                return {};
            }
            break;
        case operation_credit_request:
            connection.wants_credit_update = true;
            break;
        case operation_credit_update:
            break;
        default:  // a second request, or what nobody has defined
            remove(ports, true);
            return {};
    }
    if (connection.owes_credit()) connection.wants_credit_update = true;
    update_watch(connection);
    return {};
}

Result<> VsockDevice::start_from_guest(const Header& header) {
    notice_reset_taken();  // then this one comes after it
    const PortPair ports{header.destination_port, header.source_port};
    auto socket = connections_.size() >= most_connections
                      ? Result<Fd>(fail(Code::resource_exhausted, "too many vsock connections"))
                      : connect_unix(fmt::format("{}_{}", config_.uds_path, ports.host), SOCK_NONBLOCK);
    if (!socket) {
        resets_.push_back({ports});
        return {};
    }
    Connection connection(ports, std::move(*socket), Connection::State::established);
    connection.peer_buffer_bytes = header.buffer_bytes;
    connection.peer_forwarded = header.forwarded;
    connection.wants_response = true;
    connection.watch = TRY(watch(connection.socket.get(), EPOLLRDHUP | EPOLLIN,
                                 [this, ports](std::uint32_t events) { return socket_event(ports, events); }));
    connections_.emplace(ports, std::move(connection));
    metrics.conns_added.add();
    return {};
}

Result<> VsockDevice::socket_event(PortPair ports, std::uint32_t events) {
    const auto found = connections_.find(ports);
    if (!working() || found == connections_.end()) return {};
    Connection& connection = found->second;
    if ((events & EPOLLOUT) != 0) {
        if (!connection.flush()) {
            remove(ports, true);
            return send_packets();
        }
        if (connection.owes_credit()) connection.wants_credit_update = true;
        if (connection.unsent.empty() && (connection.peer_shutdown & shutdown_send) != 0) {
            shutdown(connection.socket.get(), SHUT_WR);
            if ((connection.peer_shutdown & shutdown_receive) != 0) {
                remove(ports, true);
                return send_packets();
            }
        }
    }
    if (connection.state == Connection::State::requested && (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0) {
        remove(ports, !connection.wants_request);  // the client did not wait for its answer
        return send_packets();
    }
    if ((events & (EPOLLHUP | EPOLLERR)) != 0) connection.host_gone = true;
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0) connection.readable = true;
    TRY(send_packets());
    if (const auto still = connections_.find(ports); still != connections_.end()) update_watch(still->second);
    return {};
}

// Asks for what we can use: an event that nobody can act on would come back at once, for ever.
void VsockDevice::update_watch(Connection& connection) {
    std::uint32_t events = 0;
    if (connection.can_send_data() && !connection.readable) events |= EPOLLIN | EPOLLRDHUP;
    if (!connection.unsent.empty()) events |= EPOLLOUT;
    if (connection.state == Connection::State::requested) events |= EPOLLRDHUP;
    if (connection.host_gone) {  // hang-ups are always reported, wanted or not
        connection.watch.reset();
        return;
    }
    connection.watch.set_events(events);
}

void VsockDevice::begin_closing(Connection& connection) {
    if (connection.state == Connection::State::closing) return;
    connection.state = Connection::State::closing;
    connection.dead_at_ns = monotonic_ns() + closing_patience_ns;
    timer_->arm(std::chrono::nanoseconds(closing_patience_ns));
}

void VsockDevice::remove(PortPair ports, bool tell_guest) {
    if (connections_.erase(ports) == 0) return;
    metrics.conns_removed.add();
    if (tell_guest) resets_.push_back({ports});
}

Header VsockDevice::make_header(PortPair ports, std::uint16_t operation) const {
    Header header;
    header.source_cid = host_cid;
    header.destination_cid = config_.guest_cid;
    header.source_port = ports.host;
    header.destination_port = ports.guest;
    header.type = type_stream;
    header.operation = operation;
    return header;
}

Header VsockDevice::make_header(Connection& connection, std::uint16_t operation) {
    Header header = make_header(connection.ports, operation);
    header.buffer_bytes = Connection::buffer_bytes;
    header.forwarded = connection.forwarded;
    connection.forwarded_told = connection.forwarded;  // every packet carries it
    connection.wants_credit_update = false;
    return header;
}

bool VsockDevice::wants_to_send(const Connection& connection) const {
    if (connection.wants_request && reset_pending_) return false;
    return connection.wants_request || connection.wants_response || connection.wants_credit_update ||
           connection.wants_shutdown || (connection.readable && connection.can_send_data());
}

// Fills one buffer of the guest with what the connection wants to say most. False: it turned out to be nothing.
bool VsockDevice::next_packet(Connection& connection, GuestBuffers& buffer, std::uint32_t& written) {
    const auto put = [&](std::uint16_t operation, std::uint32_t flags) {
        Header header = make_header(connection, operation);
        header.flags = flags;
        buffer.write(0, header);
        written = sizeof(Header);
        return true;
    };
    if (std::exchange(connection.wants_request, false)) return put(operation_request, 0);
    if (std::exchange(connection.wants_response, false)) return put(operation_response, 0);
    if (connection.readable && connection.can_send_data()) {
        GuestBuffers payload = buffer.take_back(buffer.size() - sizeof(Header));
        payload.truncate(std::min<std::uint64_t>(connection.peer_credit(), largest_payload));
        const auto got = payload.read_from(connection.socket.get());
        if (got && *got > 0) {
            const auto bytes = static_cast<std::uint32_t>(*got);
            connection.sent += bytes;
            Header header = make_header(connection, operation_data);
            header.bytes = bytes;
            buffer.write(0, header);
            written = static_cast<std::uint32_t>(sizeof(Header)) + bytes;
            metrics.rx_bytes_count.add(bytes);
            return true;
        }
        connection.readable = false;
        if (got || got.error().os_errno() != EAGAIN) {
            if (!got) metrics.rx_read_fails.add();
            connection.host_ended = true;
            connection.host_gone = connection.host_gone || !got;
            connection.wants_shutdown = true;
        }
    }
    if (std::exchange(connection.wants_shutdown, false)) {
        // A host that has only stopped sending still hears.
        const std::uint32_t flags = shutdown_send | (connection.host_gone ? shutdown_receive : 0U);
        connection.our_shutdown |= flags;
        if (connection.our_shutdown == (shutdown_send | shutdown_receive)) begin_closing(connection);
        return put(operation_shutdown, flags);
    }
    if (connection.wants_credit_update) return put(operation_credit_update, 0);
    return false;
}

// Moves packets to the guest while it has buffers, one from each connection in turn.
Result<> VsockDevice::send_packets() {
    if (!working() || !queue(rx_queue).started()) return {};
    Queue& rx = queue(rx_queue);
    for (unsigned count = 0;; ++count) {
        if (count == turn) {
            again(rx_queue);
            break;
        }
        auto served = connections_.end();
        if (resets_.empty()) {
            served = std::find_if(connections_.upper_bound(last_served_), connections_.end(),
                                  [this](const auto& entry) { return wants_to_send(entry.second); });
            if (served == connections_.end())
                served = std::ranges::find_if(connections_,
                                              [this](const auto& entry) { return wants_to_send(entry.second); });
            if (served == connections_.end()) break;
        }
        if (!TRY(rx.pop(chain_))) break;
        if (chain_.writable.size() < sizeof(Header))
            return fail(Code::invalid_argument, "vsock buffer smaller than a header");
        std::uint32_t written = sizeof(Header);
        if (served == connections_.end()) {
            chain_.writable.write(0, make_header(resets_.front().ports, operation_reset));
            resets_.pop_front();
        } else {
            last_served_ = served->first;
            Connection& connection = served->second;
            if (!next_packet(connection, chain_.writable, written)) {
                rx.undo_pop();
                update_watch(connection);
                continue;
            }
            if (!wants_to_send(connection)) update_watch(connection);
        }
        rx.push(chain_.head, written);
        metrics.rx_packets_count.add();
    }
    signal(rx_queue);
    return {};
}

// Ends what nobody answered.
Result<> VsockDevice::sweep() {
    const std::int64_t now = monotonic_ns();
    std::vector<PortPair> dead;
    bool waiting = false;
    for (const auto& [ports, connection] : connections_) {
        if (connection.dead_at_ns == 0) continue;
        if (connection.dead_at_ns <= now) {
            dead.push_back(ports);
        } else {
            waiting = true;
        }
    }
    for (const PortPair& ports : dead) {
        metrics.conns_killed.add();
        remove(ports, true);
    }
    if (waiting) timer_->arm(std::chrono::milliseconds(100));
    return send_packets();
}

}  // namespace wherry::vmm::vsock
