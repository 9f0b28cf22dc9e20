// Requests of virtio-balloon.
#include <linux/virtio_balloon.h>

#include <algorithm>
#include <array>
#include <vector>

#include "base/log.hpp"
#include "vmm/devices/balloon/device.hpp"

namespace wherry::vmm::balloon {
namespace {

constexpr std::uint64_t page_bytes = 4096;
// A request names at most this many pages; drivers use 256.
constexpr std::uint64_t most_pages = 64U << 10U;

struct [[gnu::packed]] StatisticEntry {
    std::uint16_t tag;
    std::uint64_t value;
};
static_assert(sizeof(StatisticEntry) == 10);

constexpr std::uint32_t hint_stop = VIRTIO_BALLOON_CMD_ID_STOP, hint_done = VIRTIO_BALLOON_CMD_ID_DONE;

}  // namespace

Result<> BalloonDevice::on_queue(std::uint16_t index) {
    if (index == 0) return inflate();
    if (index == 1) return deflate();
    if (statistics_queue_ == index) return receive_statistics();
    if (hinting_queue_ == index) return take_hints();
    if (reporting_queue_ == index) return report_free_pages();
    return {};
}

// The next request of a queue into chain_, unless this turn has had enough.
Result<bool> BalloonDevice::next(std::uint16_t index, unsigned count) {
    if (count < turn) return queue(index).pop(chain_);
    again(index);
    return false;
}

Result<> BalloonDevice::inflate() {
    metrics.inflate_count.add();
    std::vector<std::uint32_t> pages;
    for (unsigned taken = 0; TRY(next(0, taken)); ++taken) {
        const std::uint64_t count = std::min(chain_.readable.size() / sizeof(std::uint32_t), most_pages);
        pages.resize(count);
        chain_.readable.copy_out(0, std::as_writable_bytes(std::span(pages)));
        // Neighbours go back in one call. Sorted: the guest gives them in any order.
        std::ranges::sort(pages);
        for (std::size_t first = 0; first < pages.size();) {
            std::size_t last = first;
            while (last + 1 < pages.size() && pages[last + 1] <= pages[last] + std::uint64_t{1}) ++last;
            const std::uint64_t bytes = (std::uint64_t{pages[last]} - pages[first] + 1) * page_bytes;
            if (!memory().discard(GuestAddress{pages[first] * page_bytes}, bytes)) metrics.event_fails.add();
            first = last + 1;
        }
        queue(0).push(chain_.head, 0);
    }
    signal(0);
    return {};
}

Result<> BalloonDevice::deflate() {
    metrics.deflate_count.add();
    for (unsigned count = 0; TRY(next(1, count)); ++count)
        queue(1).push(chain_.head, 0);  // pages come back by being touched
    signal(1);
    return {};
}

Result<> BalloonDevice::receive_statistics() {
    const std::uint16_t index = *statistics_queue_;
    for (unsigned count = 0; TRY(next(index, count)); ++count) {
        metrics.stats_updates_count.add();
        if (held_statistics_) queue(index).push(*held_statistics_, 0);  // against the protocol; give it back
        for (std::uint64_t at = 0; at + sizeof(StatisticEntry) <= std::min<std::uint64_t>(chain_.readable.size(), 640);
             at += sizeof(StatisticEntry)) {
            const auto entry = chain_.readable.read<StatisticEntry>(at);
            if (!entry) break;
            if (entry->tag < Statistics::tags) {
                last_.values[entry->tag] = std::uint64_t{entry->value};  // packed: no reference to it
            } else {
                metrics.stats_update_fails.add();
            }
        }
        held_statistics_ = chain_.head;
    }
    signal(index);
    return {};
}

// Giving the buffer back is what asks for new statistics.
Result<> BalloonDevice::poll_statistics() {
    if (!working() || !statistics_queue_) return {};
    if (held_statistics_) {
        queue(*statistics_queue_).push(*held_statistics_, 0);
        held_statistics_.reset();
        signal(*statistics_queue_);
    }
    timer_->arm(std::chrono::seconds(config_.stats_polling_interval_s));
    return {};
}

Result<> BalloonDevice::report_free_pages() {
    const std::uint16_t index = *reporting_queue_;
    for (unsigned count = 0; TRY(next(index, count)); ++count) {
        metrics.free_page_report_count.add();
        if (chain_.writable.discard(memory())) {
            metrics.free_page_report_freed.add(chain_.writable.size());
        } else {
            metrics.free_page_report_fails.add();
        }
        queue(index).push(chain_.head, 0);
    }
    signal(index);
    return {};
}

Result<> BalloonDevice::take_hints() {
    const std::uint16_t index = *hinting_queue_;
    for (unsigned count = 0; TRY(next(index, count)); ++count) {
        metrics.free_page_hint_count.add();
        if (const auto command = chain_.readable.read<std::uint32_t>(0)) {
            guest_hint_command_ = command;
            if (*command == hint_stop && acknowledge_on_stop_ && hint_command_ != hint_done) {
                hint_command_ = hint_done;
                signal_configuration();
            }
        } else if (guest_hint_command_ == hint_command_ && hint_command_ > hint_done) {
            // Free as long as this round lasts: the guest holds the pages until we say that we are done.
            if (chain_.writable.discard(memory())) {
                metrics.free_page_hint_freed.add(chain_.writable.size());
            } else {
                metrics.free_page_hint_fails.add();
            }
        }
        queue(index).push(chain_.head, 0);
    }
    signal(index);
    return {};
}

}  // namespace wherry::vmm::balloon
