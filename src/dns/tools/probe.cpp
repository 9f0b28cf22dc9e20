#include "dns/tools/probe.hpp"

#include <linux/errqueue.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/clock.hpp"
#include "dns/message.hpp"
#include "dns/tools/probe_wire.hpp"

namespace wherry::dns::tools {

namespace {

std::uint16_t random_word() {
    std::uint16_t word = 0;
    if (::getrandom(&word, sizeof word, 0) != sizeof word) word = static_cast<std::uint16_t>(monotonic_ns());
    return word;
}

int icmp_protocol(int family) {
    return family == AF_INET ? int{IPPROTO_ICMP} : int{IPPROTO_ICMPV6};
}

Result<Fd> open_socket(int family, int type, int protocol) {
    Fd socket(::socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol));
    if (!socket) return fail_errno("socket");
    return socket;
}

Result<> set_option(const Fd& socket, int level, int option, int value, std::string_view what) {
    if (::setsockopt(socket.get(), level, option, &value, sizeof value) < 0) return fail_errno(what);
    return {};
}

Result<> set_hops(const Fd& socket, int family, unsigned hops) {
    return family == AF_INET
               ? set_option(socket, IPPROTO_IP, IP_TTL, static_cast<int>(hops), "IP_TTL")
               : set_option(socket, IPPROTO_IPV6, IPV6_UNICAST_HOPS, static_cast<int>(hops), "IPV6_UNICAST_HOPS");
}

// Errors about our packets, with the router's address; replies with their own TTL.
Result<> ask_for_details(const Fd& socket, int family, bool errors) {
    if (family == AF_INET) {
        if (errors) TRY(set_option(socket, IPPROTO_IP, IP_RECVERR, 1, "IP_RECVERR"));
        return set_option(socket, IPPROTO_IP, IP_RECVTTL, 1, "IP_RECVTTL");
    }
    if (errors) TRY(set_option(socket, IPPROTO_IPV6, IPV6_RECVERR, 1, "IPV6_RECVERR"));
    return set_option(socket, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1, "IPV6_RECVHOPLIMIT");
}

// The address this host would send from to the target.
Result<SocketAddress> source_for(const SocketAddress& target) {
    Fd socket = TRY(open_socket(target.family(), SOCK_DGRAM, 0));
    if (::connect(socket.get(), target.raw(), target.size) < 0) return fail_errno(target.host());
    SocketAddress source;
    source.size = sizeof source.storage;
    // SAFETY: the generic socket address of getsockname(2).
    if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&source.storage), &source.size) < 0)
        return fail_errno("getsockname");
    return source;
}

// One datagram or queued error.
struct Received {
    std::vector<std::uint8_t> data;
    SocketAddress from;
    int hops_left = -1;
    bool queued_error = false;
    unsigned type = 0;
    unsigned code = 0;
};

std::optional<Received> receive_one(int socket, int flags) {
    std::array<std::uint8_t, 2048> buffer{};
    alignas(cmsghdr) std::array<char, 512> control{};
    Received received;
    iovec vector{.iov_base = buffer.data(), .iov_len = buffer.size()};
    msghdr header{};
    header.msg_name = &received.from.storage;
    header.msg_namelen = sizeof received.from.storage;
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    ssize_t count = ::recvmsg(socket, &header, flags | MSG_DONTWAIT);
    if (count < 0) return std::nullopt;
    received.from.size = header.msg_namelen;
    received.data.assign(buffer.begin(), buffer.begin() + count);
    for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr; item = CMSG_NXTHDR(&header, item)) {
        bool v4 = item->cmsg_level == IPPROTO_IP;
        if ((v4 && item->cmsg_type == IP_TTL) ||
            (item->cmsg_level == IPPROTO_IPV6 && item->cmsg_type == IPV6_HOPLIMIT)) {
            std::memcpy(&received.hops_left, CMSG_DATA(item), sizeof received.hops_left);
        } else if ((v4 && item->cmsg_type == IP_RECVERR) ||
                   (item->cmsg_level == IPPROTO_IPV6 && item->cmsg_type == IPV6_RECVERR)) {
            sock_extended_err error{};
            std::memcpy(&error, CMSG_DATA(item), sizeof error);
            if (error.ee_origin != SO_EE_ORIGIN_ICMP && error.ee_origin != SO_EE_ORIGIN_ICMP6) continue;
            received.queued_error = true;
            received.type = error.ee_type;
            received.code = error.ee_code;
            // SAFETY: the kernel puts the offender's address behind the error (SO_EE_OFFENDER in linux/errqueue.h).
            const auto* offender = reinterpret_cast<const std::uint8_t*>(CMSG_DATA(item)) + sizeof error;
            std::size_t size = v4 ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
            received.from = {};
            std::memcpy(&received.from.storage, offender, size);
            received.from.size = static_cast<socklen_t>(size);
        }
    }
    return received;
}

ProbeReply reply_of(ProbeReply::Kind kind, int sequence, const Received& received) {
    ProbeReply reply{.kind = kind,
                     .sequence = sequence,
                     .from = received.from,
                     .code = static_cast<int>(received.code),
                     .hops_left = received.hops_left,
                     .time = monotonic_ns()};
    reply.from.set_port(0);
    return reply;
}

int word_at(std::span<const std::uint8_t> data, std::size_t at) {
    return at + 2 <= data.size() ? load_u16(data.data() + at) : -1;
}

class UdpProber final : public Prober {
  public:
    static Result<std::unique_ptr<Prober>> open(SocketAddress target, const ProbeOptions& options) {
        auto prober = std::make_unique<UdpProber>();
        target.set_port(options.port != 0 ? options.port : 33434);
        prober->family_ = target.family();
        prober->payload_.assign(std::max<std::size_t>(options.data_bytes, 4), 0x40);
        prober->socket_ = TRY(open_socket(target.family(), SOCK_DGRAM, 0));
        TRY(ask_for_details(prober->socket_, prober->family_, true));
        if (::connect(prober->socket_.get(), target.raw(), target.size) < 0) return fail_errno(target.host());
        return prober;
    }

    Result<> send(unsigned hops, std::uint16_t sequence) override {
        TRY(set_hops(socket_, family_, hops));
        store_u16(payload_.data(), sequence);
        // An error of an earlier probe is reported by the next call, which then does nothing: the queue has it too.
        for (int attempt = 0; attempt < 8; ++attempt) {
            if (::send(socket_.get(), payload_.data(), payload_.size(), MSG_NOSIGNAL) >= 0) return {};
            if (errno != EHOSTUNREACH && errno != ECONNREFUSED && errno != ENETUNREACH && errno != EACCES &&
                errno != EINTR)
                break;
        }
        return fail_errno("send");
    }

    void receive(const OnReply& on_reply) override {
        while (auto received = receive_one(socket_.get(), MSG_ERRQUEUE)) {
            if (!received->queued_error) continue;
            if (auto kind = icmp_meaning(family_, received->type, received->code, ProbeProtocol::udp))
                on_reply(reply_of(*kind, word_at(received->data, 0), *received));
        }
        // Data from the target's port. An error that is pending comes first and is taken by the call.
        for (int attempt = 0; attempt < 16; ++attempt) {
            auto received = receive_one(socket_.get(), 0);
            if (received)
                on_reply(reply_of(ProbeReply::Kind::reached, -1, *received));
            else if (errno == EAGAIN)
                break;
        }
    }

    std::vector<int> descriptors() const override { return {socket_.get()}; }

  private:
    Fd socket_;
    int family_ = 0;
    std::vector<std::uint8_t> payload_;
};

class IcmpProber final : public Prober {
  public:
    static Result<std::unique_ptr<Prober>> open(const SocketAddress& target, const ProbeOptions& options) {
        auto prober = std::make_unique<IcmpProber>();
        prober->target_ = target;
        prober->target_.set_port(0);
        prober->family_ = target.family();
        prober->data_bytes_ = options.data_bytes;
        int protocol = icmp_protocol(target.family());
        if (auto ping_socket = open_socket(target.family(), SOCK_DGRAM, protocol)) {
            prober->socket_ = std::move(*ping_socket);
            TRY(ask_for_details(prober->socket_, prober->family_, true));
            if (::connect(prober->socket_.get(), prober->target_.raw(), target.size) < 0)
                return fail_errno(target.host());
            return prober;
        }
        if (!options.allow_raw)
            return fail(Code::permission_denied, "ICMP is not allowed here (net.ipv4.ping_group_range)");
        auto raw = open_socket(target.family(), SOCK_RAW, protocol);
        if (!raw)
            return fail(Code::permission_denied,
                        "ICMP is not allowed here: neither is this group in net.ipv4.ping_group_range nor is there "
                        "CAP_NET_RAW");
        prober->raw_ = true;
        prober->socket_ = std::move(*raw);
        prober->identifier_ = random_word();
        TRY(ask_for_details(prober->socket_, prober->family_, false));
        (void)TRY(source_for(target));  // is there a route at all?
        return prober;
    }

    Result<> send(unsigned hops, std::uint16_t sequence) override {
        TRY(set_hops(socket_, family_, hops));
        auto packet = make_echo(family_, identifier_, sequence, data_bytes_);
        for (int attempt = 0; attempt < 8; ++attempt) {
            ssize_t sent =
                raw_ ? ::sendto(socket_.get(), packet.data(), packet.size(), MSG_NOSIGNAL, target_.raw(), target_.size)
                     : ::send(socket_.get(), packet.data(), packet.size(), MSG_NOSIGNAL);
            if (sent >= 0) return {};
            if (errno != EHOSTUNREACH && errno != ECONNREFUSED && errno != ENETUNREACH && errno != EINTR) break;
        }
        return fail_errno("send");
    }

    void receive(const OnReply& on_reply) override {
        if (!raw_)
            while (auto received = receive_one(socket_.get(), MSG_ERRQUEUE)) {
                if (!received->queued_error) continue;
                // The queue gives our message from its ICMP header on.
                if (auto kind = icmp_meaning(family_, received->type, received->code, ProbeProtocol::icmp))
                    on_reply(reply_of(*kind, word_at(received->data, 6), *received));
            }
        for (int attempt = 0; attempt < 256; ++attempt) {
            auto received = receive_one(socket_.get(), 0);
            if (!received && errno == EAGAIN) break;
            if (received) take(*received, on_reply);
        }
    }

    std::vector<int> descriptors() const override { return {socket_.get()}; }

  private:
    void take(Received& received, const OnReply& on_reply) const {
        std::span<const std::uint8_t> message = received.data;
        if (raw_ && family_ == AF_INET) message = ipv4_payload(message, IPPROTO_ICMP, received.hops_left);
        if (message.size() < 8) return;
        if (message[0] == (family_ == AF_INET ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY)) {
            if (raw_ && word_at(message, 4) != identifier_) return;
            on_reply(reply_of(ProbeReply::Kind::reached, word_at(message, 6), received));
        } else if (raw_) {
            auto kind = icmp_meaning(family_, message[0], message[1], ProbeProtocol::icmp);
            auto quoted = quoted_packet(family_, message, static_cast<unsigned>(icmp_protocol(family_)));
            // Only what quotes an echo request of ours to our target.
            if (!kind || !quoted || word_at(quoted->transport, 4) != identifier_ ||
                quoted->transport[0] != (family_ == AF_INET ? ICMP_ECHO : ICMP6_ECHO_REQUEST) ||
                quoted->destination.host() != target_.host())
                return;
            received.code = message[1];
            on_reply(reply_of(*kind, word_at(quoted->transport, 6), received));
        }
    }

    Fd socket_;
    SocketAddress target_;
    int family_ = 0;
    bool raw_ = false;
    std::uint16_t identifier_ = 0;
    std::size_t data_bytes_ = 0;
};

// SYNs by a raw socket; what comes back is seen by raw sockets too. The kernel itself resets what answers to a port it
// does not know, so nothing stays open at the target.
class TcpRawProber final : public Prober {
  public:
    static Result<std::unique_ptr<Prober>> open(SocketAddress target, const ProbeOptions& options) {
        auto prober = std::make_unique<TcpRawProber>();
        target.set_port(options.port != 0 ? options.port : 80);
        prober->family_ = target.family();
        prober->tcp_ = TRY(open_socket(target.family(), SOCK_RAW, IPPROTO_TCP));
        prober->icmp_ = TRY(open_socket(target.family(), SOCK_RAW, icmp_protocol(target.family())));
        prober->source_ = TRY(source_for(target));
        // A bound socket that never listens holds the port for us.
        prober->holder_ = TRY(open_socket(target.family(), SOCK_STREAM, 0));
        prober->source_.set_port(0);
        if (::bind(prober->holder_.get(), prober->source_.raw(), prober->source_.size) < 0) return fail_errno("bind");
        prober->source_.size = sizeof prober->source_.storage;
        // SAFETY: the generic socket address of getsockname(2).
        if (::getsockname(prober->holder_.get(), reinterpret_cast<sockaddr*>(&prober->source_.storage),
                          &prober->source_.size) < 0)
            return fail_errno("getsockname");
        TRY(ask_for_details(prober->tcp_, prober->family_, false));
        TRY(ask_for_details(prober->icmp_, prober->family_, false));
        prober->target_ = target;
        prober->high_ = random_word();
        return prober;
    }

    Result<> send(unsigned hops, std::uint16_t sequence) override {
        TRY(set_hops(tcp_, family_, hops));
        auto packet = make_syn(source_, target_, high_, sequence);
        SocketAddress to = target_;
        to.set_port(0);  // raw IPv6 sockets take the port for a protocol
        if (::sendto(tcp_.get(), packet.data(), packet.size(), MSG_NOSIGNAL, to.raw(), to.size) < 0)
            return fail_errno("send");
        return {};
    }

    void receive(const OnReply& on_reply) override {
        while (auto received = receive_one(tcp_.get(), 0)) {
            std::span<const std::uint8_t> segment = received->data;
            if (family_ == AF_INET) segment = ipv4_payload(segment, IPPROTO_TCP, received->hops_left);
            if (segment.size() < 20 || received->from.host() != target_.host()) continue;
            // SYN-ACK or RST with an acknowledgement of our SYN.
            bool acknowledges = (segment[13] & 0x10U) != 0 && (segment[13] & 0x06U) != 0;
            if (word_at(segment, 0) != target_.port() || word_at(segment, 2) != source_.port() || !acknowledges)
                continue;
            std::uint32_t acknowledged = load_u32(segment.data() + 8) - 1;
            if (acknowledged >> 16U != high_) continue;
            on_reply(reply_of(ProbeReply::Kind::reached, static_cast<int>(acknowledged & 0xFFFFU), *received));
        }
        while (auto received = receive_one(icmp_.get(), 0)) {
            std::span<const std::uint8_t> message = received->data;
            if (family_ == AF_INET) message = ipv4_payload(message, IPPROTO_ICMP, received->hops_left);
            if (message.size() < 8) continue;
            auto kind = icmp_meaning(family_, message[0], message[1], ProbeProtocol::tcp);
            auto quoted = quoted_packet(family_, message, IPPROTO_TCP);
            if (!kind || !quoted || quoted->destination.host() != target_.host() ||
                word_at(quoted->transport, 0) != source_.port() || word_at(quoted->transport, 2) != target_.port() ||
                word_at(quoted->transport, 4) != high_)
                continue;
            received->code = message[1];
            on_reply(reply_of(*kind, word_at(quoted->transport, 6), *received));
        }
    }

    std::vector<int> descriptors() const override { return {tcp_.get(), icmp_.get()}; }

  private:
    Fd tcp_;
    Fd icmp_;
    Fd holder_;
    SocketAddress source_;
    SocketAddress target_;
    int family_ = 0;
    std::uint16_t high_ = 0;
};

// Connections that hardly begin, one after the other from one port.
class TcpConnectProber final : public Prober {
  public:
    static Result<std::unique_ptr<Prober>> open(SocketAddress target, const ProbeOptions& options) {
        auto prober = std::make_unique<TcpConnectProber>();
        target.set_port(options.port != 0 ? options.port : 80);
        prober->target_ = target;
        prober->source_ = TRY(source_for(target));
        return prober;
    }

    Result<> send(unsigned hops, std::uint16_t sequence) override {
        const linger reset{.l_onoff = 1, .l_linger = 0};  // nothing of the last probe holds the port
        if (socket_) (void)::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        socket_ = TRY(open_socket(target_.family(), SOCK_STREAM, 0));
        TRY(set_option(socket_, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR"));
        TRY(ask_for_details(socket_, target_.family(), true));
        TRY(set_hops(socket_, target_.family(), hops));
        if (bound_) {
            if (::bind(socket_.get(), source_.raw(), source_.size) < 0) return fail_errno("bind");
        }
        sequence_ = sequence;
        if (::connect(socket_.get(), target_.raw(), target_.size) < 0 && errno != EINPROGRESS && errno != ECONNREFUSED)
            return fail_errno("connect");
        if (!bound_) {
            source_.size = sizeof source_.storage;
            // SAFETY: the generic socket address of getsockname(2).
            if (::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&source_.storage), &source_.size) == 0)
                bound_ = true;
        }
        return {};
    }

    void receive(const OnReply& on_reply) override {
        if (!socket_) return;
        pollfd ready{.fd = socket_.get(), .events = POLLOUT, .revents = 0};
        if (::poll(&ready, 1, 0) <= 0) return;
        Received last;
        last.from = target_;
        bool told = false;
        while (auto received = receive_one(socket_.get(), MSG_ERRQUEUE)) {
            if (!received->queued_error) continue;
            if (auto kind = icmp_meaning(target_.family(), received->type, received->code, ProbeProtocol::tcp)) {
                on_reply(reply_of(*kind, sequence_, *received));
                told = true;
            }
        }
        int problem = 0;
        socklen_t size = sizeof problem;
        if (::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &problem, &size) != 0) problem = errno;
        if (!told && (problem == 0 || problem == ECONNREFUSED)) {
            on_reply(reply_of(ProbeReply::Kind::reached, sequence_, last));
            told = true;
        }
        if (told) {
            const linger reset{.l_onoff = 1, .l_linger = 0};
            (void)::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
            socket_.reset();
        }
    }

    std::vector<int> descriptors() const override {
        return socket_ ? std::vector<int>{socket_.get()} : std::vector<int>{};
    }
    unsigned window() const override { return 1; }

  private:
    Fd socket_;
    SocketAddress source_;
    SocketAddress target_;
    bool bound_ = false;
    int sequence_ = 0;
};

}  // namespace

Result<std::unique_ptr<Prober>> Prober::open(ProbeProtocol protocol, const SocketAddress& target,
                                             const ProbeOptions& options) {
    if (protocol == ProbeProtocol::udp) return UdpProber::open(target, options);
    if (protocol == ProbeProtocol::icmp) return IcmpProber::open(target, options);
    if (options.allow_raw) {
        auto raw = TcpRawProber::open(target, options);
        if (raw || raw.error().code() != Code::permission_denied) return raw;
    }
    return TcpConnectProber::open(target, options);
}

}  // namespace wherry::dns::tools
