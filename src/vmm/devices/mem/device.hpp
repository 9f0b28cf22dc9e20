// virtio-mem (Virtio 1.2, section 5.15): memory that the host offers and the guest takes, block by block, beside what
// it booted with. The host says how much it may have; the guest's driver plugs and unplugs until that is so.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/result.hpp"
#include "vmm/devices/mem/metrics.hpp"
#include "vmm/memory/device_memory.hpp"
#include "vmm/virtio/device.hpp"

namespace wherry::vmm::mem {

struct Config {
    std::uint64_t total_size_mib = 0;
    std::uint64_t block_size_mib = 2;
    std::uint64_t slot_size_mib = 128;

    void fields(this auto& self, auto&& f) { f(self.total_size_mib, self.block_size_mib, self.slot_size_mib); }
};

struct State;

struct Status {
    std::uint64_t plugged_size_mib = 0;
    std::uint64_t requested_size_mib = 0;
};

// Where the range starts: Linux takes memory in blocks of at most this size.
inline constexpr std::uint64_t range_alignment = 2ULL << 30U;

class MemDevice final : public Device {
  public:
    // Adds the range to `memory`, where there is room or at `start` (a restored machine's).
    static Result<std::shared_ptr<MemDevice>> create(EventLoop& loop, const Config& config, HugePages huge_pages,
                                                     std::shared_ptr<GuestMemory> memory,
                                                     std::optional<GuestAddress> start = std::nullopt);

    DeviceType type() const override { return DeviceType::mem; }
    std::uint64_t offered_features() const override;
    std::vector<std::byte> configuration() const override;

    // From the device thread while the machine runs; takes the lock. `conflict` before the guest has a driver.
    Result<> change_requested(std::uint64_t requested_size_mib);
    Status status();
    const Config& config() const { return config_; }
    GuestAddress start() const { return start_; }
    // While the processors stand still, on the device thread. A state is restored into a device created from its config
    // and start, before anything else; its blocks are plugged then, and zero.
    State save();
    Result<> restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt);

    Metrics metrics;

  protected:
    Result<> on_activate() override;
    Result<> on_queue(std::uint16_t queue) override;

  private:
    struct Request {
        std::uint16_t type = 0;
        std::uint64_t address = 0;
        std::uint16_t blocks = 0;
    };
    struct Answer {
        std::uint16_t type = 0;
        std::uint16_t state = 0;
    };
    struct Blocks {
        std::uint64_t first = 0;
        std::uint64_t count = 0;
    };

    MemDevice(EventLoop& loop, const Config& config);
    Answer answer(const Request& request);
    std::optional<Blocks> blocks_of(const Request& request) const;
    std::uint16_t plug(const Request& request);
    std::uint16_t unplug(const Request& request);
    std::uint16_t unplug_all();
    DeviceMemory& extra() const { return memory_owner_->device_memory(); }
    std::uint64_t block_bytes() const { return config_.block_size_mib << 20U; }
    std::uint64_t total_bytes() const { return config_.total_size_mib << 20U; }

    Config config_;
    std::shared_ptr<GuestMemory> memory_owner_;
    GuestAddress start_;
    std::uint64_t requested_bytes_ = 0;
    Chain chain_;
};

}  // namespace wherry::vmm::mem
