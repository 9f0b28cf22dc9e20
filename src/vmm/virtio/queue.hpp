// The device's side of a split virtqueue (Virtio 1.2, section 2.7), against a guest that may write anything anywhere
// at any time. Every index and descriptor is read once, by value, and proven before use; a chain can be neither
// longer than the queue nor loop, and all of its buffers lie in guest memory. A violation is an error, after which
// the device asks for a reset and leaves the queue alone.
//
// Belongs to the device's lock. Features: VIRTIO_F_EVENT_IDX and VIRTIO_F_INDIRECT_DESC when negotiated.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "base/result.hpp"
#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm {

// A request: what the guest gives and what it wants written.
struct Chain {
    std::uint16_t head = 0;
    GuestBuffers readable;
    GuestBuffers writable;
};

// What the guest configured, and where we are; plain data, saved as it is.
struct QueueState {
    std::uint16_t size = 0;
    bool ready = false;
    GuestAddress descriptors;
    GuestAddress available;
    GuestAddress used;
    std::uint16_t next_available = 0;
    std::uint16_t next_used = 0;
    std::uint16_t signalled_used = 0;
    bool event_index = false;
    bool indirect = false;

    friend bool operator==(const QueueState&, const QueueState&) = default;
    void fields(this auto& self, auto&& f) {
        f(self.size, self.ready, self.descriptors, self.available, self.used, self.next_available, self.next_used,
          self.signalled_used, self.event_index, self.indirect);
    }
};

class Queue {
  public:
    explicit Queue(std::uint16_t max_size) : max_size_(max_size) { state.size = max_size; }

    std::uint16_t max_size() const { return max_size_; }
    // Proves that the three parts lie in memory, aligned, and the size is a power of two. Before the first pop().
    Result<> start(std::shared_ptr<GuestMemory> memory);
    void reset();
    bool started() const { return memory_ != nullptr; }

    // The next request, or false when there is none (then the guest will notify of the next one).
    Result<bool> pop(Chain& chain);
    // A request by the number of its first descriptor, without popping it: for one that another process has popped.
    Result<> read_chain(std::uint16_t head, Chain& chain);
    // Puts the request popped last back, to be popped again.
    void undo_pop() { --state.next_available; }
    // Requests waiting, without taking one. 0 also when the queue is broken: pop() will say so.
    std::uint16_t pending() const;
    // Asks for a notification of the next request, though there are some.
    void want_notification();
    // The request is done, `written` bytes of its writable part are new. In any order.
    void push(std::uint16_t head, std::uint32_t written);
    // The same in two steps, for requests that must appear done together: each stage() fills a place, publish() shows
    // them all.
    void stage(std::uint16_t head, std::uint32_t written);
    void publish();
    // Whether the guest wants to hear of what was pushed since the last call.
    bool take_signal();

    QueueState state;

  private:
    Result<> add_descriptor(Chain& chain, GuestAddress table, std::uint16_t table_size, std::uint16_t index);
    std::optional<std::uint16_t> available_index() const;

    std::uint16_t max_size_;
    std::shared_ptr<GuestMemory> memory_;
};

}  // namespace wherry::vmm
