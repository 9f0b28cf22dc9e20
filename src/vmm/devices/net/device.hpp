// virtio-net (Virtio 1.2, section 5.1) on a tap interface: offloads both ways, mergeable receive buffers, several
// queue pairs. Packets for the metadata service never reach the tap.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/core/rate_limiter.hpp"
#include "vmm/devices/net/metrics.hpp"
#include "vmm/mmds/stack.hpp"
#include "vmm/virtio/device.hpp"

namespace wherry::vmm::net {

using MacAddress = std::array<std::uint8_t, 6>;
Result<MacAddress> parse_mac(std::string_view text);  // "06:00:ac:10:00:02"
std::string to_string(const MacAddress& mac);

// virtio_net_hdr_v1: before each frame, in the queues and on the tap.
constexpr std::uint64_t vnet_header_bytes = 12;

// The host's end: one descriptor a queue pair.
struct Tap {
    std::vector<Fd> queues;
    // Opens or makes the interface with vnet headers of 12 bytes.
    static Result<Tap> open(const std::string& name, std::uint16_t queues);
};

struct Config {
    std::string id;
    std::string host_dev_name;
    std::optional<MacAddress> guest_mac;
    std::optional<std::uint16_t> mtu;
    std::uint16_t queue_pairs = 1;
    RateLimiterConfig rx_limits;
    RateLimiterConfig tx_limits;
    bool has_mmds = false;
    std::shared_ptr<Tap> tap;  // opened when it was configured

    void fields(this auto& self, auto&& f) {
        f(self.id, self.host_dev_name, self.guest_mac, self.mtu, self.queue_pairs, self.rx_limits, self.tx_limits,
          self.has_mmds);
    }
};

struct State;

class NetDevice final : public Device {
  public:
    static constexpr std::uint16_t most_pairs = 8;

    // On config.tap, which any descriptors will do for (tests, fuzzing). `mmds` may be none.
    static Result<std::shared_ptr<NetDevice>> create(EventLoop& loop, const Config& config,
                                                     std::shared_ptr<mmds::Service> mmds);

    DeviceType type() const override { return DeviceType::net; }
    std::uint64_t offered_features() const override;
    std::vector<std::byte> configuration() const override;
    void change_limits(const RateLimiterConfig& rx, const RateLimiterConfig& tx);
    const Config& config() const { return config_; }

    State save();
    Result<> restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt);

    Metrics metrics;

  protected:
    Result<> on_activate() override;
    void on_reset() override;
    Result<> on_queue(std::uint16_t queue) override;

  private:
    // A queue pair: its tap descriptor, and the receive buffers taken from the guest but not filled yet.
    struct Pair {
        int tap = -1;
        Watch watch;
        struct Waiting {
            std::uint16_t head;
            std::uint64_t bytes;
        };
        std::deque<Waiting> waiting;
        GuestBuffers buffers;
        std::optional<std::size_t> deferred;  // a packet in `buffers` that waits for the rate limiter, in bytes
        bool starved = false;                 // the tap has packets and the guest no buffers
    };
    NetDevice(EventLoop& loop, const Config& config);
    Result<> set_offloads();
    // The host's kernel spreads packets over the first `count` queues of the tap.
    void use_pairs(std::uint16_t count);
    std::uint16_t control_queue() const;
    Result<> receive(std::uint16_t pair);
    Result<bool> take_receive_buffers(std::uint16_t pair);
    bool deliver(std::uint16_t pair, std::size_t bytes);
    Result<> deliver_mmds();
    Result<> transmit(std::uint16_t pair);
    bool transmit_one(std::uint16_t pair, GuestBuffers& packet);
    Result<> control();
    Result<> limiter_expired();

    Config config_;
    std::vector<Pair> pairs_;
    std::uint16_t active_pairs_ = 1;
    RateLimiter rx_limiter_, tx_limiter_;
    std::unique_ptr<Timer> rx_timer_, tx_timer_, mmds_timer_;
    bool tx_throttled_ = false;
    std::unique_ptr<mmds::Stack> mmds_;
    Chain chain_;
};

}  // namespace wherry::vmm::net
