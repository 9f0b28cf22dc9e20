#include "vmm/virtio/queue.hpp"

#include <atomic>

namespace wherry::vmm {
namespace {

struct Descriptor {
    std::uint64_t address;
    std::uint32_t bytes;
    std::uint16_t flags;
    std::uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

constexpr std::uint16_t descriptor_next = 1;
constexpr std::uint16_t descriptor_write = 2;
constexpr std::uint16_t descriptor_indirect = 4;
constexpr std::uint16_t available_no_interrupt = 1;

struct UsedElement {
    std::uint32_t id;
    std::uint32_t bytes;
};

std::unexpected<Error> broken(const char* what) {
    return fail(Code::invalid_argument, std::string("virtqueue: ") + what);
}

}  // namespace

Result<> Queue::start(std::shared_ptr<GuestMemory> memory) {
    if (!state.ready) return broken("not ready");
    const std::uint16_t size = state.size;
    if (size == 0 || size > max_size_ || (size & (size - 1U)) != 0) return broken("size");
    if (state.descriptors.value % 16 != 0 || state.available.value % 2 != 0 || state.used.value % 4 != 0)
        return broken("alignment");
    if (!memory->contains(state.descriptors, std::uint64_t{16} * size) ||
        !memory->contains(state.available, 6 + std::uint64_t{2} * size) ||
        !memory->contains(state.used, 6 + std::uint64_t{8} * size))
        return broken("outside of memory");
    memory_ = std::move(memory);
    return {};
}

void Queue::reset() {
    state = QueueState{};
    state.size = max_size_;
    memory_.reset();
}

std::optional<std::uint16_t> Queue::available_index() const {
    return memory_ == nullptr ? std::nullopt : memory_->load_acquire(state.available + 2);
}

std::uint16_t Queue::pending() const {
    const auto index = available_index();
    if (!index) return 0;
    const auto waiting = static_cast<std::uint16_t>(*index - state.next_available);
    return waiting > state.size ? std::uint16_t{0} : waiting;
}

void Queue::want_notification() {
    if (const auto index = available_index(); index && state.event_index)
        memory_->store_release(state.used + 4 + std::uint64_t{8} * state.size, *index);
}

Result<bool> Queue::pop(Chain& chain) {
    auto index = available_index();
    if (!index) return broken("not started");
    if (*index == state.next_available) {
        if (!state.event_index) return false;
        // Ask to be notified of the next request, then look again: it may have come in between (section 2.7.10).
        memory_->store_release(state.used + 4 + std::uint64_t{8} * state.size, state.next_available);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        index = available_index();
        if (*index == state.next_available) return false;
    }
    if (static_cast<std::uint16_t>(*index - state.next_available) > state.size)
        return broken("more requests than it has room for");
    const auto slot = static_cast<std::uint16_t>(state.next_available % state.size);
    const auto head = memory_->read<std::uint16_t>(state.available + 4 + std::uint64_t{2} * slot);
    if (!head) return broken("head outside of the table");
    TRY(read_chain(*head, chain));
    ++state.next_available;
    return true;
}

Result<> Queue::read_chain(std::uint16_t head, Chain& chain) {
    chain.readable.clear();
    chain.writable.clear();
    if (memory_ == nullptr) return broken("not started");
    if (head >= state.size) return broken("head outside of the table");
    chain.head = head;
    return add_descriptor(chain, state.descriptors, state.size, head);
}

Result<> Queue::add_descriptor(Chain& chain, GuestAddress table, std::uint16_t table_size, std::uint16_t index) {
    bool inside_indirect = false;
    // No chain is longer than the queue, through an indirect table or not.
    for (std::uint32_t steps = 0; steps <= state.size; ++steps) {
        if (index >= table_size) return broken("descriptor outside of the table");
        const auto descriptor = memory_->read<Descriptor>(table + std::uint64_t{16} * index);
        if (!descriptor) return broken("table outside of memory");
        if ((descriptor->flags & descriptor_indirect) != 0) {
            if (!state.indirect || inside_indirect || (descriptor->flags & descriptor_next) != 0)
                return broken("indirect descriptor out of place");
            if (descriptor->bytes == 0 || descriptor->bytes % 16 != 0 || descriptor->bytes / 16 > state.size)
                return broken("indirect table's size");
            table = GuestAddress{descriptor->address};
            table_size = static_cast<std::uint16_t>(descriptor->bytes / 16);
            if (!memory_->contains(table, descriptor->bytes)) return broken("indirect table outside of memory");
            inside_indirect = true;
            index = 0;
            continue;
        }
        const bool is_writable = (descriptor->flags & descriptor_write) != 0;
        if (!is_writable && !chain.writable.empty()) return broken("readable part behind a writable one");
        GuestBuffers& half = is_writable ? chain.writable : chain.readable;
        const Access access = is_writable ? Access::write : Access::read;
        if (!half.append(*memory_, GuestAddress{descriptor->address}, descriptor->bytes, access))
            return broken("buffer outside of memory");
        if (half.size() > UINT32_MAX) return broken("request of more than 4 GiB");
        if ((descriptor->flags & descriptor_next) == 0) return {};
        index = descriptor->next;
    }
    return broken("chain without an end");
}

void Queue::stage(std::uint16_t head, std::uint32_t written) {
    if (memory_ == nullptr) return;
    const auto slot = static_cast<std::uint16_t>(state.next_used % state.size);
    memory_->write(state.used + 4 + std::uint64_t{8} * slot, UsedElement{head, written});
    ++state.next_used;
}

void Queue::publish() {
    if (memory_ != nullptr) memory_->store_release(state.used + 2, state.next_used);
}

void Queue::push(std::uint16_t head, std::uint32_t written) {
    stage(head, written);
    publish();
}

bool Queue::take_signal() {
    if (memory_ == nullptr || state.signalled_used == state.next_used) return false;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const std::uint16_t before = state.signalled_used;
    state.signalled_used = state.next_used;
    if (!state.event_index) {
        const auto flags = memory_->load_acquire(state.available);
        return !flags || (*flags & available_no_interrupt) == 0;
    }
    const auto event = memory_->load_acquire(state.available + 4 + std::uint64_t{2} * state.size);
    if (!event) return true;
    // Section 2.7.10.1: true when the event lies between the old and the new index.
    return static_cast<std::uint16_t>(state.next_used - *event - 1) <
           static_cast<std::uint16_t>(state.next_used - before);
}

}  // namespace wherry::vmm
