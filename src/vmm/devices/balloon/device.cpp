#include "vmm/devices/balloon/device.hpp"

#include <linux/virtio_balloon.h>

#include <array>
#include <cstring>

namespace wherry::vmm::balloon {
namespace {

constexpr std::array<std::uint16_t, 5> queue_sizes = {256, 256, 256, 256, 256};
constexpr std::uint32_t pages_per_mib = 256;

struct Layout {
    std::uint32_t target_pages;
    std::uint32_t actual_pages;
    std::uint32_t hint_command;
    std::uint32_t poison;
};

std::unexpected<Error> not_active() {
    return fail(Code::conflict, "Device is inactive. Check if balloon driver is enabled in guest kernel.");
}

}  // namespace

std::string_view statistic_name(std::size_t tag) {
    static constexpr std::array<std::string_view, 16> names = {
        "swap_in",          "swap_out",    "major_faults",        "minor_faults",     "free_memory", "total_memory",
        "available_memory", "disk_caches", "hugetlb_allocations", "hugetlb_failures", "oom_kill",    "alloc_stall",
        "async_scan",       "direct_scan", "async_reclaim",       "direct_reclaim"};
    return tag < names.size() ? names[tag] : std::string_view();
}

BalloonDevice::BalloonDevice(EventLoop& loop, const Config& config)
    : Device(loop, "balloon", queue_sizes), config_(config) {}

Result<std::shared_ptr<BalloonDevice>> BalloonDevice::create(EventLoop& loop, const Config& config) {
    std::shared_ptr<BalloonDevice> device(new BalloonDevice(loop, config));
    BalloonDevice& self = *device;
    device->timer_ = TRY(self.make_timer([&self] { return self.poll_statistics(); }));
    return device;
}

std::uint64_t BalloonDevice::offered_features() const {
    std::uint64_t features = feature_event_index | feature_indirect_descriptors;
    if (config_.deflate_on_oom) features |= 1ULL << VIRTIO_BALLOON_F_DEFLATE_ON_OOM;
    if (config_.stats_polling_interval_s > 0) features |= 1ULL << VIRTIO_BALLOON_F_STATS_VQ;
    if (config_.free_page_hinting) features |= 1ULL << VIRTIO_BALLOON_F_FREE_PAGE_HINT;
    if (config_.free_page_reporting) features |= 1ULL << VIRTIO_BALLOON_F_REPORTING;
    return features;
}

std::vector<std::byte> BalloonDevice::configuration() const {
    const Layout layout = {.target_pages = config_.amount_mib * pages_per_mib,
                           .actual_pages = actual_pages_,
                           .hint_command = hint_command_,
                           .poison = poison_};
    std::vector<std::byte> bytes(sizeof layout);
    std::memcpy(bytes.data(), &layout, sizeof layout);
    return bytes;
}

void BalloonDevice::write_configuration(std::uint32_t offset, std::span<const std::byte> data) {
    if (data.size() != sizeof(std::uint32_t)) {
        metrics.event_fails.add();
        return;
    }
    std::uint32_t value = 0;
    std::memcpy(&value, data.data(), sizeof value);
    if (offset == offsetof(Layout, actual_pages)) actual_pages_ = value;
    if (offset == offsetof(Layout, poison)) poison_ = value;
}

Result<> BalloonDevice::on_activate() {
    // Queues are numbered without gaps, as drivers do.
    std::uint16_t next = 2;
    const auto number = [&](unsigned feature) -> std::optional<std::uint16_t> {
        if (!has_feature(feature)) return std::nullopt;
        return next++;
    };
    statistics_queue_ = number(VIRTIO_BALLOON_F_STATS_VQ);
    hinting_queue_ = number(VIRTIO_BALLOON_F_FREE_PAGE_HINT);
    reporting_queue_ = number(VIRTIO_BALLOON_F_REPORTING);
    if (statistics_queue_) timer_->arm(std::chrono::seconds(config_.stats_polling_interval_s));
    return {};
}

void BalloonDevice::on_reset() {
    timer_->disarm();
    held_statistics_.reset();
    hint_command_ = 0;
    guest_hint_command_.reset();
    actual_pages_ = 0;
}

Result<> BalloonDevice::change_amount(std::uint32_t amount_mib) {
    return run_locked([&]() -> Result<> {
        if (!active()) return not_active();
        if (amount_mib > UINT32_MAX / pages_per_mib)
            return fail(Code::invalid_argument, "Amount of pages is too large.");
        config_.amount_mib = amount_mib;
        signal_configuration();
        return {};
    });
}

Result<> BalloonDevice::change_interval(std::uint16_t seconds) {
    return run_locked([&]() -> Result<> {
        if (!active()) return not_active();
        if ((config_.stats_polling_interval_s == 0) != (seconds == 0))
            return fail(Code::invalid_argument,
                        "Statistics for the balloon device can not be enabled or disabled after activation.");
        config_.stats_polling_interval_s = seconds;
        if (seconds > 0) timer_->arm(std::chrono::seconds(seconds));
        return {};
    });
}

Result<Statistics> BalloonDevice::statistics() {
    return run_locked([&]() -> Result<Statistics> {
        if (config_.stats_polling_interval_s == 0)
            return fail(Code::conflict, "Statistics for the balloon device are not enabled.");
        Statistics out = last_;
        out.target_pages = config_.amount_mib * pages_per_mib;
        out.actual_pages = actual_pages_;
        return out;
    });
}

Result<> BalloonDevice::start_hinting(bool acknowledge_on_stop) {
    return run_locked([&]() -> Result<> {
        if (!active()) return not_active();
        if (!hinting_queue_) return fail(Code::conflict, "Free page hinting is not enabled for the balloon device.");
        acknowledge_on_stop_ = acknowledge_on_stop;
        hint_command_ = next_hint_command_;
        // 0 and 1 mean "stop" and "done".
        next_hint_command_ = next_hint_command_ == UINT32_MAX ? 2 : next_hint_command_ + 1;
        signal_configuration();
        return {};
    });
}

Result<> BalloonDevice::stop_hinting() {
    return run_locked([&]() -> Result<> {
        if (!active()) return not_active();
        if (!hinting_queue_) return fail(Code::conflict, "Free page hinting is not enabled for the balloon device.");
        hint_command_ = VIRTIO_BALLOON_CMD_ID_DONE;
        signal_configuration();
        return {};
    });
}

Result<HintingStatus> BalloonDevice::hinting_status() {
    return run_locked([&]() -> Result<HintingStatus> {
        if (!config_.free_page_hinting)
            return fail(Code::conflict, "Free page hinting is not enabled for the balloon device.");
        return HintingStatus{.host_command = hint_command_, .guest_command = guest_hint_command_};
    });
}

Config BalloonDevice::config() {
    return run_locked([&] { return config_; });
}

}  // namespace wherry::vmm::balloon
