#include "vmm/memory/guest_memory.hpp"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kvm/vm.hpp"
#include "vmm/memory/device_memory.hpp"

namespace wherry::vmm {
namespace {

constexpr std::uint64_t huge_page_bytes = 2U << 20U;

// A new mapping at an address of the kernel's choice, aligned for huge pages: host and guest addresses must agree
// modulo their size for one to be mapped by the other.
Result<std::byte*> map_region(int file, std::uint64_t offset, std::uint64_t bytes, HugePages huge_pages) {
    const std::uint64_t room = bytes + huge_page_bytes;
    // SAFETY: a mapping of its own; unmapped by the owner of the region, what is over at both ends is given back.
    void* start = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return fail_errno("mmap");
    auto* first = static_cast<std::byte*>(start);
    // SAFETY: the address as a number, to align it.
    const std::uint64_t before =
        (huge_page_bytes - reinterpret_cast<std::uintptr_t>(first) % huge_page_bytes) % huge_page_bytes;
    if (before > 0) munmap(first, before);
    if (before < huge_page_bytes) munmap(first + before + bytes, huge_page_bytes - before);
    std::byte* host = first + before;
    if (file < 0) return host;
    // Huge pages are reserved now: better an error here than a fault when the guest first touches one.
    const int flags = MAP_SHARED | MAP_FIXED | (huge_pages == HugePages::none ? MAP_NORESERVE : 0);
    // SAFETY: replaces the mapping just made, which nobody has seen yet.
    if (mmap(host, bytes, PROT_READ | PROT_WRITE, flags, file, static_cast<off_t>(offset)) == MAP_FAILED) {
        const int error = errno;
        munmap(host, bytes);
        return fail_errno(error, "mmap");
    }
    return host;
}

}  // namespace

Result<std::shared_ptr<GuestMemory>> GuestMemory::create(std::span<const GuestRange> ranges, HugePages huge_pages,
                                                         Sharing sharing) {
    std::shared_ptr<GuestMemory> memory(new GuestMemory);
    std::uint64_t total = 0;
    for (const GuestRange& range : ranges) total += range.bytes;
    if (huge_pages == HugePages::two_megabytes) memory->page_bytes_ = huge_page_bytes;
    if (huge_pages == HugePages::two_megabytes || (huge_pages == HugePages::none && sharing == Sharing::by_file)) {
        unsigned flags = MFD_CLOEXEC;
        if (huge_pages == HugePages::two_megabytes) flags |= MFD_HUGETLB | MFD_HUGE_2MB;
        // SAFETY: makes a descriptor, owned at once.
        memory->file_ = Fd(memfd_create("guest memory", flags));
        if (!memory->file_) return fail_errno("memory of the guest");
        if (ftruncate(memory->file_.get(), static_cast<off_t>(total)) < 0) return fail_errno("size of guest memory");
    }
    memory->backing_ = memory->file_ ? Backing::shared_file : Backing::anonymous;
    std::uint64_t offset = 0;
    for (const GuestRange& range : ranges) {
        if (range.bytes == 0 || range.bytes % memory->page_bytes_ != 0 || range.start.value % memory->page_bytes_ != 0)
            return fail(Code::invalid_argument, "guest memory must be whole pages");
        std::byte* host =
            TRY(map_region(memory->file_.get(), offset, range.bytes, huge_pages), "mapping of guest memory");
        memory->add_region(range, host, offset);
        // Advice: a host without huge pages or core dumps works as well.
        if (huge_pages == HugePages::transparent) madvise(host, range.bytes, MADV_HUGEPAGE);
        offset += range.bytes;
    }
    return memory;
}

void GuestMemory::add_region(const GuestRange& range, std::byte* host, std::uint64_t offset) {
    regions_.push_back({range, host, offset, std::make_unique<DirtyPages>(range.bytes), nullptr});
    madvise(host, range.bytes, MADV_DONTDUMP);
}

GuestMemory::GuestMemory() : device_memory_(std::make_unique<DeviceMemory>()) {}

GuestMemory::~GuestMemory() {
    for (const Region& region : regions_) munmap(region.host, region.range.bytes);
}

std::vector<GuestRange> GuestMemory::ranges() const {
    std::vector<GuestRange> ranges;
    for (const Region& region : regions_) ranges.push_back(region.range);
    return ranges;
}

std::uint64_t GuestMemory::total_bytes() const {
    std::uint64_t total = 0;
    for (const Region& region : regions_) total += region.range.bytes;
    return total;
}

std::byte* GuestMemory::find(GuestAddress address, std::uint64_t bytes, Access access) const {
    for (const Region& region : regions_) {
        if (address < region.range.start) continue;
        const std::uint64_t offset = address.value - region.range.start.value;
        if (offset < region.range.bytes && bytes <= region.range.bytes - offset) return region.host + offset;
    }
    return device_memory_->find(address, bytes, access);
}

void GuestMemory::mark_written(const std::byte* host, std::uint64_t bytes) const {
    for (const Region& region : regions_) {
        if (host < region.host || host >= region.host + region.range.bytes) continue;
        region.dirty->mark(static_cast<std::uint64_t>(host - region.host), bytes);
        if (region.touched) touch(region, host, bytes);
        return;
    }
    device_memory_->mark_written(host, bytes);
}

std::byte* GuestMemory::find_to_write(GuestAddress address, std::uint64_t bytes) {
    std::byte* host = find(address, bytes, Access::write);
    if (host != nullptr) mark_written(host, bytes);
    return host;
}

bool GuestMemory::read_bytes(GuestAddress address, std::span<std::byte> out) const {
    const std::byte* host = find(address, out.size(), Access::read);
    if (host == nullptr) return false;
    if (!out.empty()) std::memcpy(out.data(), host, out.size());
    // What was copied is what is judged: the compiler must not read it a second time.
    asm volatile("" ::: "memory");
    return true;
}

bool GuestMemory::write_bytes(GuestAddress address, std::span<const std::byte> data) {
    std::byte* host = find_to_write(address, data.size());
    if (host == nullptr) return false;
    if (!data.empty()) std::memcpy(host, data.data(), data.size());
    return true;
}

bool GuestMemory::write_bytes(GuestAddress address, std::string_view data) {
    return write_bytes(address, std::as_bytes(std::span(data)));
}

bool GuestMemory::fill(GuestAddress address, std::uint64_t bytes, std::byte value) {
    std::byte* host = find_to_write(address, bytes);
    if (host == nullptr) return false;
    std::memset(host, std::to_integer<int>(value), bytes);
    return true;
}

std::optional<std::uint16_t> GuestMemory::load_acquire(GuestAddress address) const {
    const std::byte* host = find(address, sizeof(std::uint16_t), Access::read);
    if (host == nullptr || address.value % sizeof(std::uint16_t) != 0) return std::nullopt;
    // SAFETY: inside a region and aligned; regions start at page boundaries.
    return __atomic_load_n(reinterpret_cast<const std::uint16_t*>(host), __ATOMIC_ACQUIRE);
}

bool GuestMemory::store_release(GuestAddress address, std::uint16_t value) {
    if (address.value % sizeof(std::uint16_t) != 0) return false;
    std::byte* host = find_to_write(address, sizeof(std::uint16_t));
    if (host == nullptr) return false;
    // SAFETY: inside a region and aligned; regions start at page boundaries.
    __atomic_store_n(reinterpret_cast<std::uint16_t*>(host), value, __ATOMIC_RELEASE);
    return true;
}

Result<> GuestMemory::discard(GuestAddress address, std::uint64_t bytes) {
    const std::uint64_t start = (address.value + page_bytes_ - 1) / page_bytes_ * page_bytes_;
    if (bytes > UINT64_MAX - address.value) return fail(Code::out_of_range, "outside of guest memory");
    const std::uint64_t end = (address.value + bytes) / page_bytes_ * page_bytes_;
    if (end <= start) return {};
    for (const Region& region : regions_) {
        if (start < region.range.start.value || end > region.range.end().value) continue;
        const std::uint64_t inside = start - region.range.start.value;
        region.dirty->mark(inside, end - start);
        constexpr const char* what = "giving guest memory back";
        switch (backing_) {
            case Backing::shared_file:
                if (fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              static_cast<off_t>(region.file_offset + inside), static_cast<off_t>(end - start)) < 0)
                    return fail_errno(what);
                break;
            case Backing::private_file:
                // Without its pages the file would show through again.
                // SAFETY: replaces pages of our own mapping, which KVM follows.
                if (mmap(region.host + inside, end - start, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
                    return fail_errno(what);
                madvise(region.host + inside, end - start, MADV_DONTDUMP);
                break;
            case Backing::anonymous:
                if (madvise(region.host + inside, end - start, MADV_DONTNEED) < 0) return fail_errno(what);
                break;
        }
        return {};
    }
    if (TRY(device_memory_->discard(GuestAddress{start}, end - start))) return {};
    return fail(Code::out_of_range, "outside of guest memory");
}

Result<> GuestMemory::attach(const kvm::Vm& vm, std::uint32_t first_slot, bool log_dirty_pages) {
    std::uint32_t slot = first_slot;
    for (const Region& region : regions_) {
        TRY(vm.set_memory({.slot = slot++,
                           .guest_address = region.range.start.value,
                           .bytes = region.range.bytes,
                           .host = region.host,
                           .log_dirty_pages = log_dirty_pages}));
    }
    device_memory_->use(vm, slot, log_dirty_pages);
    return {};
}

Result<std::uint64_t> GuestMemory::resident_bytes() const {
    std::uint64_t pages = 0;
    std::vector<unsigned char> chunk(4096);
    for (const Region& region : regions_) {
        for (std::uint64_t done = 0; done < region.range.bytes;) {
            const std::uint64_t bytes = std::min<std::uint64_t>(region.range.bytes - done, chunk.size() * 4096);
            if (mincore(region.host + done, bytes, chunk.data()) < 0) return fail_errno("mincore");
            pages += static_cast<std::uint64_t>(std::count_if(chunk.begin(),
                                                              chunk.begin() + static_cast<std::ptrdiff_t>(bytes / 4096),
                                                              [](unsigned char page) { return (page & 1U) != 0; }));
            done += bytes;
        }
    }
    return pages * 4096 + device_memory_->resident_bytes();
}

}  // namespace wherry::vmm
