#include "vmm/devices/pmem/device.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/virtio_pmem.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include <array>
#include <cstring>

#include "base/clock.hpp"
#include "base/log.hpp"
#include "vmm/devices/pmem/partitions.hpp"

namespace wherry::vmm::pmem {
namespace {

constexpr std::array<std::uint16_t, 1> queue_sizes = {64};

std::uint64_t aligned(std::uint64_t bytes) {
    return (bytes + window_alignment - 1) / window_alignment * window_alignment;
}

struct OpenFile {
    Fd fd;
    std::uint64_t bytes = 0;
};

Result<OpenFile> open_backing(const std::string& path, bool is_read_only) {
    // O_NONBLOCK: a FIFO in the place of a file must not hang us; it has no effect on files.
    OpenFile file{.fd = TRY(open_file(path, (is_read_only ? O_RDONLY : O_RDWR) | O_NONBLOCK)), .bytes = 0};
    struct stat status = {};
    if (fstat(file.fd.get(), &status) < 0) return fail_errno(path);
    if (!S_ISREG(status.st_mode)) return fail(Code::invalid_argument, path + " is not a file");
    if (status.st_size == 0) return fail(Code::invalid_argument, path + " is empty");
    file.bytes = static_cast<std::uint64_t>(status.st_size);
    return file;
}

// A label for a file: the last part of its path.
std::string label(const std::string& path) {
    return path.substr(path.rfind('/') + 1);
}

}  // namespace

PmemDevice::PmemDevice(EventLoop& loop, const Config& config)
    : Device(loop, config.id, queue_sizes), config_(config), limiter_(config.limits, monotonic_ns()) {}

PmemDevice::~PmemDevice() {
    if (mapped_) mapped_->device_memory().unmap(range_.start);
}

Result<std::shared_ptr<PmemDevice>> PmemDevice::create(EventLoop& loop, const Config& config,
                                                       std::shared_ptr<GuestMemory> memory,
                                                       std::optional<GuestRange> place) {
    if (!config.files.empty() && !config.is_read_only)
        return fail(Code::invalid_argument, "a device made of several files is read-only");
    if (config.files.size() > most_partitions)
        return fail(Code::invalid_argument, fmt::format("at most {} files", most_partitions));
    std::shared_ptr<PmemDevice> device(new PmemDevice(loop, config));
    TRY(device->map_files(std::move(memory), place));
    PmemDevice& self = *device;
    if (device->file_) {
        // The ring lets the device thread go on while the disk works. A host without io_uring has the flushes made
        // here, one for all that have been asked for.
        if (auto ring = block::AsyncEngine::create(device->file_.get())) {
            device->ring_ = std::move(*ring);
            device->ring_watch_ =
                TRY(self.watch(device->ring_->completion_event(), EPOLLIN, [&self](std::uint32_t) -> Result<> {
                    drain_eventfd(self.ring_->completion_event());
                    self.ring_->reap([&self](block::Pending&, std::int32_t result) { self.finish_flush(result >= 0); });
                    return self.working() ? self.process() : Result<>{};
                }));
        } else {
            log_info("pmem.no_io_uring", {{"id", config.id}, {"error", ring.error()}});
        }
    }
    device->limiter_timer_ = TRY(self.make_timer([&self]() -> Result<> {
        self.throttled_ = false;
        self.metrics.rate_limiter_event_count.add();
        return self.working() ? self.process() : Result<>{};
    }));
    return device;
}

Result<> PmemDevice::map_files(std::shared_ptr<GuestMemory> memory, std::optional<GuestRange> place) {
    const bool is_divided = !config_.files.empty();
    std::vector<OpenFile> opened;
    FileWindow window;
    window.is_read_only = config_.is_read_only;
    std::vector<Partition> partitions;
    std::uint64_t next = is_divided ? window_alignment : 0;  // the first 2 MiB are the table's
    for (const std::string& path : is_divided ? config_.files : std::vector{config_.path}) {
        opened.push_back(TRY(open_backing(path, config_.is_read_only)));
        const OpenFile& file = opened.back();
        if (file.bytes > (1ULL << 46U)) return fail(Code::out_of_range, path + " is too large");
        window.files.push_back({.fd = file.fd.get(), .bytes = file.bytes, .offset = next});
        partitions.push_back({.offset = next, .bytes = file.bytes, .name = label(path)});
        next += aligned(file.bytes);
    }
    if (is_divided) {
        next += window_alignment;  // and so are the last
        PartitionTable table = make_partition_table(partitions, next, config_.id);
        const std::uint64_t tail = next - table.tail.size();
        window.contents.push_back({.offset = 0, .bytes = std::move(table.head)});
        window.contents.push_back({.offset = tail, .bytes = std::move(table.tail)});
    }
    if (place && place->bytes != next)
        return fail(Code::data_loss, fmt::format("the files make up {} bytes where there were {}", next, place->bytes));
    auto& extra = memory->device_memory();
    window.range = place ? *place : GuestRange{TRY(extra.place(next, window_alignment)), next};
    TRY(extra.map(window));
    range_ = window.range;
    mapped_ = std::move(memory);
    if (!config_.is_read_only) {
        file_ = std::move(opened.front().fd);
        file_bytes_ = opened.front().bytes;
    }
    return {};
}

std::vector<std::byte> PmemDevice::configuration() const {
    const virtio_pmem_config layout = {.start = range_.start.value, .size = range_.bytes};
    std::vector<std::byte> bytes(sizeof layout);
    std::memcpy(bytes.data(), &layout, sizeof layout);
    return bytes;
}

Result<> PmemDevice::on_activate() {
    throttled_ = false;
    return {};
}

void PmemDevice::on_reset() {
    if (ring_) ring_->drain();
    is_flushing_ = false;
    flushing_.clear();  // they point into memory that is the guest's again
    waiting_.clear();
    limiter_timer_->disarm();
}

void PmemDevice::change_limits(const RateLimiterConfig& limits) {
    run_locked([&] {
        limiter_.update(limits, monotonic_ns());
        config_.limits = limiter_.config();
        if (throttled_) limiter_timer_->arm({});  // judge again by the new limits
    });
}

}  // namespace wherry::vmm::pmem
