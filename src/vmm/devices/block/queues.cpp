// Requests of virtio-blk.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/virtio_blk.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/clock.hpp"
#include "vmm/devices/block/device.hpp"

namespace wherry::vmm::block {
namespace {

struct Header {
    std::uint32_t type;
    std::uint32_t reserved;
    std::uint64_t sector;
};
static_assert(sizeof(Header) == 16);

struct Segment {  // of discard and write zeroes
    std::uint64_t sector;
    std::uint32_t sectors;
    std::uint32_t flags;
};
static_assert(sizeof(Segment) == 16);

constexpr std::uint64_t sector_bytes = 512;

bool in_disk(std::uint64_t sector, std::uint64_t count, std::uint64_t capacity) {
    return sector <= capacity && count <= capacity - sector;
}

Result<> write_zeroes(int fd, std::uint64_t offset, std::uint64_t bytes) {
    static constexpr std::array<char, 65536> zeroes = {};
    while (bytes > 0) {
        const std::size_t now = std::min<std::uint64_t>(bytes, zeroes.size());
        const ssize_t n = pwrite(fd, zeroes.data(), now, static_cast<off_t>(offset));
        if (n <= 0) return fail_errno("write zeroes");
        offset += static_cast<std::uint64_t>(n);
        bytes -= static_cast<std::uint64_t>(n);
    }
    return {};
}

}  // namespace

Result<> BlockDevice::on_queue(std::uint16_t) {
    metrics.queue_event_count.add();
    return process();
}

Result<> BlockDevice::process() {
    bool any = false;
    for (unsigned count = 0; !throttled_; ++count) {
        if (count == turn) {
            again(0);
            break;
        }
        if (ring_ && ring_->full()) {
            waiting_for_ring_ = true;
            metrics.io_engine_throttled_events.add();
            break;
        }
        if (!TRY(queue(0).pop(scratch_))) break;
        any = true;
        // What a request is worth to the limiter is its data; a throttled one is popped again later.
        const std::uint64_t data_bytes = scratch_.readable.size() > sizeof(Header)
                                             ? scratch_.readable.size() - sizeof(Header)
                                         : scratch_.writable.empty() ? 0
                                                                     : scratch_.writable.size() - 1;
        if (!limiter_.take(data_bytes, monotonic_ns())) {
            queue(0).undo_pop();
            throttled_ = true;
            metrics.rate_limiter_throttled_events.add();
            limiter_timer_->arm(limiter_.wait());
            break;
        }
        Chain chain = std::move(scratch_);
        scratch_ = Chain{};
        if (!start_request(std::move(chain)))
            return fail(Code::invalid_argument, "block request without a header or a place for its status");
    }
    if (!any) metrics.no_avail_buffer.add();
    if (ring_) TRY(ring_->submit());
    signal(0);
    return {};
}

void BlockDevice::account(bool is_write, std::uint64_t bytes) {
    (is_write ? metrics.write_bytes : metrics.read_bytes).add(bytes);
    (is_write ? metrics.write_count : metrics.read_count).add();
}

void BlockDevice::finish(std::uint16_t head, GuestBuffers& status_byte, std::uint8_t status, std::uint32_t written) {
    status_byte.write(0, status);
    queue(0).push(head, written + 1);
    if (status != VIRTIO_BLK_S_OK) metrics.execute_fails.add();
}

// False: the request has no header or no status byte, so that it cannot even be refused.
bool BlockDevice::start_request(Chain chain) {
    const auto header = chain.readable.read<Header>(0);
    if (!header || chain.writable.empty()) {
        metrics.invalid_reqs_count.add();
        return false;
    }
    chain.readable.drop_front(sizeof(Header));
    GuestBuffers status = chain.writable.take_back(1);
    const std::uint32_t type = header->type;
    const bool is_write = type == VIRTIO_BLK_T_OUT;
    if (type == VIRTIO_BLK_T_IN || is_write) {
        GuestBuffers& data = is_write ? chain.readable : chain.writable;
        const std::uint64_t bytes = data.size();
        if (bytes % sector_bytes != 0 || !in_disk(header->sector, bytes / sector_bytes, sectors_) ||
            (is_write && config_.is_read_only)) {
            metrics.invalid_reqs_count.add();
            finish(chain.head, status, VIRTIO_BLK_S_IOERR, 0);
            return true;
        }
        const std::uint64_t offset = header->sector * sector_bytes;
        if (bytes == 0) {
            finish(chain.head, status, VIRTIO_BLK_S_OK, 0);
        } else if (ring_) {
            ring_->add({.head = chain.head,
                        .operation = is_write ? Operation::write : Operation::read,
                        .offset = offset,
                        .data = std::move(data),
                        .status = std::move(status)});
        } else {
            const auto done =
                is_write ? data.write_to_file(file_.get(), offset) : data.read_from_file(file_.get(), offset);
            if (done) account(is_write, bytes);
            finish(chain.head, status, done ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR,
                   done && !is_write ? static_cast<std::uint32_t>(bytes) : 0);
        }
        return true;
    }
    std::uint8_t result = VIRTIO_BLK_S_UNSUPP;
    std::uint32_t written = 0;
    if (type == VIRTIO_BLK_T_FLUSH && config_.cache == CacheType::unsafe) {
        result = VIRTIO_BLK_S_OK;
    } else if (type == VIRTIO_BLK_T_FLUSH) {
        metrics.flush_count.add();
        if (ring_) {
            ring_->add({.head = chain.head,
                        .operation = Operation::flush,
                        .offset = 0,
                        .data = GuestBuffers(),
                        .status = std::move(status)});
            return true;
        }
        result = fdatasync(file_.get()) == 0 ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
    } else if (type == VIRTIO_BLK_T_GET_ID) {
        std::string id = serial_;
        id.resize(VIRTIO_BLK_ID_BYTES);
        written = static_cast<std::uint32_t>(chain.writable.copy_in(0, std::string_view(id)));
        result = VIRTIO_BLK_S_OK;
    } else if (type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES) {
        result = config_.is_read_only ? std::uint8_t{VIRTIO_BLK_S_IOERR} : run_segments(type, chain.readable);
    } else {
        metrics.invalid_reqs_count.add();
    }
    finish(chain.head, status, result, written);
    return true;
}

std::uint8_t BlockDevice::run_segments(std::uint32_t type, const GuestBuffers& data) {
    const bool is_discard = type == VIRTIO_BLK_T_DISCARD;
    (is_discard ? metrics.discard_count : metrics.write_zeroes_count).add();
    if (data.empty() || data.size() % sizeof(Segment) != 0 || data.size() / sizeof(Segment) > largest_segments)
        return VIRTIO_BLK_S_IOERR;
    for (std::uint64_t at = 0; at < data.size(); at += sizeof(Segment)) {
        const auto segment = data.read<Segment>(at);
        if (!segment || segment->sectors > largest_discard_sectors ||
            !in_disk(segment->sector, segment->sectors, sectors_))
            return VIRTIO_BLK_S_IOERR;
        const bool may_unmap = (segment->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) != 0;
        if ((segment->flags & ~std::uint32_t{VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP}) != 0 || (is_discard && may_unmap))
            return VIRTIO_BLK_S_UNSUPP;
        if (segment->sectors == 0) continue;
        const std::uint64_t offset = segment->sector * sector_bytes, bytes = segment->sectors * sector_bytes;
        const int mode = is_discard || may_unmap ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
                                                 : FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
        if (fallocate(file_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(bytes)) == 0) continue;
        // A discard is a hint; zeroes must be zeroes.
        if (is_discard) return VIRTIO_BLK_S_UNSUPP;
        if (!write_zeroes(file_.get(), offset, bytes)) return VIRTIO_BLK_S_IOERR;
    }
    return VIRTIO_BLK_S_OK;
}

// Until nothing is on its way; requests that wait for a place in the ring stay in the queue, or get one and are
// finished as well.
Result<> BlockDevice::finish_requests() {
    while (ring_ && ring_->in_flight() > 0) {
        TRY(ring_->wait());
        TRY(completed());
    }
    return {};
}

Result<> BlockDevice::completed() {
    drain_eventfd(ring_->completion_event());
    ring_->reap([this](Pending& pending, std::int32_t result) {
        if (!working()) return;
        const bool is_write = pending.operation == Operation::write;
        const std::uint64_t bytes = pending.data.size();
        bool good = result >= 0;
        if (good && pending.operation != Operation::flush && static_cast<std::uint64_t>(result) != bytes) {
            // A short transfer, or more pieces than one call takes: all of it again, by ourselves.
            good = (is_write ? pending.data.write_to_file(file_.get(), pending.offset)
                             : pending.data.read_from_file(file_.get(), pending.offset))
                       .has_value();
        }
        if (good && pending.operation != Operation::flush) account(is_write, bytes);
        finish(pending.head, pending.status, good ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR,
               good && pending.operation == Operation::read ? static_cast<std::uint32_t>(bytes) : 0);
    });
    if (!working()) return {};
    if (waiting_for_ring_) {
        waiting_for_ring_ = false;
        return process();
    }
    signal(0);
    return {};
}

}  // namespace wherry::vmm::block
