#include "vmm/mmds/stack.hpp"

#include <algorithm>
#include <cstring>

#include "base/id.hpp"

namespace wherry::vmm::mmds {
namespace {

constexpr std::array<std::uint8_t, 6> our_mac = {0x06, 0x01, 0x23, 0x45, 0x67, 0x01};
constexpr std::uint16_t ether_ipv4 = 0x0800, ether_arp = 0x0806;
constexpr std::size_t ethernet_bytes = 14, arp_bytes = 28, ipv4_bytes = 20, tcp_bytes = 20;
constexpr std::uint8_t protocol_tcp = 6;
constexpr std::uint16_t http_port = 80;
constexpr std::uint8_t fin = 1, syn = 2, rst = 4, psh = 8, ack = 16;
constexpr std::uint16_t our_window = 32768;
constexpr std::uint16_t our_largest_segment = 1460;
constexpr std::size_t most_frames = 64;
constexpr std::size_t most_data = 1U << 20U;
constexpr std::int64_t retransmission_ns = 1'200'000'000;
constexpr unsigned most_retries = 15;
constexpr std::int64_t idle_ns = 60'000'000'000;

std::uint8_t byte_at(std::span<const std::byte> bytes, std::size_t at) {
    return std::to_integer<std::uint8_t>(bytes[at]);
}
std::uint16_t be16(std::span<const std::byte> bytes, std::size_t at) {
    return static_cast<std::uint16_t>((byte_at(bytes, at) << 8U) | byte_at(bytes, at + 1));
}
std::uint32_t be32(std::span<const std::byte> bytes, std::size_t at) {
    return (std::uint32_t{be16(bytes, at)} << 16U) | be16(bytes, at + 2);
}
void put16(std::vector<std::byte>& bytes, std::size_t at, std::uint32_t value) {
    bytes[at] = static_cast<std::byte>(value >> 8U);
    bytes[at + 1] = static_cast<std::byte>(value);
}
void put32(std::vector<std::byte>& bytes, std::size_t at, std::uint32_t value) {
    put16(bytes, at, value >> 16U);
    put16(bytes, at + 2, value & 0xffffU);
}
template <std::size_t N>
std::array<std::uint8_t, N> octets(std::span<const std::byte> bytes, std::size_t at) {
    std::array<std::uint8_t, N> out = {};
    std::memcpy(out.data(), bytes.data() + at, N);
    return out;
}
template <std::size_t N>
void put_octets(std::vector<std::byte>& bytes, std::size_t at, const std::array<std::uint8_t, N>& value) {
    std::memcpy(bytes.data() + at, value.data(), N);
}

// RFC 1071, over an even or odd number of bytes.
std::uint32_t sum16(std::span<const std::byte> bytes, std::uint32_t sum) {
    std::size_t i = 0;
    for (; i + 1 < bytes.size(); i += 2) sum += be16(bytes, i);
    if (i < bytes.size()) sum += std::uint32_t{byte_at(bytes, i)} << 8U;
    return sum;
}
std::uint16_t fold(std::uint32_t sum) {
    while ((sum >> 16U) != 0) sum = (sum & 0xffffU) + (sum >> 16U);
    return static_cast<std::uint16_t>(~sum);
}

// a before b, modulo 2^32 (RFC 9293, section 3.4).
bool before(std::uint32_t a, std::uint32_t b) {
    return static_cast<std::int32_t>(a - b) < 0;
}

std::uint32_t random_sequence() {
    std::array<std::byte, 4> bytes = {};
    fill_random(bytes);
    return be32(bytes, 0);
}

}  // namespace

bool Stack::wants(std::span<const std::byte> head) const {
    if (head.size() < ethernet_bytes) return false;
    const Ipv4 address = service_->address();
    if (be16(head, 12) == ether_arp)
        return head.size() >= ethernet_bytes + arp_bytes && octets<4>(head, ethernet_bytes + 24) == address;
    return be16(head, 12) == ether_ipv4 && head.size() >= ethernet_bytes + ipv4_bytes &&
           octets<4>(head, ethernet_bytes + 16) == address;
}

void Stack::queue_frame(std::vector<std::byte> frame) {
    if (frames_.size() < most_frames) {
        frames_.push_back(std::move(frame));
    } else {
        service_->metrics.tx_errors.add();
    }
}

void Stack::receive(std::span<const std::byte> frame, std::int64_t now_ns) {
    now_ns_ = now_ns;
    if (!wants(frame)) {
        service_->metrics.rx_bad_eth.add();
        return;
    }
    service_->metrics.rx_accepted.add();
    if (be16(frame, 12) == ether_arp) {
        receive_arp(frame);
        return;
    }
    // IPv4 (RFC 791): no fragments, the header proven against what is there. Checksums are not looked at: the bytes
    // come from memory, and drivers leave them unfinished.
    const auto packet = frame.subspan(ethernet_bytes);
    const std::size_t header = std::size_t{byte_at(packet, 0) & 0xfU} * 4;
    std::size_t total = be16(packet, 2);
    if (byte_at(packet, 0) >> 4U != 4 || header < ipv4_bytes || byte_at(packet, 9) != protocol_tcp ||
        (be16(packet, 6) & 0x3fffU) != 0 || total > packet.size() || total < header + tcp_bytes) {
        service_->metrics.rx_accepted_err.add();
        return;
    }
    const auto tcp = packet.subspan(header, total - header);
    const std::size_t tcp_header = std::size_t{static_cast<unsigned>(byte_at(tcp, 12)) >> 4U} * 4;
    if (tcp_header < tcp_bytes || tcp_header > tcp.size()) {
        service_->metrics.rx_accepted_err.add();
        return;
    }
    Segment segment;
    segment.peer = {octets<4>(packet, 12), be16(tcp, 0)};
    segment.mac = octets<6>(frame, 6);
    segment.sequence = be32(tcp, 4);
    segment.acknowledgement = be32(tcp, 8);
    segment.flags = byte_at(tcp, 13);
    segment.window = be16(tcp, 14);
    for (std::size_t at = tcp_bytes; at < tcp_header;) {  // options
        const std::uint8_t kind = byte_at(tcp, at);
        if (kind == 0) break;
        if (kind == 1) {
            ++at;
            continue;
        }
        if (at + 1 >= tcp_header) break;
        const std::size_t length = byte_at(tcp, at + 1);
        if (length < 2 || at + length > tcp_header) break;
        if (kind == 2 && length == 4) segment.largest_segment = be16(tcp, at + 2);
        at += length;
    }
    const auto payload = tcp.subspan(tcp_header);
    // SAFETY: bytes as characters.
    segment.payload = {reinterpret_cast<const char*>(payload.data()), payload.size()};
    if (be16(tcp, 2) != http_port) {
        refuse(segment);
        return;
    }
    receive_tcp(segment, now_ns);
}

void Stack::receive_arp(std::span<const std::byte> frame) {
    constexpr std::uint16_t request = 1, reply = 2;
    const auto arp = frame.subspan(ethernet_bytes);
    if (be16(arp, 0) != 1 || be16(arp, 2) != ether_ipv4 || be16(arp, 4) != 0x0604 || be16(arp, 6) != request) {
        service_->metrics.rx_accepted_unusual.add();
        return;
    }
    std::vector<std::byte> out(ethernet_bytes + arp_bytes);
    put_octets(out, 0, octets<6>(arp, 8));
    put_octets(out, 6, our_mac);
    put16(out, 12, ether_arp);
    std::copy_n(arp.begin(), 6, out.begin() + ethernet_bytes);
    put16(out, ethernet_bytes + 6, reply);
    put_octets(out, ethernet_bytes + 8, our_mac);
    put_octets(out, ethernet_bytes + 14, service_->address());
    put_octets(out, ethernet_bytes + 18, octets<6>(arp, 8));
    put_octets(out, ethernet_bytes + 24, octets<4>(arp, 14));
    queue_frame(std::move(out));
}

std::vector<std::byte> Stack::make_segment(const Peer& peer, const Mac& mac, std::uint32_t sequence,
                                           std::uint32_t acknowledgement, std::uint8_t flags,
                                           std::string_view payload) {
    const std::size_t options = (flags & syn) != 0 ? 4 : 0;
    const std::size_t tcp_length = tcp_bytes + options + payload.size();
    std::vector<std::byte> out(ethernet_bytes + ipv4_bytes + tcp_length);
    const Ipv4 address = service_->address();
    put_octets(out, 0, mac);
    put_octets(out, 6, our_mac);
    put16(out, 12, ether_ipv4);
    constexpr std::size_t ip = ethernet_bytes, tcp = ethernet_bytes + ipv4_bytes;
    out[ip] = std::byte{0x45};
    put16(out, ip + 2, static_cast<std::uint32_t>(ipv4_bytes + tcp_length));
    put16(out, ip + 6, 0x4000);  // do not fragment
    out[ip + 8] = std::byte{1};  // never beyond the link
    out[ip + 9] = std::byte{protocol_tcp};
    put_octets(out, ip + 12, address);
    put_octets(out, ip + 16, peer.address);
    const auto view = std::span<const std::byte>(out);
    put16(out, ip + 10, fold(sum16(view.subspan(ip, ipv4_bytes), 0)));
    put16(out, tcp, http_port);
    put16(out, tcp + 2, peer.port);
    put32(out, tcp + 4, sequence);
    put32(out, tcp + 8, acknowledgement);
    out[tcp + 12] = static_cast<std::byte>((tcp_bytes + options) / 4 << 4U);
    out[tcp + 13] = std::byte{flags};
    put16(out, tcp + 14, our_window);
    if (options != 0) put32(out, tcp + tcp_bytes, (2U << 24U) | (4U << 16U) | our_largest_segment);
    if (!payload.empty()) std::memcpy(out.data() + tcp + tcp_bytes + options, payload.data(), payload.size());
    // The pseudo-header of RFC 9293, section 3.1.
    std::uint32_t sum = sum16(view.subspan(ip + 12, 8), 0) + protocol_tcp + static_cast<std::uint32_t>(tcp_length);
    put16(out, tcp + 16, fold(sum16(view.subspan(tcp, tcp_length), sum)));
    return out;
}

// A reset that the peer will believe (RFC 9293, section 3.5.2).
void Stack::refuse(const Segment& segment) {
    if ((segment.flags & rst) != 0) return;
    if ((segment.flags & ack) != 0) {
        queue_frame(make_segment(segment.peer, segment.mac, segment.acknowledgement, 0, rst, {}));
        return;
    }
    const auto length = static_cast<std::uint32_t>(segment.payload.size()) + ((segment.flags & syn) != 0 ? 1U : 0U) +
                        ((segment.flags & fin) != 0 ? 1U : 0U);
    queue_frame(make_segment(segment.peer, segment.mac, 0, segment.sequence + length, rst | ack, {}));
}

void Stack::forget(const Peer& peer) {
    if (connections_.erase(peer) > 0) service_->metrics.connections_destroyed.add();
}

void Stack::open(const Segment& segment, std::int64_t now_ns) {
    if (connections_.size() >= most_connections) {
        // The one that was silent for longest makes room.
        const auto oldest =
            std::ranges::min_element(connections_, {}, [](const auto& entry) { return entry.second.last_heard_ns; });
        forget(Peer(oldest->first));
    }
    Connection connection;
    connection.mac = segment.mac;
    connection.first_sequence = random_sequence();
    connection.send_base = connection.send_next = connection.first_sequence;
    connection.receive_next = segment.sequence + 1;
    connection.peer_window = segment.window;
    connection.segment_bytes = std::clamp<std::size_t>(segment.largest_segment.value_or(536), 64, our_largest_segment);
    connection.last_heard_ns = now_ns;
    connections_.insert_or_assign(segment.peer, std::move(connection));
    service_->metrics.connections_created.add();
}

void Stack::receive_tcp(const Segment& segment, std::int64_t now_ns) {
    const auto found = connections_.find(segment.peer);
    if ((segment.flags & syn) != 0) {
        if ((segment.flags & (ack | rst | fin)) != 0) {
            refuse(segment);
        } else if (found == connections_.end() || found->second.established) {
            open(segment, now_ns);  // a peer that starts over forgot the old connection
        } else {
            found->second.send_next = found->second.send_base;  // our SYN was lost
        }
        return;
    }
    if (found == connections_.end()) {
        refuse(segment);
        return;
    }
    Connection& connection = found->second;
    if ((segment.flags & rst) != 0) {
        if (segment.sequence == connection.receive_next) forget(segment.peer);
        return;
    }
    if ((segment.flags & ack) == 0) return;
    connection.last_heard_ns = now_ns;
    take_acknowledgement(connection, segment, now_ns);
    if (!connection.established) return;
    take_payload(connection, segment, now_ns);
    const bool all_sent = connection.fin_sent && !connection.in_flight();
    if (all_sent && connection.peer_closed && !connection.must_acknowledge) forget(segment.peer);
}

void Stack::take_acknowledgement(Connection& connection, const Segment& segment, std::int64_t now_ns) {
    connection.peer_window = segment.window;
    const std::uint32_t to = segment.acknowledgement;
    if (before(connection.send_next, to) || !before(connection.send_base, to)) return;
    std::uint32_t newly = to - connection.send_base;
    if (!connection.established) {  // of our SYN
        connection.established = true;
        --newly;
    }
    const auto data = std::min<std::size_t>(newly, connection.data.size());
    connection.data.erase(0, data);
    connection.send_base = to;
    connection.retries = 0;
    connection.deadline_ns = now_ns + retransmission_ns;
}

void Stack::take_payload(Connection& connection, const Segment& segment, std::int64_t now_ns) {
    const bool has_fin = (segment.flags & fin) != 0;
    if (segment.payload.empty() && !has_fin) return;
    connection.must_acknowledge = true;
    if (segment.sequence != connection.receive_next || connection.peer_closed) return;  // an old or a later one
    connection.receive_next += static_cast<std::uint32_t>(segment.payload.size());
    if (has_fin) {
        ++connection.receive_next;
        connection.peer_closed = true;
    }
    connection.parser.feed(segment.payload);
    while (!connection.close_after_data) {
        auto request = connection.parser.next();
        if (!request) {
            const int status = request.error().code() == Code::resource_exhausted ? 413 : 400;
            connection.data += to_bytes(
                {.status = status, .content_type = "text/plain", .body = request.error().message(), .headers = {}},
                false);
            connection.close_after_data = true;
        } else if (!*request) {
            break;
        } else {
            const bool keep_alive = (*request)->keep_alive && !connection.peer_closed;
            connection.data += to_bytes(service_->respond(**request, now_ns), keep_alive);
            // A guest that asks and does not read gets no more.
            if (!keep_alive || connection.data.size() > most_data) connection.close_after_data = true;
        }
    }
    if (connection.peer_closed) connection.close_after_data = true;
}

bool Stack::Connection::wants_to_send() const {
    if (must_acknowledge) return true;
    if (!established) return !in_flight();
    const std::uint32_t sent = send_next - send_base;
    if (sent < data.size() && sent < peer_window) return true;
    return close_after_data && !fin_sent && sent == data.size();
}

bool Stack::has_output() const {
    return !frames_.empty() ||
           std::ranges::any_of(connections_, [](const auto& entry) { return entry.second.wants_to_send(); });
}

std::vector<std::byte> Stack::next_segment(const Peer& peer, Connection& connection) {
    if (!connection.in_flight()) connection.deadline_ns = now_ns_ + retransmission_ns;
    connection.must_acknowledge = false;
    if (!connection.established) {
        connection.send_next = connection.send_base + 1;
        return make_segment(peer, connection.mac, connection.send_base, connection.receive_next, syn | ack, {});
    }
    const std::uint32_t sent = connection.send_next - connection.send_base;
    const std::uint32_t sequence = connection.send_next;
    std::string_view payload;
    if (sent < connection.data.size() && sent < connection.peer_window)
        payload = std::string_view(connection.data)
                      .substr(sent, std::min<std::size_t>(connection.segment_bytes, connection.peer_window - sent));
    connection.send_next += static_cast<std::uint32_t>(payload.size());
    std::uint8_t flags = ack;
    if (!payload.empty()) flags |= psh;
    if (connection.close_after_data && !connection.fin_sent &&
        connection.send_next - connection.send_base == connection.data.size()) {
        flags |= fin;
        ++connection.send_next;
        connection.fin_sent = true;
    }
    return make_segment(peer, connection.mac, sequence, connection.receive_next, flags, payload);
}

std::vector<std::byte> Stack::take_output() {
    std::vector<std::byte> frame;
    if (!frames_.empty()) {
        frame = std::move(frames_.front());
        frames_.pop_front();
    } else {
        for (auto& [peer, connection] : connections_) {
            if (!connection.wants_to_send()) continue;
            frame = next_segment(peer, connection);
            if (connection.fin_sent && connection.peer_closed && !connection.in_flight()) forget(Peer(peer));
            break;
        }
    }
    service_->metrics.tx_frames.add();
    service_->metrics.tx_count.add();
    service_->metrics.tx_bytes.add(frame.size());
    return frame;
}

void Stack::tick(std::int64_t now_ns) {
    now_ns_ = now_ns;
    std::vector<Peer> dead;
    for (auto& [peer, connection] : connections_) {
        if (now_ns - connection.last_heard_ns > idle_ns) {
            dead.push_back(peer);
        } else if (connection.in_flight() && now_ns >= connection.deadline_ns) {
            if (++connection.retries > most_retries) {
                dead.push_back(peer);
                continue;
            }
            connection.send_next = connection.send_base;
            connection.fin_sent = false;
            connection.deadline_ns = now_ns + retransmission_ns;
        }
    }
    for (const Peer& peer : dead) forget(peer);
}

std::optional<std::chrono::nanoseconds> Stack::next_timeout(std::int64_t now_ns) const {
    std::optional<std::int64_t> earliest;
    for (const auto& [peer, connection] : connections_) {
        std::int64_t at = connection.last_heard_ns + idle_ns + 1;
        if (connection.in_flight()) at = std::min(at, connection.deadline_ns);
        earliest = std::min(earliest.value_or(at), at);
    }
    if (!earliest) return std::nullopt;
    return std::chrono::nanoseconds(std::max<std::int64_t>(*earliest - now_ns, 1'000'000));
}

}  // namespace wherry::vmm::mmds
