// For tests and fuzzing: the guest's side of virtqueues in a small guest memory, and an interrupt that counts.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <vector>

#include "vmm/memory/guest_memory.hpp"
#include "vmm/virtio/device.hpp"
#include "vmm/virtio/queue.hpp"

namespace wherry::vmm::testing {

inline std::shared_ptr<GuestMemory> make_memory(std::uint64_t bytes = 1U << 20U) {
    const GuestRange range{GuestAddress{0}, bytes};
    auto memory = GuestMemory::create(std::span(&range, 1), HugePages::none, Sharing::by_file);
    return memory ? *memory : nullptr;
}

class CountingInterrupt final : public Interrupt {
  public:
    void queue_used(std::uint16_t) override { ++used; }
    void configuration_changed() override { ++configurations; }
    void needs_reset() override { ++resets; }
    unsigned used = 0, configurations = 0, resets = 0;
};

struct Descriptor {
    std::uint64_t address = 0;
    std::uint32_t bytes = 0;
    std::uint16_t flags = 0;
    std::uint16_t next = 0;
};
inline constexpr std::uint16_t next_flag = 1, write_flag = 2, indirect_flag = 4;

// Rings of one queue at `base`: descriptors, available at +0x400, used at +0x800.
class Driver {
  public:
    Driver(GuestMemory& memory, std::uint64_t base, std::uint16_t size = 16)
        : memory_(&memory), base_(base), size_(size) {}

    void configure(QueueState& state) const {
        state.size = size_;
        state.ready = true;
        state.descriptors = GuestAddress{base_};
        state.available = GuestAddress{base_ + 0x400};
        state.used = GuestAddress{base_ + 0x800};
    }
    void set_descriptor(std::uint16_t index, const Descriptor& descriptor) {
        memory_->write(GuestAddress{base_ + std::uint64_t{16} * index}, descriptor);
    }
    void offer(std::uint16_t head) {
        memory_->write(GuestAddress{base_ + 0x404 + std::uint64_t{2} * (available_ % size_)}, head);
        memory_->store_release(GuestAddress{base_ + 0x402}, ++available_);
    }
    // A chain of descriptors from `first` on, in order.
    void offer_chain(std::uint16_t first, std::initializer_list<Descriptor> chain) {
        std::uint16_t index = first;
        for (Descriptor descriptor : chain) {
            const bool is_last = index + 1 == first + static_cast<int>(chain.size());
            if (!is_last) {
                descriptor.flags |= next_flag;
                descriptor.next = static_cast<std::uint16_t>(index + 1);
            }
            set_descriptor(index++, descriptor);
        }
        offer(first);
    }
    struct Used {
        std::uint32_t id = 0;
        std::uint32_t bytes = 0;
    };
    std::uint16_t used_index() const { return *memory_->load_acquire(GuestAddress{base_ + 0x802}); }
    std::optional<Used> take_used() {
        if (used_index() == taken_) return std::nullopt;
        return memory_->read<Used>(GuestAddress{base_ + 0x804 + std::uint64_t{8} * (taken_++ % size_)});
    }

  private:
    GuestMemory* memory_;
    std::uint64_t base_;
    std::uint16_t size_;
    std::uint16_t available_ = 0;
    std::uint16_t taken_ = 0;
};

}  // namespace wherry::vmm::testing
