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
#include <cstring>
#include <functional>
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

inline Fd socket_in(const Fd& netns, int type) {
    Fd socket;
    in(netns, [&] { socket.reset(::socket(AF_INET, type | SOCK_CLOEXEC, 0)); });
    return socket;
}

inline sockaddr_in name_of(const std::string& address, std::uint16_t port) {
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_port = htons(port);
    ::inet_pton(AF_INET, address.c_str(), &name.sin_addr);
    return name;
}

inline std::string text_of(const sockaddr_in& name) {
    std::array<char, INET_ADDRSTRLEN> text{};
    ::inet_ntop(AF_INET, &name.sin_addr, text.data(), text.size());
    return text.data();
}

template <class Name>
sockaddr* raw(Name& name) {
    // SAFETY: the sockets API takes every address family through sockaddr.
    return reinterpret_cast<sockaddr*>(&name);
}

// Answers each TCP connection or UDP datagram with its label and the address it came from: "label 192.0.2.1".
class Responder {
  public:
    Responder(const Fd& netns, int type, std::uint16_t port, std::string label, const std::string& address = "0.0.0.0")
        : type_(type), label_(std::move(label)), socket_(socket_in(netns, type)) {
        int on = 1;
        ::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        sockaddr_in name = name_of(address, port);
        EXPECT_EQ(::bind(socket_.get(), raw(name), sizeof name), 0) << std::strerror(errno);
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
            sockaddr_in peer{};
            socklen_t length = sizeof peer;
            if (type_ == SOCK_STREAM) {
                Fd connection(::accept4(socket_.get(), raw(peer), &length, SOCK_CLOEXEC));
                std::string answer = label_ + " " + text_of(peer);
                static_cast<void>(::send(connection.get(), answer.data(), answer.size(), MSG_NOSIGNAL));
            } else {
                std::array<char, 64> buffer{};
                if (::recvfrom(socket_.get(), buffer.data(), buffer.size(), 0, raw(peer), &length) < 0) continue;
                std::string answer = label_ + " " + text_of(peer);
                ::sendto(socket_.get(), answer.data(), answer.size(), 0, raw(peer), length);
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
inline std::string ask(const Fd& from, int type, const std::string& address, std::uint16_t port, int timeout_ms = 300,
                       const std::string& source = {}) {
    Fd socket = socket_in(from, type | SOCK_NONBLOCK);
    if (!source.empty()) {
        sockaddr_in own = name_of(source, 0);
        if (::bind(socket.get(), raw(own), sizeof own) < 0) return std::strerror(errno);
    }
    sockaddr_in name = name_of(address, port);
    if (::connect(socket.get(), raw(name), sizeof name) < 0 && errno != EINPROGRESS)
        return errno == ECONNREFUSED ? "refused" : std::strerror(errno);
    if (type == SOCK_DGRAM && ::send(socket.get(), "?", 1, 0) < 0) return std::strerror(errno);
    pollfd ready{socket.get(), POLLIN, 0};
    if (::poll(&ready, 1, timeout_ms) == 0) return "timeout";
    std::array<char, 128> buffer{};
    ssize_t got = ::recv(socket.get(), buffer.data(), buffer.size(), 0);
    if (got < 0) return errno == ECONNREFUSED ? "refused" : std::strerror(errno);
    return std::string(buffer.data(), static_cast<std::size_t>(got));
}

// A host at 198.51.100.1 and a neighbour at 198.51.100.2, on one wire.
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
            set_up("198.51.100.1");
        });
        in(neighbour, [&] { set_up("198.51.100.2"); });
    }

  private:
    static void set_up(const std::string& address) {
        auto socket = NetlinkSocket::open();
        ASSERT_TRUE(socket);
        auto link = socket->link("uplink");
        ASSERT_TRUE(link);
        NetlinkSocket::InterfaceSetup setup;
        setup.index = link->index;
        setup.addresses.push_back({*IpAddress::parse(address), 24});
        ASSERT_TRUE(socket->set_up_interface(setup));
    }
};

}  // namespace wherry::net::test
