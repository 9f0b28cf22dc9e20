#include "net/port_book.hpp"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace wherry::net {

namespace {

// Beyond so many ports sockets are only tried, not kept: descriptors are scarcer than ports.
constexpr std::size_t kept_sockets_limit = 4096;

std::string endpoint_text(const IpAddress& address, std::uint16_t port) {
    std::string host = address.is_ipv6() ? "[" + address.to_string() + "]" : address.to_string();
    return host + ":" + std::to_string(port);
}

int bind_to(int socket, const IpAddress& address, std::uint16_t port) {
    if (address.is_ipv6()) {
        sockaddr_in6 name{};
        name.sin6_family = AF_INET6;
        name.sin6_port = htons(port);
        std::memcpy(&name.sin6_addr, address.bytes().data(), sizeof name.sin6_addr);
        int on = 1;
        ::setsockopt(socket, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
        // SAFETY: the sockets API takes every address family through sockaddr.
        return ::bind(socket, reinterpret_cast<const sockaddr*>(&name), sizeof name);
    }
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_port = htons(port);
    name.sin_addr.s_addr = htonl(address.ipv4_value());
    // SAFETY: as above.
    return ::bind(socket, reinterpret_cast<const sockaddr*>(&name), sizeof name);
}

// A socket bound to the port. Never listening: who reaches it without our rules gets a refusal, not silence.
Result<Fd> bind_port(Protocol protocol, const IpAddress& address, std::uint16_t port) {
    // SCTP needs a module that most hosts lack: the book alone guards it.
    if (protocol == Protocol::sctp) return Fd();
    int family = address.is_ipv6() ? AF_INET6 : AF_INET;
    int type = (protocol == Protocol::tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC;
    Fd socket(::socket(family, type, 0));
    if (!socket) return fail_errno("socket");
    if (protocol == Protocol::udp) {
        int small = 1;
        ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    }
    if (bind_to(socket.get(), address, port) == 0) return socket;
    int error = errno;
    if (error == EADDRINUSE && protocol == Protocol::tcp) {
        // Perhaps only connections in TIME_WAIT, left by a server that has ended: with SO_REUSEADDR they are no
        // obstacle, while listen() still refuses when a listener is there.
        int on = 1;
        socket.reset(::socket(family, type, 0));
        if (!socket) return fail_errno("socket");
        ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind_to(socket.get(), address, port) == 0 && ::listen(socket.get(), 1) == 0) {
            // Bound and listening proves it free; a fresh socket that does not listen takes its place.
            Fd quiet(::socket(family, type, 0));
            if (!quiet) return fail_errno("socket");
            ::setsockopt(quiet.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
            socket.reset();
            if (bind_to(quiet.get(), address, port) == 0) return quiet;
        }
    }
    std::string what =
        "failed to bind host port " + endpoint_text(address, port) + "/" + std::string(to_string(protocol));
    switch (error) {
        case EADDRINUSE:
            return fail(Code::conflict, what + ": address already in use", error);
        case EADDRNOTAVAIL:
            return fail(Code::invalid_argument, what + ": cannot assign requested address", error);
        case EACCES:
            return fail(Code::permission_denied, what + ": permission denied", error);
        default:
            return fail_errno(error, what);
    }
}

// The ports the kernel itself gives to outgoing connections (net.ipv4.ip_local_port_range).
PortRange ephemeral_ports() {
    PortRange range{32768, 60999};
    auto text = read_file("/proc/sys/net/ipv4/ip_local_port_range", 128);
    if (!text) return range;
    PortRange read;
    const char* end = text->data() + text->size();
    auto first = std::from_chars(text->data(), end, read.first);
    const char* next = first.ptr;
    while (next != end && (*next == '\t' || *next == ' ')) ++next;
    auto last = std::from_chars(next, end, read.last);
    if (first.ec == std::errc{} && last.ec == std::errc{} && read.first != 0 && read.first <= read.last) return read;
    return range;
}

}  // namespace

bool PortBook::taken(const Key& key) const {
    for (auto at = entries_.lower_bound(Key{key.protocol, key.port, {}}); at != entries_.end(); ++at) {
        const Key& other = at->first;
        if (other.protocol != key.protocol || other.port != key.port) break;
        if (other.address.family() == key.address.family() &&
            (other.address == key.address || other.address.is_any() || key.address.is_any()))
            return true;
    }
    return false;
}

Result<> PortBook::take(const std::string& sandbox_id, Protocol protocol, const IpAddress& address,
                        std::uint16_t port) {
    Key key{protocol, port, address};
    if (taken(key))
        return fail(Code::conflict, "Bind for " + endpoint_text(address, port) + " failed: port is already allocated");
    Fd socket = TRY(bind_port(protocol, address, port));
    if (entries_.size() >= kept_sockets_limit) socket.reset();
    entries_.emplace(key, Entry{sandbox_id, std::move(socket)});
    return {};
}

Result<std::uint16_t> PortBook::take_one_of(const std::string& sandbox_id, Protocol protocol,
                                            const std::vector<IpAddress>& addresses, PortRange range) {
    const bool any = range.first == 0;
    if (any) range = ephemeral_ports();
    // Ephemeral ports go round, so that one just freed rests for a while; a range given by the user is searched from
    // its start.
    std::uint32_t offset = any ? cursor_ % range.size() : 0;
    for (std::uint32_t step = 0; step < range.size(); ++step) {
        auto port = static_cast<std::uint16_t>(range.first + (offset + step) % range.size());
        std::size_t done = 0;
        Result<> outcome{};
        for (; done < addresses.size(); ++done) {
            outcome = take(sandbox_id, protocol, addresses[done], port);
            if (!outcome) break;
        }
        if (outcome) {
            if (any) cursor_ = offset + step + 1;
            return port;
        }
        while (done-- > 0) give_back(protocol, addresses[done], port);
        // Only a port that is taken is a reason to try the next one.
        if (outcome.error().code() != Code::conflict || range.size() == 1)
            return std::unexpected(std::move(outcome).error());
    }
    return fail(Code::conflict, "failed to find a free port in " + std::to_string(range.first) + "-" +
                                    std::to_string(range.last) + ": all ports are allocated");
}

bool PortBook::adopt(const std::string& sandbox_id, Protocol protocol, const IpAddress& address, std::uint16_t port) {
    Key key{protocol, port, address};
    if (entries_.contains(key)) return true;
    auto socket = bind_port(protocol, address, port);
    bool held = socket.has_value();
    Fd kept;
    if (held && entries_.size() < kept_sockets_limit) kept = std::move(*socket);
    entries_.emplace(key, Entry{sandbox_id, std::move(kept)});
    return held;
}

void PortBook::give_back(Protocol protocol, const IpAddress& address, std::uint16_t port) {
    entries_.erase(Key{protocol, port, address});
}

}  // namespace wherry::net
