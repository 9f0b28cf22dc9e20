// Requests of virtio-rng: each is a buffer to fill.
#include "base/clock.hpp"
#include "vmm/devices/entropy/device.hpp"

namespace wherry::vmm::entropy {
namespace {
// A guest gets at most this much at a time: a huge request must not hold the device thread.
constexpr std::uint64_t largest_answer = 64U << 10U;
}  // namespace

Result<> EntropyDevice::on_queue(std::uint16_t) {
    metrics.entropy_event_count.add();
    return throttled_ ? Result<>{} : process();
}

Result<> EntropyDevice::process() {
    for (unsigned count = 0; TRY(queue(0).pop(chain_)); ++count) {
        if (count == turn) {
            queue(0).undo_pop();
            again(0);
            break;
        }
        chain_.writable.truncate(largest_answer);
        const std::uint64_t bytes = chain_.writable.size();
        if (!limiter_.take(bytes, monotonic_ns())) {
            queue(0).undo_pop();
            throttled_ = true;
            metrics.entropy_rate_limiter_throttled.add();
            timer_->arm(limiter_.wait());
            break;
        }
        std::uint32_t written = 0;
        if (chain_.writable.fill_random()) {
            written = static_cast<std::uint32_t>(bytes);
            metrics.entropy_bytes.add(bytes);
        } else {
            metrics.host_rng_fails.add();
        }
        queue(0).push(chain_.head, written);
    }
    signal(0);
    return {};
}

}  // namespace wherry::vmm::entropy
