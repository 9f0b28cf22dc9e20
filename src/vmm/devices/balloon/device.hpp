// virtio-balloon (Virtio 1.2, section 5.5): takes memory back from the guest, by inflating, by free page reporting
// and by free page hinting, and asks it for its statistics.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "base/result.hpp"
#include "vmm/devices/balloon/metrics.hpp"
#include "vmm/virtio/device.hpp"

namespace wherry::vmm::balloon {

struct Config {
    std::uint32_t amount_mib = 0;
    bool deflate_on_oom = false;
    std::uint16_t stats_polling_interval_s = 0;  // 0: no statistics
    bool free_page_hinting = false;
    bool free_page_reporting = false;

    void fields(this auto& self, auto&& f) {
        f(self.amount_mib, self.deflate_on_oom, self.stats_polling_interval_s, self.free_page_hinting,
          self.free_page_reporting);
    }
};

struct State;

// What a guest last said of itself; bytes or counts, as the tag says (section 5.5.6.3).
struct Statistics {
    static constexpr std::size_t tags = 16;
    std::array<std::optional<std::uint64_t>, tags> values;
    std::uint32_t target_pages = 0;
    std::uint32_t actual_pages = 0;

    void fields(this auto& self, auto&& f) { f(self.values, self.target_pages, self.actual_pages); }
};
// "swap_in", ...; empty for a tag nobody has named.
std::string_view statistic_name(std::size_t tag);

struct HintingStatus {
    std::uint32_t host_command = 0;
    std::optional<std::uint32_t> guest_command;
};

class BalloonDevice final : public Device {
  public:
    static Result<std::shared_ptr<BalloonDevice>> create(EventLoop& loop, const Config& config);

    DeviceType type() const override { return DeviceType::balloon; }
    std::uint64_t offered_features() const override;
    std::vector<std::byte> configuration() const override;
    void write_configuration(std::uint32_t offset, std::span<const std::byte> data) override;

    // From the device thread while the machine runs; each takes the lock. `conflict` before the guest has a driver.
    Result<> change_amount(std::uint32_t amount_mib);
    Result<> change_interval(std::uint16_t seconds);
    Result<Statistics> statistics();
    Result<> start_hinting(bool acknowledge_on_stop);
    Result<> stop_hinting();
    Result<HintingStatus> hinting_status();
    Config config();

    State save();
    Result<> restore(const State& state, std::shared_ptr<GuestMemory> memory, Interrupt& interrupt);

    Metrics metrics;

  protected:
    Result<> on_activate() override;
    void on_reset() override;
    Result<> on_queue(std::uint16_t queue) override;

  private:
    BalloonDevice(EventLoop& loop, const Config& config);
    Result<bool> next(std::uint16_t queue, unsigned count);
    Result<> inflate();
    Result<> deflate();
    Result<> receive_statistics();
    Result<> report_free_pages();
    Result<> take_hints();
    Result<> poll_statistics();

    Config config_;
    std::uint32_t actual_pages_ = 0;
    std::uint32_t poison_ = 0;
    // Queue numbers by what was negotiated; none when a feature is missing.
    std::optional<std::uint16_t> statistics_queue_, hinting_queue_, reporting_queue_;
    std::optional<std::uint16_t> held_statistics_;  // the guest's buffer, kept until the next poll
    Statistics last_;
    std::unique_ptr<Timer> timer_;
    std::uint32_t hint_command_ = 0;
    std::uint32_t next_hint_command_ = 2;
    std::optional<std::uint32_t> guest_hint_command_;
    bool acknowledge_on_stop_ = true;
    Chain chain_;
};

}  // namespace wherry::vmm::balloon
