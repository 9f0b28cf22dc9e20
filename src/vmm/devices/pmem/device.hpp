// virtio-pmem (Virtio 1.2, section 5.19): files of the host as memory of the guest, which it reads and writes without
// asking anybody; what is left for requests is the flush. One file, or many files of which each becomes a partition.
// The window is there from create() to the end of the device, so plugging a device at run time is creating it.
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
#include "vmm/devices/pmem/metrics.hpp"
#include "vmm/memory/device_memory.hpp"
#include "vmm/virtio/device.hpp"

namespace wherry::vmm::pmem {

struct Config {
    std::string id;
    std::string path;                // or
    std::vector<std::string> files;  // several, read-only, each a partition of the device
    bool is_root = false;
    bool is_read_only = false;
    RateLimiterConfig limits;

    void fields(this auto& self, auto&& f) {
        f(self.id, self.path, self.files, self.is_root, self.is_read_only, self.limits);
    }
};

struct State;

class PmemDevice final : public Device {
  public:
    // Maps the files into free device memory of `memory`, or at `place` when that is given (a restored machine's).
    // not_found and the like when a file cannot be opened, out_of_range when there is no room.
    static Result<std::shared_ptr<PmemDevice>> create(EventLoop& loop, const Config& config,
                                                      std::shared_ptr<GuestMemory> memory,
                                                      std::optional<GuestRange> place = std::nullopt);
    ~PmemDevice() override;

    DeviceType type() const override { return DeviceType::pmem; }
    std::uint64_t offered_features() const override { return feature_event_index | feature_indirect_descriptors; }
    std::vector<std::byte> configuration() const override;

    // While the machine runs, from the device thread; takes the lock.
    void change_limits(const RateLimiterConfig& limits);
    const Config& config() const { return config_; }
    GuestRange range() const { return range_; }
    // While the processors stand still, on the device thread; waits for the flush that is on its way. A state is
    // restored into a device created from its config and range, before anything else.
    Result<State> save();
    Result<> restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt);

    Metrics metrics;

  protected:
    Result<> on_activate() override;
    void on_reset() override;
    Result<> on_queue(std::uint16_t queue) override;

  private:
    PmemDevice(EventLoop& loop, const Config& config);
    Result<> map_files(std::shared_ptr<GuestMemory> memory, std::optional<GuestRange> place);
    Result<> process();
    Result<> start_flush();
    void finish_flush(bool is_done);
    Result<> finish_requests();

    struct Flush {
        std::uint16_t head = 0;
        GuestBuffers answer;
    };

    Config config_;
    std::shared_ptr<GuestMemory> mapped_;  // set while the window is there
    GuestRange range_;
    Fd file_;                       // what flushes are for; none when nothing can be written
    std::uint64_t file_bytes_ = 0;  // what one flush is worth to the limiter
    std::unique_ptr<block::AsyncEngine> ring_;
    Watch ring_watch_;
    bool is_flushing_ = false;
    // Answered by the flush that is on its way, and by the one after it: a flush counts for what was written before it
    // began.
    std::vector<Flush> flushing_, waiting_;
    RateLimiter limiter_;
    std::unique_ptr<Timer> limiter_timer_;
    bool throttled_ = false;
    Chain chain_;
};

}  // namespace wherry::vmm::pmem
