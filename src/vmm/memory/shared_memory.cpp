// Guest memory between processes: what is told to another one, and the other one's view.
#include <sys/mman.h>
#include <sys/stat.h>

#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm {
namespace {

// What Linux maps at a fault that only reads, as far as it is in memory already (fault_around_bytes).
constexpr std::uint64_t window_bytes = 65536;

// The bytes between the border of a window and a mapping's beginning.
std::uint64_t head_bytes(const std::byte* host) {
    // SAFETY: an address as a number.
    return reinterpret_cast<std::uintptr_t>(host) % window_bytes;
}

}  // namespace

Result<std::vector<SharedRange>> GuestMemory::shared_ranges() const {
    if (backing_ != Backing::shared_file || !file_)
        return fail(
            Code::conflict,
            "guest memory that is no file's (transparent huge pages, a snapshot's) cannot be shared with another "
            "process");
    std::vector<SharedRange> shared;
    for (const Region& region : regions_) shared.push_back({region.range, file_.get(), region.file_offset});
    return shared;
}

Result<std::shared_ptr<GuestMemory>> GuestMemory::map(std::span<const SharedRange> ranges) {
    std::shared_ptr<GuestMemory> memory(new GuestMemory);
    memory->backing_ = Backing::shared_file;
    for (const SharedRange& shared : ranges) {
        const GuestRange& range = shared.range;
        constexpr std::uint64_t largest = 1ULL << 46U;
        if (range.bytes == 0 || range.bytes > largest || range.start.value > largest || shared.file_offset > largest)
            return fail(Code::invalid_argument, "guest memory: a range of no sense");
        for (const Region& other : memory->regions_)
            if (range.start < other.range.end() && other.range.start < range.end())
                return fail(Code::invalid_argument, "guest memory: ranges overlap");
        struct stat status = {};
        if (fstat(shared.file, &status) != 0) return fail_errno("file of guest memory");
        if (!S_ISREG(status.st_mode) || static_cast<std::uint64_t>(status.st_size) < shared.file_offset + range.bytes)
            return fail(Code::invalid_argument, "guest memory: a range beyond its file");
        // SAFETY: a new mapping at the kernel's choice, unmapped by the destructor.
        void* host = mmap(nullptr, range.bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, shared.file,
                          static_cast<off_t>(shared.file_offset));
        if (host == MAP_FAILED) return fail_errno("mapping of guest memory");
        memory->add_region(range, static_cast<std::byte*>(host), shared.file_offset);
        Region& region = memory->regions_.back();
        const std::uint64_t windows = (head_bytes(region.host) + range.bytes) / window_bytes + 1;
        region.touched = std::make_unique<DirtyPages>(windows * DirtyPages::page_bytes);
    }
    return memory;
}

// The pages are the guest's and there, but not in this process' page table yet, and a fault that writes maps a single
// one. One that reads maps its neighbours as well: a read first saves fifteen faults of sixteen. Only pages that will
// be written are read, so that none comes into being that would not have otherwise.
void GuestMemory::touch(const Region& region, const std::byte* host, std::uint64_t bytes) {
    if (bytes == 0) return;
    const std::uint64_t head = head_bytes(region.host);
    const std::uint64_t start = head + static_cast<std::uint64_t>(host - region.host);
    for (std::uint64_t window = start / window_bytes; window <= (start + bytes - 1) / window_bytes; ++window) {
        if (region.touched->next(window, true) == window) continue;
        region.touched->mark(window * DirtyPages::page_bytes, 1);
        const std::byte* at = window * window_bytes > start ? region.host + (window * window_bytes - head) : host;
        // SAFETY: inside of the bytes to be written, which are inside of the mapping.
        [[maybe_unused]] const std::byte seen = *static_cast<const volatile std::byte*>(at);
    }
}

}  // namespace wherry::vmm
