// Packets of virtio-net.
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/clock.hpp"
#include "vmm/devices/net/device.hpp"
#include "vmm/devices/net/wire.hpp"

namespace wherry::vmm::net {
namespace {

constexpr std::uint64_t buffer_count_at = 10;
constexpr std::uint64_t ethernet_bytes = 14;
// The largest segment that offloads give, and its headers.
constexpr std::uint64_t largest_frame = 65562;

}  // namespace

Result<> NetDevice::on_queue(std::uint16_t index) {
    if (has_feature(feature_control) && index == control_queue()) return control();
    const auto pair = static_cast<std::uint16_t>(index / 2);
    if (pair >= pairs_.size()) return {};
    if (index % 2 == 1) {
        metrics.tx_queue_event_count.add();
        return transmit(pair);
    }
    metrics.rx_queue_event_count.add();
    if (pair == 0 && mmds_ && mmds_->has_output()) TRY(deliver_mmds());
    return pairs_[pair].starved ? receive(pair) : Result<>{};
}

// Takes buffers from the guest until the largest packet fits. False when not even one is there.
Result<bool> NetDevice::take_receive_buffers(std::uint16_t index) {
    Pair& pair = pairs_[index];
    Queue& rx = queue(static_cast<std::uint16_t>(index * 2));
    const bool can_merge = has_feature(feature_mergeable);
    while (pair.waiting.empty() || (can_merge && pair.buffers.size() < largest_frame + vnet_header_bytes)) {
        if (!TRY(rx.pop(chain_))) break;
        const std::uint64_t bytes = chain_.writable.size();
        if (bytes < vnet_header_bytes) return fail(Code::invalid_argument, "receive buffer smaller than a header");
        pair.waiting.push_back({chain_.head, bytes});
        pair.buffers.append(std::move(chain_.writable));
    }
    return !pair.waiting.empty();
}

// The packet of `bytes` at the start of the buffers becomes the guest's. False: the rate limiter holds it back.
bool NetDevice::deliver(std::uint16_t index, std::size_t bytes) {
    Pair& pair = pairs_[index];
    if (!rx_limiter_.take(bytes - vnet_header_bytes, monotonic_ns())) {
        pair.deferred = bytes;
        metrics.rx_rate_limiter_throttled.add();
        rx_timer_->arm(rx_limiter_.wait());
        return false;
    }
    pair.deferred.reset();
    Queue& rx = queue(static_cast<std::uint16_t>(index * 2));
    std::uint16_t count = 0;
    std::uint64_t left = bytes, space = 0;
    while (left > 0 && count < pair.waiting.size()) {
        space += pair.waiting[count].bytes;
        left -= std::min<std::uint64_t>(left, pair.waiting[count].bytes);
        ++count;
    }
    pair.buffers.write(buffer_count_at, count);
    left = bytes;
    for (std::uint16_t i = 0; i < count; ++i) {
        const auto used = std::min<std::uint64_t>(left, pair.waiting.front().bytes);
        rx.stage(pair.waiting.front().head, static_cast<std::uint32_t>(used));
        left -= used;
        pair.waiting.pop_front();
    }
    rx.publish();
    pair.buffers.drop_front(space);
    metrics.rx_count.add();
    metrics.rx_packets_count.add();
    metrics.rx_bytes_count.add(bytes - vnet_header_bytes);
    return true;
}

Result<> NetDevice::receive(std::uint16_t index) {
    Pair& pair = pairs_[index];
    const auto rx_index = static_cast<std::uint16_t>(index * 2);
    if (!queue(rx_index).started()) return {};
    pair.starved = false;
    bool go_on = !pair.deferred || deliver(index, *pair.deferred);
    for (unsigned i = 0; go_on; ++i) {
        if (i == turn) {  // the rest at the next turn of the loop
            rx_timer_->arm({});
            break;
        }
        if (!TRY(take_receive_buffers(index))) {
            pair.starved = true;
            metrics.no_rx_avail_buffer.add();
            break;
        }
        std::uint64_t limit = 0;
        if (!has_feature(feature_mergeable)) limit = pair.waiting.front().bytes;
        const auto got = pair.buffers.read_from(pair.tap);
        if (!got) {
            if (got.error().os_errno() != EAGAIN) {
                metrics.tap_read_fails.add();
                metrics.rx_fails.add();
            }
            break;
        }
        if (*got < vnet_header_bytes) break;
        go_on = deliver(index, limit == 0 ? *got : std::min<std::size_t>(*got, limit));
    }
    signal(rx_index);
    return {};
}

// Frames of the metadata service, to the first pair.
Result<> NetDevice::deliver_mmds() {
    Pair& pair = pairs_[0];
    if (!queue(0).started()) return {};
    mmds_->tick(monotonic_ns());
    while (mmds_->has_output() && !pair.deferred) {
        if (!TRY(take_receive_buffers(0))) break;
        std::vector<std::byte> frame(vnet_header_bytes);
        const std::vector<std::byte> payload = mmds_->take_output();
        frame.insert(frame.end(), payload.begin(), payload.end());
        if (pair.buffers.size() < frame.size()) break;  // lost; its stack sends it again
        pair.buffers.copy_in(0, frame);
        if (!deliver(0, frame.size())) break;
    }
    if (const auto delay = mmds_->next_timeout(monotonic_ns())) mmds_timer_->arm(*delay);
    signal(0);
    return {};
}

Result<> NetDevice::transmit(std::uint16_t index) {
    const auto tx_index = static_cast<std::uint16_t>(index * 2 + 1);
    Queue& tx = queue(tx_index);
    if (!tx.started()) return {};
    bool any = false;
    for (unsigned i = 0; !tx_throttled_; ++i) {
        if (i == turn) {
            tx_throttled_ = true;
            tx_timer_->arm({});
            break;
        }
        if (!TRY(tx.pop(chain_))) break;
        any = true;
        const std::uint64_t bytes = chain_.readable.size();
        if (!tx_limiter_.take(bytes > vnet_header_bytes ? bytes - vnet_header_bytes : 0, monotonic_ns())) {
            tx.undo_pop();
            tx_throttled_ = true;
            metrics.tx_rate_limiter_throttled.add();
            tx_timer_->arm(tx_limiter_.wait());
            break;
        }
        if (bytes < vnet_header_bytes + ethernet_bytes || bytes > vnet_header_bytes + largest_frame) {
            metrics.tx_malformed_frames.add();
        } else if (transmit_one(index, chain_.readable)) {
            metrics.tx_count.add();
            metrics.tx_packets_count.add();
            metrics.tx_bytes_count.add(bytes - vnet_header_bytes);
        } else {
            metrics.tap_write_fails.add();
            metrics.tx_fails.add();
        }
        tx.push(chain_.head, 0);
    }
    if (!any) metrics.no_tx_avail_buffer.add();
    signal(tx_index);
    if (mmds_ && mmds_->has_output()) return deliver_mmds();
    return {};
}

bool NetDevice::transmit_one(std::uint16_t index, GuestBuffers& packet) {
    // As far as an ARP request or an IP header.
    std::array<std::byte, vnet_header_bytes + ethernet_bytes + 28> head = {};
    const std::size_t got = packet.copy_out(0, head);
    const auto frame_head = std::span(head).subspan(vnet_header_bytes, got - vnet_header_bytes);
    if (config_.guest_mac && std::memcmp(frame_head.data() + 6, config_.guest_mac->data(), 6) != 0)
        metrics.tx_spoofed_mac_count.add();
    if (mmds_ && mmds_->wants(frame_head)) {
        // A copy, judged on its own: the guest may change the original meanwhile.
        std::vector<std::byte> frame(packet.size() - vnet_header_bytes);
        packet.copy_out(vnet_header_bytes, frame);
        mmds_->receive(frame, monotonic_ns());
        return true;
    }
    return packet.write_to(pairs_[index].tap).has_value();
}

// Section 5.1.6.5.6: how many pairs the driver uses.
Result<> NetDevice::control() {
    const std::uint16_t index = control_queue();
    while (TRY(queue(index).pop(chain_))) {
        struct [[gnu::packed]] Command {
            std::uint8_t group;
            std::uint8_t number;
            std::uint16_t pairs;
        };
        const auto command = chain_.readable.read<Command>(0);
        std::uint8_t answer = control_error;
        if (command && command->group == control_class_multiqueue && command->number == control_set_pairs &&
            command->pairs >= 1 && command->pairs <= pairs_.size()) {
            use_pairs(command->pairs);
            answer = control_ok;
        }
        const bool told = chain_.writable.write(0, answer);
        queue(index).push(chain_.head, told ? 1 : 0);
    }
    signal(index);
    return {};
}

}  // namespace wherry::vmm::net
