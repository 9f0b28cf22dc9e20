#include "vmm/memory/pluggable.hpp"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace wherry::vmm {
namespace {

// Addresses aligned so that the guest's huge pages can be the host's. Nothing is reserved: memory counts when it is
// plugged.
Result<std::byte*> map_aligned(int file, std::uint64_t bytes, int protection) {
    // SAFETY: addresses of our own; what is over at both ends is given back.
    void* start =
        mmap(nullptr, bytes + window_alignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return fail_errno("addresses for memory to plug");
    auto* first = static_cast<std::byte*>(start);
    // SAFETY: the address as a number, to align it.
    const std::uint64_t before =
        (window_alignment - reinterpret_cast<std::uintptr_t>(first) % window_alignment) % window_alignment;
    if (before > 0) munmap(first, before);
    munmap(first + before + bytes, window_alignment - before);
    std::byte* host = first + before;
    // SAFETY: over those addresses; unmapped by the owner.
    if (mmap(host, bytes, protection, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, file, 0) == MAP_FAILED) {
        const int error = errno;
        munmap(host, bytes);
        return fail_errno(error, "mapping of memory to plug");
    }
    return host;
}

}  // namespace

Result<std::unique_ptr<DeviceMemory::Pluggable>> DeviceMemory::Pluggable::create(const PluggableRange& config) {
    const std::uint64_t block = config.block_bytes, slot = config.slot_bytes, bytes = config.range.bytes;
    if (block < window_alignment || block % window_alignment != 0 || slot == 0 || slot % block != 0 || bytes == 0 ||
        bytes % slot != 0 || config.range.start.value % block != 0)
        return fail(Code::invalid_argument, "memory to plug must be whole slots of whole blocks");
    std::unique_ptr<Pluggable> made(new Pluggable);
    made->config_ = config;
    unsigned flags = MFD_CLOEXEC;
    if (config.huge_pages == HugePages::two_megabytes) flags |= MFD_HUGETLB | MFD_HUGE_2MB;
    // SAFETY: makes a descriptor, owned at once.
    made->file_ = Fd(memfd_create("pluggable guest memory", flags));
    if (!made->file_) return fail_errno("memory to plug");
    if (ftruncate(made->file_.get(), static_cast<off_t>(bytes)) < 0) return fail_errno("size of memory to plug");
    made->monitor_view_ = TRY(map_aligned(made->file_.get(), bytes, PROT_READ | PROT_WRITE));
    made->guest_view_ = TRY(map_aligned(made->file_.get(), bytes, PROT_NONE));
    // Advice: as far as the host gives huge pages to shared memory (shmem_enabled).
    if (config.huge_pages == HugePages::transparent) madvise(made->guest_view_, bytes, MADV_HUGEPAGE);
    madvise(made->guest_view_, bytes, MADV_DONTDUMP);
    madvise(made->monitor_view_, bytes, MADV_DONTDUMP);
    made->plugged_.resize(bytes / block);
    made->in_kvm.resize(bytes / slot);
    made->dirty_ = std::make_unique<DirtyPages>(bytes);
    return made;
}

DeviceMemory::Pluggable::~Pluggable() {
    if (monitor_view_ != nullptr) munmap(monitor_view_, config_.range.bytes);
    if (guest_view_ != nullptr) munmap(guest_view_, config_.range.bytes);
}

std::byte* DeviceMemory::Pluggable::find(GuestAddress address, std::uint64_t bytes) const {
    if (address < config_.range.start) return nullptr;
    const std::uint64_t offset = address.value - config_.range.start.value;
    if (offset >= config_.range.bytes || bytes > config_.range.bytes - offset) return nullptr;
    const std::uint64_t last = bytes == 0 ? offset : offset + bytes - 1;
    for (std::uint64_t block = offset / config_.block_bytes; block <= last / config_.block_bytes; ++block)
        if (!plugged_[block]) return nullptr;
    return monitor_view_ + offset;
}

bool DeviceMemory::Pluggable::address_of(const std::byte* host, GuestAddress& address) const {
    if (host < monitor_view_ || host >= monitor_view_ + config_.range.bytes) return false;
    address = config_.range.start + static_cast<std::uint64_t>(host - monitor_view_);
    return true;
}

std::uint64_t DeviceMemory::Pluggable::count(std::uint64_t first, std::uint64_t count) const {
    const auto begin = plugged_.begin() + static_cast<std::ptrdiff_t>(first);
    return static_cast<std::uint64_t>(std::count(begin, begin + static_cast<std::ptrdiff_t>(count), true));
}

std::vector<GuestRange> DeviceMemory::Pluggable::plugged_ranges() const {
    std::vector<GuestRange> ranges;
    for (std::uint64_t block = 0; block < plugged_.size(); ++block) {
        if (!plugged_[block]) continue;
        const GuestAddress start = config_.range.start + block * config_.block_bytes;
        if (!ranges.empty() && ranges.back().end() == start) {
            ranges.back().bytes += config_.block_bytes;
        } else {
            ranges.push_back({start, config_.block_bytes});
        }
    }
    return ranges;
}

Result<> DeviceMemory::Pluggable::protect(std::uint64_t first, std::uint64_t count, int protection) {
    if (mprotect(guest_view_ + first * config_.block_bytes, count * config_.block_bytes, protection) < 0)
        return fail_errno("protection of plugged memory");
    return {};
}

Result<> DeviceMemory::Pluggable::plug(std::uint64_t first, std::uint64_t count) {
    const std::uint64_t offset = first * config_.block_bytes, bytes = count * config_.block_bytes;
    // A transfer that outlived the block before may have left something.
    TRY(discard(offset, bytes));
    // Huge pages are taken now: better refused than a fault when the guest first touches one.
    if (config_.huge_pages == HugePages::two_megabytes &&
        fallocate(file_.get(), 0, static_cast<off_t>(offset), static_cast<off_t>(bytes)) < 0) {
        const int error = errno;
        [[maybe_unused]] const auto given_back = discard(offset, bytes);
        return fail_errno(error, "huge pages to plug");
    }
    TRY(protect(first, count, PROT_READ | PROT_WRITE));
    for (std::uint64_t block = first; block < first + count; ++block) plugged_[block] = true;
    dirty_->mark(offset, bytes);  // it is zero now, whatever it was
    return {};
}

Result<> DeviceMemory::Pluggable::unplug(std::uint64_t first, std::uint64_t count) {
    TRY(protect(first, count, PROT_NONE));
    for (std::uint64_t block = first; block < first + count; ++block) plugged_[block] = false;
    return discard(first * config_.block_bytes, count * config_.block_bytes);
}

Result<> DeviceMemory::Pluggable::discard(std::uint64_t offset, std::uint64_t bytes) {
    dirty_->mark(offset, bytes);
    if (fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                  static_cast<off_t>(bytes)) < 0)
        return fail_errno("giving guest memory back");
    return {};
}

std::uint64_t DeviceMemory::Pluggable::resident_bytes() const {
    struct stat status = {};
    if (fstat(file_.get(), &status) < 0) return 0;
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

}  // namespace wherry::vmm
