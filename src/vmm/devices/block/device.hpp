// virtio-blk (Virtio 1.2, section 5.2) on a host file or block device: read, write, flush, discard, write zeroes.
// Two engines: synchronous on the device thread, or io_uring with a ring that may do nothing else.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/core/rate_limiter.hpp"
#include "vmm/devices/block/engine.hpp"
#include "vmm/devices/block/metrics.hpp"
#include "vmm/virtio/device.hpp"

namespace wherry::vmm::block {

enum class CacheType : unsigned char { unsafe, writeback };  // writeback: the guest's flushes reach the disk
enum class IoEngine : unsigned char { sync, async };
constexpr CacheType last_value(CacheType) {
    return CacheType::writeback;
}
constexpr IoEngine last_value(IoEngine) {
    return IoEngine::async;
}

// Of discard and write zeroes: 2 GiB a segment.
inline constexpr std::uint32_t largest_discard_sectors = 1U << 22U;
inline constexpr std::uint32_t largest_segments = 16;

struct Config {
    std::string id;
    std::string path;
    bool is_root = false;
    std::optional<std::string> partuuid;
    CacheType cache = CacheType::unsafe;
    bool is_read_only = false;
    IoEngine engine = IoEngine::sync;
    RateLimiterConfig limits;

    void fields(this auto& self, auto&& f) {
        f(self.id, self.path, self.is_root, self.partuuid, self.cache, self.is_read_only, self.engine, self.limits);
    }
};

struct State;

class BlockDevice final : public Device {
  public:
    // not_found and the like when the file cannot be opened, unimplemented when io_uring is not to be had.
    static Result<std::shared_ptr<BlockDevice>> create(EventLoop& loop, const Config& config);

    DeviceType type() const override { return DeviceType::block; }
    std::uint64_t offered_features() const override;
    std::vector<std::byte> configuration() const override;

    // While the machine runs, from the device thread; each takes the lock.
    Result<> change_path(const std::string& path);
    void change_limits(const RateLimiterConfig& limits);
    const Config& config() const { return config_; }
    // While the processors stand still, on the device thread; waits for what is on its way. A state is restored into
    // a device created from its config, before anything else: invalid_argument when it cannot be one of this disk.
    Result<State> save();
    Result<> restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt);

    Metrics metrics;

  protected:
    Result<> on_activate() override;
    void on_reset() override;
    Result<> on_queue(std::uint16_t queue) override;

  private:
    BlockDevice(EventLoop& loop, const Config& config);
    Result<> open_disk(const std::string& path);
    Result<> process();
    bool start_request(Chain chain);
    void finish(std::uint16_t head, GuestBuffers& status_byte, std::uint8_t status, std::uint32_t written);
    Result<> completed();
    Result<> finish_requests();
    std::uint8_t run_segments(std::uint32_t type, const GuestBuffers& data);
    void account(bool is_write, std::uint64_t bytes);

    Config config_;
    Fd file_;
    std::uint64_t sectors_ = 0;
    std::string serial_;  // what GET_ID answers, at most 20 bytes
    RateLimiter limiter_;
    std::unique_ptr<Timer> limiter_timer_;
    bool throttled_ = false;
    std::unique_ptr<AsyncEngine> ring_;
    Watch ring_watch_;
    bool waiting_for_ring_ = false;
    Chain scratch_;
};

}  // namespace wherry::vmm::block
