// Requests of virtio-mem (section 5.15.6): plug, unplug, unplug all, state.
#include <linux/virtio_mem.h>

#include "base/log.hpp"
#include "vmm/devices/mem/device.hpp"

namespace wherry::vmm::mem {
namespace {

// A state's answer is the longest: a type, padding and the state.
constexpr std::uint64_t answer_bytes = 10;
// Plugging and unplugging move memory: a few at a time, so that the other devices get their turn.
constexpr unsigned requests_a_turn = 8;

}  // namespace

Result<> MemDevice::on_queue(std::uint16_t) {
    metrics.queue_event_count.add();
    for (unsigned count = 0;; ++count) {
        if (count == requests_a_turn) {
            again(0);
            break;
        }
        if (!TRY(queue(0).pop(chain_))) break;
        const auto request = chain_.readable.read<virtio_mem_req>(0);
        if (!request || chain_.writable.size() < answer_bytes) {
            metrics.queue_event_fails.add();
            return fail(Code::invalid_argument, "virtio-mem request cut short, or without a place for its answer");
        }
        const Answer given =
            answer({.type = request->type, .address = request->u.plug.addr, .blocks = request->u.plug.nb_blocks});
        virtio_mem_resp response = {};
        response.type = given.type;
        response.u.state.state = given.state;
        chain_.writable.copy_in(0, std::as_bytes(std::span(&response, 1)).first(answer_bytes));
        queue(0).push(chain_.head, answer_bytes);
    }
    signal(0);
    return {};
}

MemDevice::Answer MemDevice::answer(const Request& request) {
    switch (request.type) {
        case VIRTIO_MEM_REQ_PLUG:
            return {.type = plug(request), .state = 0};
        case VIRTIO_MEM_REQ_UNPLUG:
            return {.type = unplug(request), .state = 0};
        case VIRTIO_MEM_REQ_UNPLUG_ALL:
            return {.type = unplug_all(), .state = 0};
        case VIRTIO_MEM_REQ_STATE: {
            metrics.state_count.add();
            const auto blocks = blocks_of(request);
            if (!blocks) {
                metrics.state_fails.add();
                return {.type = VIRTIO_MEM_RESP_ERROR, .state = 0};
            }
            switch (extra().state(blocks->first, blocks->count)) {
                case DeviceMemory::BlockState::plugged:
                    return {.type = VIRTIO_MEM_RESP_ACK, .state = VIRTIO_MEM_STATE_PLUGGED};
                case DeviceMemory::BlockState::unplugged:
                    return {.type = VIRTIO_MEM_RESP_ACK, .state = VIRTIO_MEM_STATE_UNPLUGGED};
                case DeviceMemory::BlockState::mixed:
                    return {.type = VIRTIO_MEM_RESP_ACK, .state = VIRTIO_MEM_STATE_MIXED};
            }
            [[fallthrough]];
        }
        default:
            metrics.queue_event_fails.add();
            return {.type = VIRTIO_MEM_RESP_ERROR, .state = 0};
    }
}

// Nothing when they are not whole blocks inside of the range.
std::optional<MemDevice::Blocks> MemDevice::blocks_of(const Request& request) const {
    if (request.blocks == 0 || request.address < start_.value) return std::nullopt;
    const std::uint64_t offset = request.address - start_.value;
    if (offset % block_bytes() != 0 || offset >= total_bytes()) return std::nullopt;
    const Blocks blocks{.first = offset / block_bytes(), .count = request.blocks};
    if (blocks.count > total_bytes() / block_bytes() - blocks.first) return std::nullopt;
    return blocks;
}

std::uint16_t MemDevice::plug(const Request& request) {
    metrics.plug_count.add();
    const auto blocks = blocks_of(request);
    if (!blocks || extra().state(blocks->first, blocks->count) != DeviceMemory::BlockState::unplugged) {
        metrics.plug_fails.add();
        return VIRTIO_MEM_RESP_ERROR;
    }
    const std::uint64_t bytes = blocks->count * block_bytes(), plugged = extra().plugged_bytes();
    if (plugged > requested_bytes_ || bytes > requested_bytes_ - plugged) {
        metrics.plug_fails.add();
        return VIRTIO_MEM_RESP_NACK;
    }
    if (auto done = extra().plug(blocks->first, blocks->count); !done) {
        // The host has none to give now; the driver comes again.
        log_warn("memory.not_plugged", {{"error", done.error()}});
        metrics.plug_fails.add();
        return VIRTIO_MEM_RESP_BUSY;
    }
    metrics.plug_bytes.add(bytes);
    return VIRTIO_MEM_RESP_ACK;
}

std::uint16_t MemDevice::unplug(const Request& request) {
    metrics.unplug_count.add();
    const auto blocks = blocks_of(request);
    if (!blocks || extra().state(blocks->first, blocks->count) != DeviceMemory::BlockState::plugged) {
        metrics.unplug_fails.add();
        return VIRTIO_MEM_RESP_ERROR;
    }
    if (auto done = extra().unplug(blocks->first, blocks->count); !done) {
        log_warn("memory.not_unplugged", {{"error", done.error()}});
        metrics.unplug_fails.add();
        return VIRTIO_MEM_RESP_BUSY;
    }
    metrics.unplug_bytes.add(blocks->count * block_bytes());
    return VIRTIO_MEM_RESP_ACK;
}

std::uint16_t MemDevice::unplug_all() {
    metrics.unplug_all_count.add();
    for (const GuestRange& range : extra().plugged_ranges()) {
        const std::uint64_t first = (range.start.value - start_.value) / block_bytes();
        if (auto done = extra().unplug(first, range.bytes / block_bytes()); !done) {
            log_warn("memory.not_unplugged", {{"error", done.error()}});
            metrics.unplug_all_fails.add();
            return VIRTIO_MEM_RESP_BUSY;
        }
    }
    return VIRTIO_MEM_RESP_ACK;
}

}  // namespace wherry::vmm::mem
