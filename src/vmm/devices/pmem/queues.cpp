// Requests of virtio-pmem: flushes.
#include <linux/virtio_pmem.h>
#include <unistd.h>

#include "base/clock.hpp"
#include "vmm/devices/pmem/device.hpp"

namespace wherry::vmm::pmem {
namespace {

// Section 5.19.6. Drivers know success and everything else.
constexpr std::uint32_t done = 0, failed = 1;

}  // namespace

Result<> PmemDevice::on_queue(std::uint16_t) {
    metrics.queue_event_count.add();
    return throttled_ ? Result<>{} : process();
}

// Takes what the guest has asked for; one flush of the file serves all of it. At most a queue's worth waits, whatever
// the guest writes into its rings.
Result<> PmemDevice::process() {
    for (unsigned count = 0; !throttled_ && waiting_.size() < queue(0).max_size(); ++count) {
        if (count == turn) {
            again(0);
            break;
        }
        if (!TRY(queue(0).pop(chain_))) break;
        const auto type = chain_.readable.read<std::uint32_t>(0);
        if (!type || chain_.writable.size() < sizeof(std::uint32_t))
            return fail(Code::invalid_argument, "pmem request without a type or a place for its answer");
        if (*type != VIRTIO_PMEM_REQ_TYPE_FLUSH) {
            metrics.event_fails.add();
            chain_.writable.write(0, failed);
            queue(0).push(chain_.head, sizeof(std::uint32_t));
            continue;
        }
        waiting_.push_back({.head = chain_.head, .answer = std::move(chain_.writable)});
        chain_.writable = GuestBuffers();
    }
    TRY(start_flush());
    signal(0);
    return {};
}

Result<> PmemDevice::start_flush() {
    if (is_flushing_ && ring_) return ring_->submit();  // what the kernel had no room for before
    if (waiting_.empty() || is_flushing_ || throttled_) return {};
    if (!limiter_.take(file_bytes_, monotonic_ns())) {
        throttled_ = true;
        metrics.rate_limiter_throttled_events.add();
        limiter_timer_->arm(limiter_.wait());
        return {};
    }
    metrics.flush_count.add();
    is_flushing_ = true;
    flushing_.swap(waiting_);
    if (!file_) {  // nothing can have been written
        finish_flush(true);
    } else if (ring_) {
        ring_->add({.head = 0,
                    .operation = block::Operation::flush,
                    .offset = 0,
                    .data = GuestBuffers(),
                    .status = GuestBuffers()});
        return ring_->submit();
    } else {
        finish_flush(fdatasync(file_.get()) == 0);
    }
    return {};
}

void PmemDevice::finish_flush(bool is_done) {
    is_flushing_ = false;
    if (!is_done) metrics.flush_fails.add();
    if (working()) {
        for (Flush& flush : flushing_) {
            flush.answer.write(0, is_done ? done : failed);
            queue(0).push(flush.head, sizeof(std::uint32_t));
        }
    }
    flushing_.clear();
}

}  // namespace wherry::vmm::pmem
