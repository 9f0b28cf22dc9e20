#include "vmm/devices/block/device.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <linux/virtio_blk.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <array>
#include <cstring>

#include "base/clock.hpp"

namespace wherry::vmm::block {
namespace {

constexpr std::array<std::uint16_t, 1> queue_sizes = {256};

}  // namespace

BlockDevice::BlockDevice(EventLoop& loop, const Config& config)
    : Device(loop, config.id, queue_sizes), config_(config), limiter_(config.limits, monotonic_ns()) {}

Result<std::shared_ptr<BlockDevice>> BlockDevice::create(EventLoop& loop, const Config& config) {
    std::shared_ptr<BlockDevice> device(new BlockDevice(loop, config));
    TRY(device->open_disk(config.path));
    BlockDevice& self = *device;
    if (config.engine == IoEngine::async) {
        device->ring_ = TRY(AsyncEngine::create(device->file_.get()));
        device->ring_watch_ = TRY(self.watch(device->ring_->completion_event(), EPOLLIN,
                                             [&self](std::uint32_t) { return self.completed(); }));
    }
    device->limiter_timer_ = TRY(self.make_timer([&self]() -> Result<> {
        self.throttled_ = false;
        self.metrics.rate_limiter_event_count.add();
        return self.working() ? self.process() : Result<>{};
    }));
    return device;
}

Result<> BlockDevice::open_disk(const std::string& path) {
    // O_NONBLOCK: a FIFO in the place of a disk must not hang us; it has no effect on files and disks.
    Fd file = TRY(open_file(path, (config_.is_read_only ? O_RDONLY : O_RDWR) | O_NONBLOCK), "disk");
    struct stat status = {};
    if (fstat(file.get(), &status) < 0) return fail_errno("disk");
    std::uint64_t bytes = 0;
    if (S_ISBLK(status.st_mode)) {
        // SAFETY: writes one 64-bit number.
        if (ioctl(file.get(), BLKGETSIZE64, &bytes) < 0) return fail_errno("size of the disk");
    } else if (S_ISREG(status.st_mode)) {
        bytes = static_cast<std::uint64_t>(status.st_size);
    } else {
        return fail(Code::invalid_argument, "disk " + path + ": neither a file nor a block device");
    }
    file_ = std::move(file);
    sectors_ = bytes / 512;
    serial_ = fmt::format("{}{}{}", status.st_dev, status.st_rdev, status.st_ino).substr(0, VIRTIO_BLK_ID_BYTES);
    return {};
}

std::uint64_t BlockDevice::offered_features() const {
    std::uint64_t features = feature_event_index | feature_indirect_descriptors | (1ULL << VIRTIO_BLK_F_SEG_MAX);
    if (config_.cache == CacheType::writeback) features |= 1ULL << VIRTIO_BLK_F_FLUSH;
    if (config_.is_read_only) return features | (1ULL << VIRTIO_BLK_F_RO);
    return features | (1ULL << VIRTIO_BLK_F_DISCARD) | (1ULL << VIRTIO_BLK_F_WRITE_ZEROES);
}

std::vector<std::byte> BlockDevice::configuration() const {
    virtio_blk_config layout = {};
    layout.capacity = sectors_;
    layout.seg_max = queue_sizes[0] - 2U;
    layout.num_queues = 1;
    layout.max_discard_sectors = largest_discard_sectors;
    layout.max_discard_seg = largest_segments;
    layout.discard_sector_alignment = 8;
    layout.max_write_zeroes_sectors = largest_discard_sectors;
    layout.max_write_zeroes_seg = largest_segments;
    layout.write_zeroes_may_unmap = 1;
    std::vector<std::byte> bytes(sizeof layout);
    std::memcpy(bytes.data(), &layout, sizeof layout);
    return bytes;
}

Result<> BlockDevice::on_activate() {
    throttled_ = waiting_for_ring_ = false;
    return {};
}

void BlockDevice::on_reset() {
    if (ring_) ring_->drain();  // the guest takes its memory back
    limiter_timer_->disarm();
}

Result<> BlockDevice::change_path(const std::string& path) {
    return run_locked([&]() -> Result<> {
        const std::uint64_t before = sectors_;
        TRY(finish_requests());  // what is on its way belongs to the old disk
        if (auto opened = open_disk(path); !opened) {
            metrics.update_fails.add();
            return opened;
        }
        if (ring_) TRY(ring_->change_file(file_.get()));
        config_.path = path;
        metrics.update_count.add();
        if (before != sectors_ || active()) signal_configuration();
        return {};
    });
}

void BlockDevice::change_limits(const RateLimiterConfig& limits) {
    run_locked([&] {
        limiter_.update(limits, monotonic_ns());
        config_.limits = limiter_.config();
        if (throttled_) limiter_timer_->arm({});  // judge again by the new limits
    });
}

}  // namespace wherry::vmm::block
