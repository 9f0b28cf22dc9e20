#include "vmm/vhost_user/inflight.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <utility>

namespace wherry::vmm::vhost_user {
namespace {

// Of a queue: this, then a Slot a descriptor, and the next queue at a multiple of `alignment`.
struct QueueNotes {
    std::uint64_t features;
    std::uint16_t version;
    std::uint16_t descriptors;
    std::uint16_t last_batch_head;  // answered last, or about to be
    std::uint16_t used_index;       // the ring's, when all answers before it are noted
};
static_assert(sizeof(QueueNotes) == 16);
struct Slot {
    std::uint8_t inflight;
    std::uint8_t padding[5];
    std::uint16_t next;
    std::uint64_t counter;  // orders what is in flight
};
static_assert(sizeof(Slot) == 16);
constexpr std::uint64_t alignment = 64;
constexpr std::uint16_t layout_version = 1;

constexpr std::uint64_t queue_bytes(std::uint16_t queue_size) {
    return (sizeof(QueueNotes) + std::uint64_t{queue_size} * sizeof(Slot) + alignment - 1) / alignment * alignment;
}

constexpr std::size_t slot(std::uint16_t head, std::size_t member) {
    return sizeof(QueueNotes) + std::size_t{head} * sizeof(Slot) + member;
}

}  // namespace

Inflight::Inflight(Inflight&& other) noexcept {
    *this = std::move(other);
}

Inflight& Inflight::operator=(Inflight&& other) noexcept {
    std::swap(file_, other.file_);
    std::swap(memory_, other.memory_);
    std::swap(offset_, other.offset_);
    std::swap(bytes_, other.bytes_);
    std::swap(queues_, other.queues_);
    std::swap(queue_size_, other.queue_size_);
    std::swap(counter_, other.counter_);
    return *this;
}

Inflight::~Inflight() {
    if (memory_ != nullptr) munmap(memory_, offset_ + bytes_);
}

Result<Inflight> Inflight::create(std::uint16_t queues, std::uint16_t queue_size) {
    // SAFETY: makes a descriptor, owned at once.
    Fd file(memfd_create("requests in flight", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    const InflightDescription description = {
        .bytes = queues * queue_bytes(queue_size), .offset = 0, .queues = queues, .queue_size = queue_size};
    if (!file || ftruncate(file.get(), static_cast<off_t>(description.bytes)) != 0 ||
        fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0)
        return fail_errno("memory for requests in flight");
    Inflight made = TRY(map(std::move(file), description));
    for (std::uint16_t i = 0; i < queues; ++i) {
        made.store(i, offsetof(QueueNotes, version), layout_version);
        made.store(i, offsetof(QueueNotes, descriptors), queue_size);
    }
    return made;
}

Result<Inflight> Inflight::map(Fd file, const InflightDescription& description) {
    constexpr std::uint16_t most_queues = 256;
    constexpr std::uint16_t largest_queue = 32768;
    constexpr std::uint64_t farthest = 1ULL << 32U;
    if (description.queues == 0 || description.queues > most_queues || description.queue_size == 0 ||
        description.queue_size > largest_queue || description.offset > farthest ||
        description.offset % alignment != 0 ||
        description.bytes < description.queues * queue_bytes(description.queue_size) || description.bytes > farthest)
        return fail(Code::invalid_argument, "vhost-user: requests in flight of no sense");
    struct stat status = {};
    if (fstat(file.get(), &status) != 0) return fail_errno("memory for requests in flight");
    if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) < description.offset + description.bytes)
        return fail(Code::invalid_argument, "vhost-user: requests in flight beyond their file");
    // From the file's beginning: an offset need not be one of pages.
    // SAFETY: a new mapping at the kernel's choice, unmapped by the destructor.
    void* memory =
        mmap(nullptr, description.offset + description.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (memory == MAP_FAILED) return fail_errno("memory for requests in flight");
    Inflight mapped;
    mapped.file_ = std::move(file);
    mapped.memory_ = static_cast<std::byte*>(memory);
    mapped.offset_ = description.offset;
    mapped.bytes_ = description.bytes;
    mapped.queues_ = description.queues;
    mapped.queue_size_ = description.queue_size;
    return mapped;
}

InflightDescription Inflight::description() const {
    return {.bytes = bytes_, .offset = offset_, .queues = queues_, .queue_size = queue_size_};
}

std::byte* Inflight::at(std::uint16_t queue, std::size_t offset) const {
    return memory_ + offset_ + queue * queue_bytes(queue_size_) + offset;
}

template <class T>
T Inflight::load(std::uint16_t queue, std::size_t offset) const {
    // SAFETY: an aligned number in the mapping, which others write.
    return std::atomic_ref<T>(*reinterpret_cast<T*>(at(queue, offset))).load(std::memory_order_acquire);
}

template <class T>
void Inflight::store(std::uint16_t queue, std::size_t offset, T value) {
    // Releases stay in order among themselves: a process that is killed has done the first of them, and no others.
    // SAFETY: as above.
    std::atomic_ref<T>(*reinterpret_cast<T*>(at(queue, offset))).store(value, std::memory_order_release);
}

void Inflight::begin(std::uint16_t queue, std::uint16_t used) {
    if (queue >= queues_) return;
    for (std::uint16_t head = 0; head < queue_size_; ++head)
        store(queue, slot(head, offsetof(Slot, inflight)), std::uint8_t{0});
    store(queue, offsetof(QueueNotes, used_index), used);
}

void Inflight::taken(std::uint16_t queue, std::uint16_t head) {
    if (queue >= queues_ || head >= queue_size_) return;
    store(queue, slot(head, offsetof(Slot, counter)), counter_++);
    store(queue, slot(head, offsetof(Slot, inflight)), std::uint8_t{1});
}

void Inflight::answering(std::uint16_t queue, std::uint16_t head) {
    if (queue < queues_) store(queue, offsetof(QueueNotes, last_batch_head), head);
}

void Inflight::answered(std::uint16_t queue, std::uint16_t head, std::uint16_t used) {
    if (queue >= queues_ || head >= queue_size_) return;
    store(queue, slot(head, offsetof(Slot, inflight)), std::uint8_t{0});
    store(queue, offsetof(QueueNotes, used_index), used);
}

std::vector<std::uint16_t> Inflight::left(std::uint16_t queue, std::uint16_t used) {
    std::vector<std::uint16_t> heads;
    if (queue >= queues_) return heads;
    // Its answer was shown, and that not noted any more.
    if (load<std::uint16_t>(queue, offsetof(QueueNotes, used_index)) != used)
        answered(queue, load<std::uint16_t>(queue, offsetof(QueueNotes, last_batch_head)), used);
    for (std::uint16_t head = 0; head < queue_size_; ++head)
        if (load<std::uint8_t>(queue, slot(head, offsetof(Slot, inflight))) != 0) heads.push_back(head);
    return heads;
}

}  // namespace wherry::vmm::vhost_user
