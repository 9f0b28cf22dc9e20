#include "vmm/devices/net/device.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/clock.hpp"
#include "vmm/devices/net/wire.hpp"

namespace wherry::vmm::net {
namespace {

constexpr std::uint16_t queue_size = 256;

std::vector<std::uint16_t> queue_sizes(std::uint16_t pairs) {
    // Several pairs come with a control queue behind them.
    return std::vector<std::uint16_t>(pairs == 1 ? 2U : pairs * 2U + 1U, queue_size);
}

constexpr std::uint64_t bit(unsigned number) {
    return 1ULL << number;
}

}  // namespace

Result<MacAddress> parse_mac(std::string_view text) {
    MacAddress mac = {};
    const auto digit = [](char c) -> int {
        if (c >= '0' && c <= '9') return c - '0';
        if (c >= 'a' && c <= 'f') return c - 'a' + 10;
        if (c >= 'A' && c <= 'F') return c - 'A' + 10;
        return -1;
    };
    bool good = text.size() == 17;
    for (std::size_t i = 0; good && i < mac.size(); ++i) {
        const int high = digit(text[i * 3]), low = digit(text[i * 3 + 1]);
        good = high >= 0 && low >= 0 && (i == 5 || text[i * 3 + 2] == ':');
        if (good) mac[i] = static_cast<std::uint8_t>(high * 16 + low);
    }
    if (!good) return fail(Code::invalid_argument, fmt::format("invalid MAC address `{}`", text));
    return mac;
}

std::string to_string(const MacAddress& mac) {
    return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

Result<Tap> Tap::open(const std::string& name, std::uint16_t queues) {
    if (name.empty() || name.size() >= IFNAMSIZ) return fail(Code::invalid_argument, "Invalid interface name " + name);
    Tap tap;
    for (std::uint16_t i = 0; i < queues; ++i) {
        Fd fd = TRY(open_file("/dev/net/tun", O_RDWR | O_NONBLOCK), "tap");
        ifreq request = {};
        std::ranges::copy(name, request.ifr_name);
        request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (queues > 1 ? IFF_MULTI_QUEUE : 0));
        // SAFETY: reads and writes the structure; the name is terminated, checked above.
        if (ioctl(fd.get(), TUNSETIFF, &request) < 0) return fail_errno("Open tap device failed: " + name);
        int bytes = vnet_header_bytes;
        // SAFETY: reads one int.
        if (ioctl(fd.get(), TUNSETVNETHDRSZ, &bytes) < 0) return fail_errno("tap header size");
        tap.queues.push_back(std::move(fd));
    }
    return tap;
}

NetDevice::NetDevice(EventLoop& loop, const Config& config)
    : Device(loop, config.id, queue_sizes(config.queue_pairs)),
      config_(config),
      rx_limiter_(config.rx_limits, monotonic_ns()),
      tx_limiter_(config.tx_limits, monotonic_ns()) {}

Result<std::shared_ptr<NetDevice>> NetDevice::create(EventLoop& loop, const Config& config,
                                                     std::shared_ptr<mmds::Service> mmds) {
    std::shared_ptr<NetDevice> device(new NetDevice(loop, config));
    NetDevice& self = *device;
    self.pairs_.resize(config.queue_pairs);
    for (std::size_t i = 0; i < self.pairs_.size(); ++i) self.pairs_[i].tap = self.config_.tap->queues[i].get();
    self.rx_timer_ = TRY(self.make_timer([&self] { return self.limiter_expired(); }));
    self.tx_timer_ = TRY(self.make_timer([&self]() -> Result<> {
        self.tx_throttled_ = false;
        self.metrics.tx_rate_limiter_event_count.add();
        if (!self.working()) return {};
        for (std::uint16_t i = 0; i < self.active_pairs_; ++i) TRY(self.transmit(i));
        return {};
    }));
    if (mmds) {
        self.mmds_ = std::make_unique<mmds::Stack>(std::move(mmds));
        self.mmds_timer_ = TRY(self.make_timer([&self] { return self.working() ? self.deliver_mmds() : Result<>{}; }));
    }
    return device;
}

std::uint64_t NetDevice::offered_features() const {
    std::uint64_t features = feature_event_index | feature_indirect_descriptors | bit(feature_csum) |
                             bit(feature_guest_csum) | bit(feature_guest_tso4) | bit(feature_guest_tso6) |
                             bit(feature_guest_ufo) | bit(feature_host_tso4) | bit(feature_host_tso6) |
                             bit(feature_host_ufo) | bit(feature_mergeable);
    if (config_.guest_mac) features |= bit(feature_mac);
    if (config_.mtu) features |= bit(feature_mtu);
    if (config_.queue_pairs > 1) features |= bit(feature_multiqueue) | bit(feature_control);
    return features;
}

std::vector<std::byte> NetDevice::configuration() const {
    const ConfigurationSpace layout = {.mac = config_.guest_mac.value_or(MacAddress{}),
                                       .status = 0,
                                       .most_pairs = config_.queue_pairs,
                                       .mtu = config_.mtu.value_or(0)};
    std::vector<std::byte> bytes(sizeof layout);
    std::memcpy(bytes.data(), &layout, sizeof layout);
    return bytes;
}

std::uint16_t NetDevice::control_queue() const {
    return has_feature(feature_multiqueue) ? static_cast<std::uint16_t>(config_.queue_pairs * 2) : std::uint16_t{2};
}

// What the guest can take unfinished, the host's kernel leaves unfinished.
Result<> NetDevice::set_offloads() {
    unsigned offloads = 0;
    if (has_feature(feature_guest_csum)) offloads |= TUN_F_CSUM;
    if (has_feature(feature_guest_tso4)) offloads |= TUN_F_TSO4;
    if (has_feature(feature_guest_tso6)) offloads |= TUN_F_TSO6;
    if (has_feature(feature_guest_ufo)) offloads |= TUN_F_UFO;
    for (const Pair& pair : pairs_) {
        // SAFETY: takes a number. A descriptor that is no tap (a test's) refuses.
        if (ioctl(pair.tap, TUNSETOFFLOAD, offloads) == 0 || errno == ENOTTY) continue;
        // Newer kernels gave up UFO.
        // SAFETY: takes a number.
        if (errno == EINVAL && ioctl(pair.tap, TUNSETOFFLOAD, offloads & ~unsigned{TUN_F_UFO}) == 0) continue;
        return fail_errno("TUNSETOFFLOAD");
    }
    return {};
}

void NetDevice::use_pairs(std::uint16_t count) {
    active_pairs_ = count;
    if (pairs_.size() == 1) return;
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
        ifreq request = {};
        request.ifr_flags = i < count ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
        // SAFETY: reads the structure. A queue that is in that state already refuses, which changes nothing.
        ioctl(pairs_[i].tap, TUNSETQUEUE, &request);
    }
}

Result<> NetDevice::on_activate() {
    TRY(set_offloads());
    use_pairs(1);
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
        const auto index = static_cast<std::uint16_t>(i);
        // Edge-triggered: a guest without buffers must not make the loop spin.
        pairs_[i].watch = TRY(watch(pairs_[i].tap, EPOLLIN | EPOLLET, [this, index](std::uint32_t) -> Result<> {
            metrics.rx_tap_event_count.add();
            return working() ? receive(index) : Result<>{};
        }));
    }
    return {};
}

void NetDevice::on_reset() {
    rx_timer_->disarm();
    tx_timer_->disarm();
    if (mmds_timer_) mmds_timer_->disarm();
    tx_throttled_ = false;
    for (Pair& pair : pairs_) {
        pair.watch.reset();
        pair.waiting.clear();
        pair.buffers.clear();
        pair.deferred.reset();
        pair.starved = false;
    }
}

void NetDevice::change_limits(const RateLimiterConfig& rx, const RateLimiterConfig& tx) {
    run_locked([&] {
        rx_limiter_.update(rx, monotonic_ns());
        tx_limiter_.update(tx, monotonic_ns());
        config_.rx_limits = rx_limiter_.config();
        config_.tx_limits = tx_limiter_.config();
        rx_timer_->arm({});
        if (tx_throttled_) tx_timer_->arm({});
    });
}

Result<> NetDevice::limiter_expired() {
    metrics.rx_event_rate_limiter_count.add();
    if (!working()) return {};
    for (std::size_t i = 0; i < pairs_.size(); ++i) TRY(receive(static_cast<std::uint16_t>(i)));
    return {};
}

}  // namespace wherry::vmm::net
