// Network namespaces for tests that need root: a host, a neighbour on its network, and sockets in any of them.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "net/netlink.hpp"
#include "net/netns.hpp"

namespace wherry::net::test {

inline bool can_make_namespaces() {
    return ::geteuid() == 0 && create_network_namespace().has_value();
}

// Runs `work` in the namespace; failures inside are failures of the test.
inline void in(const Fd& netns, const std::function<void()>& work) {
    auto outcome = run_in_network_namespace(netns.get(), [&]() -> Result<> {
        work();
        return {};
    });
    ASSERT_TRUE(outcome) << outcome.error().describe();
}

inline bool is_ipv6(const std::string& address) {
    return address.find(':') != std::string::npos;
}

inline Fd socket_in(const Fd& netns, int type, bool ipv6 = false) {
    Fd socket;
    in(netns, [&] { socket.reset(::socket(ipv6 ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC, 0)); });
    return socket;
}

// A socket address of either family.
struct Name {
    sockaddr_storage storage{};
    socklen_t length = sizeof storage;

    Name() = default;
    Name(const std::string& address, std::uint16_t port) {
        if (is_ipv6(address)) {
            sockaddr_in6 name{};
            name.sin6_family = AF_INET6;
            name.sin6_port = htons(port);
            ::inet_pton(AF_INET6, address.c_str(), &name.sin6_addr);
            std::memcpy(&storage, &name, length = sizeof name);
        } else {
            sockaddr_in name{};
            name.sin_family = AF_INET;
            name.sin_port = htons(port);
            ::inet_pton(AF_INET, address.c_str(), &name.sin_addr);
            std::memcpy(&storage, &name, length = sizeof name);
        }
    }
    // SAFETY: the sockets API takes every address family through sockaddr.
    sockaddr* raw() { return reinterpret_cast<sockaddr*>(&storage); }
    std::string text() const {
        std::array<char, INET6_ADDRSTRLEN> buffer{};
        sockaddr_in name{};
        sockaddr_in6 name6{};
        std::memcpy(&name, &storage, sizeof name);
        std::memcpy(&name6, &storage, sizeof name6);
        if (storage.ss_family == AF_INET6) {
            ::inet_ntop(AF_INET6, &name6.sin6_addr, buffer.data(), buffer.size());
        } else {
            ::inet_ntop(AF_INET, &name.sin_addr, buffer.data(), buffer.size());
        }
        return buffer.data();
    }
};

// Answers each TCP connection or UDP datagram with its label and the address it came from: "label 192.0.2.1".
class Responder {
  public:
    Responder(const Fd& netns, int type, std::uint16_t port, std::string label, const std::string& address = "0.0.0.0")
        : type_(type), label_(std::move(label)), socket_(socket_in(netns, type, is_ipv6(address))) {
        int on = 1;
        ::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        Name name(address, port);
        EXPECT_EQ(::bind(socket_.get(), name.raw(), name.length), 0) << std::strerror(errno);
        if (type == SOCK_STREAM) EXPECT_EQ(::listen(socket_.get(), 64), 0);
        thread_ = std::thread([this] { serve(); });
    }
    ~Responder() {
        stop_ = true;
        thread_.join();
    }
    Responder(const Responder&) = delete;
    Responder& operator=(const Responder&) = delete;

  private:
    void serve() {
        while (!stop_) {
            pollfd ready{socket_.get(), POLLIN, 0};
            if (::poll(&ready, 1, 10) <= 0) continue;
            Name peer;
            if (type_ == SOCK_STREAM) {
                Fd connection(::accept4(socket_.get(), peer.raw(), &peer.length, SOCK_CLOEXEC));
                std::string answer = label_ + " " + peer.text();
                static_cast<void>(::send(connection.get(), answer.data(), answer.size(), MSG_NOSIGNAL));
            } else {
                std::array<char, 64> buffer{};
                if (::recvfrom(socket_.get(), buffer.data(), buffer.size(), 0, peer.raw(), &peer.length) < 0) continue;
                std::string answer = label_ + " " + peer.text();
                ::sendto(socket_.get(), answer.data(), answer.size(), 0, peer.raw(), peer.length);
            }
        }
    }

    int type_;
    std::string label_;
    Fd socket_;
    std::atomic<bool> stop_ = false;
    std::thread thread_;
};

// What a Responder there says, or "refused", "timeout", or another errno's text.
inline std::string ask(const Fd& from, int type, const std::string& address, std::uint16_t port, int timeout_ms = 3000,
                       const std::string& source = {}) {
    Fd socket = socket_in(from, type | SOCK_NONBLOCK, is_ipv6(address));
    if (!source.empty()) {
        Name own(source, 0);
        if (::bind(socket.get(), own.raw(), own.length) < 0) return std::strerror(errno);
    }
    Name name(address, port);
    if (::connect(socket.get(), name.raw(), name.length) < 0 && errno != EINPROGRESS)
        return errno == ECONNREFUSED ? "refused" : std::strerror(errno);
    if (type == SOCK_DGRAM && ::send(socket.get(), "?", 1, 0) < 0) return std::strerror(errno);
    pollfd ready{socket.get(), POLLIN, 0};
    if (::poll(&ready, 1, timeout_ms) == 0) return "timeout";
    std::array<char, 128> buffer{};
    ssize_t got = ::recv(socket.get(), buffer.data(), buffer.size(), 0);
    if (got < 0) return errno == ECONNREFUSED ? "refused" : std::strerror(errno);
    return std::string(buffer.data(), static_cast<std::size_t>(got));
}

inline std::string run(const std::string& command) {
    std::string output;
    std::unique_ptr<FILE, int (*)(FILE*)> pipe(
        ::popen(("PATH=$PATH:/usr/sbin:/sbin; " + command + " 2>&1").c_str(), "re"), &::pclose);
    std::array<char, 4096> buffer{};
    while (std::size_t got = std::fread(buffer.data(), 1, buffer.size(), pipe.get())) output.append(buffer.data(), got);
    return output;
}

inline bool have(const std::string& command) {
    for (const char* folder : {"/usr/sbin/", "/sbin/", "/usr/bin/"}) {
        if (path_exists(folder + command)) return true;
    }
    return false;
}

// Has the thread's namespace send what is for 127.0.0.1 to `gateway`, as no honest machine does.
inline void send_loopback_traffic_to(const std::string& gateway, const std::string& interface) {
    auto socket = NetlinkSocket::open();
    ASSERT_TRUE(socket);
    // Without its address the loopback no longer claims 127.0.0.0/8.
    static_cast<void>(socket->remove_address(1, {*IpAddress::parse("127.0.0.1"), 8}));
    ASSERT_TRUE(write_control_file("/proc/sys/net/ipv4/conf/" + interface + "/route_localnet", "1"));
    Route route;
    route.destination = {*IpAddress::parse("127.0.0.1"), 32};
    route.gateway = *IpAddress::parse(gateway);
    route.index = socket->link(interface)->index;
    auto outcome = socket->add_route(route);
    ASSERT_TRUE(outcome) << outcome.error().describe();
}

// A host at 198.51.100.1 and 2001:db8::1, a neighbour at 198.51.100.2 and 2001:db8::2, on one wire.
struct World {
    Fd host;
    Fd neighbour;

    World() {
        auto make = [] {
            auto netns = create_network_namespace();
            EXPECT_TRUE(netns) << netns.error().describe();
            return std::move(*netns);
        };
        host = make();
        neighbour = make();
        in(host, [&] {
            auto socket = NetlinkSocket::open();
            ASSERT_TRUE(socket);
            VethOptions wire;
            wire.name = "uplink";
            wire.peer_name = "uplink";
            wire.peer_netns = neighbour.get();
            ASSERT_TRUE(socket->create_veth(wire));
            set_up("198.51.100.1", "2001:db8::1", true);
        });
        // The neighbour keeps its loopback down, so that it can be made to send packets for 127.0.0.1 to the wire.
        in(neighbour, [&] { set_up("198.51.100.2", "2001:db8::2", false); });
    }

  private:
    static void set_up(const std::string& address, const std::string& address6, bool loopback) {
        auto socket = NetlinkSocket::open();
        ASSERT_TRUE(socket);
        auto link = socket->link("uplink");
        ASSERT_TRUE(link);
        NetlinkSocket::InterfaceSetup setup;
        setup.index = link->index;
        setup.loopback = loopback;
        setup.addresses.push_back({*IpAddress::parse(address), 24});
        setup.addresses.push_back({*IpAddress::parse(address6), 64});
        ASSERT_TRUE(socket->set_up_interface(setup));
    }
};

}  // namespace wherry::net::test
