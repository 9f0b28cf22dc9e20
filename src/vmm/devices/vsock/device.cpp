#include "vmm/devices/vsock/device.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "base/clock.hpp"

namespace wherry::vmm::vsock {
namespace {

constexpr std::array<std::uint16_t, 3> queue_sizes = {256, 256, 256};
constexpr std::size_t most_greetings = 64;
constexpr std::size_t greeting_bytes = 32;

}  // namespace

VsockDevice::VsockDevice(EventLoop& loop, const Config& config) : Device(loop, "vsock", queue_sizes), config_(config) {}

VsockDevice::~VsockDevice() {
    if (listener_) unlink(config_.uds_path.c_str());
}

Result<std::shared_ptr<VsockDevice>> VsockDevice::create(EventLoop& loop, const Config& config) {
    std::shared_ptr<VsockDevice> device(new VsockDevice(loop, config));
    VsockDevice& self = *device;
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (config.uds_path.empty() || config.uds_path.size() >= sizeof address.sun_path)
        return fail(Code::invalid_argument, "Cannot bind the vsock's socket: bad length of its path");
    std::memcpy(address.sun_path, config.uds_path.data(), config.uds_path.size());
    // SAFETY: makes a descriptor, owned at once.
    Fd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!listener) return fail_errno("vsock");
    // SAFETY: sockaddr_un is what a unix socket's sockaddr is.
    if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
        return fail_errno("Cannot bind the vsock's socket " + config.uds_path);
    self.listener_ = std::move(listener);
    if (listen(self.listener_.get(), 64) < 0) return fail_errno("vsock");
    self.listener_watch_ =
        TRY(self.watch(self.listener_.get(), EPOLLIN, [&self](std::uint32_t) { return self.accept_clients(); }));
    self.timer_ = TRY(self.make_timer([&self] { return self.sweep(); }));
    self.reset_timer_ = TRY(self.make_timer([&self]() -> Result<> {
        self.release_requests();
        return self.send_packets();
    }));
    return device;
}

std::vector<std::byte> VsockDevice::configuration() const {
    std::vector<std::byte> bytes(sizeof config_.guest_cid);
    std::memcpy(bytes.data(), &config_.guest_cid, sizeof config_.guest_cid);
    return bytes;
}

void VsockDevice::on_reset() {
    connections_.clear();
    greetings_.clear();
    resets_.clear();
    tx_stalled_ = false;
    timer_->disarm();
    reset_pending_ = false;
    reset_timer_->disarm();
}

Result<> VsockDevice::accept_clients() {
    for (;;) {
        // SAFETY: makes a descriptor, owned at once.
        Fd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!client) return {};
        // Before the guest's driver is there, nobody could answer.
        if (!working() || greetings_.size() >= most_greetings || connections_.size() >= most_connections) continue;
        const std::uint64_t id = next_greeting_++;
        Greeting greeting;
        greeting.watch =
            TRY(watch(client.get(), EPOLLIN | EPOLLRDHUP, [this, id](std::uint32_t) { return read_greeting(id); }));
        greeting.socket = std::move(client);
        greetings_.emplace(id, std::move(greeting));
    }
}

// "CONNECT <port>\n", byte by byte up to its end: what follows is the stream's.
Result<> VsockDevice::read_greeting(std::uint64_t id) {
    const auto found = greetings_.find(id);
    if (found == greetings_.end()) return {};
    Greeting& greeting = found->second;
    for (;;) {
        char c = 0;
        const ssize_t n = recv(greeting.socket.get(), &c, 1, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return {};
        if (n <= 0 || greeting.line.size() >= greeting_bytes) break;
        if (c != '\n') {
            greeting.line += c;
            continue;
        }
        constexpr std::string_view word = "CONNECT ";
        std::string_view line = greeting.line;
        while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
        std::uint32_t port = 0;
        if (line.size() <= word.size() || strncasecmp(line.data(), word.data(), word.size()) != 0) break;
        line.remove_prefix(word.size());
        const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), port);
        if (error != std::errc() || end != line.data() + line.size()) break;
        Fd socket = std::move(greeting.socket);
        greeting.watch.reset();
        greetings_.erase(found);
        return start_from_host(std::move(socket), port);
    }
    greeting.watch.reset();
    greetings_.erase(found);
    return {};
}

Result<> VsockDevice::start_from_host(Fd socket, std::uint32_t guest_port) {
    if (!working()) return {};
    PortPair ports{next_host_port_, guest_port};
    while (connections_.contains(ports)) ++ports.host;
    next_host_port_ = std::max(ports.host + 1, first_host_port);  // which may have wrapped around
    Connection connection(ports, std::move(socket), Connection::State::requested);
    connection.wants_request = true;
    connection.watch = TRY(watch(connection.socket.get(), EPOLLRDHUP,
                                 [this, ports](std::uint32_t events) { return socket_event(ports, events); }));
    connections_.emplace(ports, std::move(connection));
    metrics.conns_added.add();
    if (reset_pending_) return {};
    expect_answers();
    return send_packets();
}

void VsockDevice::expect_answers() {
    constexpr std::int64_t patience_ns = 2'000'000'000;
    for (auto& [ports, connection] : connections_)
        if (connection.wants_request && connection.dead_at_ns == 0)
            connection.dead_at_ns = monotonic_ns() + patience_ns;
    timer_->arm(std::chrono::nanoseconds(patience_ns));
}

}  // namespace wherry::vmm::vsock
