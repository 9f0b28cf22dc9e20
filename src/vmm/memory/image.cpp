// Guest memory as a snapshot has it: written to and mapped from files, sent over streams, provided by another process.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "kvm/vm.hpp"
#include "vmm/memory/device_memory.hpp"
#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm {
namespace {

constexpr std::uint64_t page_bytes = DirtyPages::page_bytes;
// One write at a time: long enough to be cheap, and never more than a pipe's reader can wait for.
constexpr std::uint64_t largest_run = 4U << 20U;

Result<> check_ranges(std::span<const GuestRange> ranges, std::uint64_t page) {
    for (const GuestRange& range : ranges)
        if (range.bytes == 0 || range.bytes % page != 0 || range.start.value % page != 0)
            return fail(Code::invalid_argument, "guest memory must be whole pages");
    return {};
}

bool is_zero(const std::byte* page) {
    static constexpr std::array<std::byte, page_bytes> zeroes = {};
    return std::memcmp(page, zeroes.data(), zeroes.size()) == 0;
}

Result<> write_at(int file, const std::byte* data, std::uint64_t bytes, std::uint64_t offset) {
    while (bytes > 0) {
        const ssize_t n = pwrite(file, data, bytes, static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return fail_errno("writing guest memory");
        data += n;
        bytes -= static_cast<std::uint64_t>(n);
        offset += static_cast<std::uint64_t>(n);
    }
    return {};
}

// The next run of data in a file of memory from `at` on, inside [at, end); empty at `end` when there is none.
struct DataRun {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
};
Result<DataRun> next_data(int file, std::uint64_t at, std::uint64_t end) {
    const off_t data = lseek(file, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return DataRun{end, end};
    if (data < 0) return fail_errno("looking for touched memory");
    const off_t hole = lseek(file, data, SEEK_HOLE);
    if (hole < 0) return fail_errno("looking for touched memory");
    return DataRun{std::min(static_cast<std::uint64_t>(data), end), std::min(static_cast<std::uint64_t>(hole), end)};
}

// Entries of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst).
constexpr std::uint64_t pagemap_present = 1ULL << 63U, pagemap_swapped = 1ULL << 62U, pagemap_file = 1ULL << 61U;

// Pages of a private mapping that are its own by now. Everything when nobody can tell (a jail without /proc).
DirtyPages own_pages(const std::byte* host, std::uint64_t bytes) {
    DirtyPages own(bytes);
    const auto file = open_file("/proc/self/pagemap", O_RDONLY);
    // SAFETY: the address as a number; nothing is read through it.
    const std::uint64_t first = reinterpret_cast<std::uintptr_t>(host) / page_bytes;
    std::array<std::uint64_t, 512> entries = {};
    for (std::uint64_t page = 0; page < own.pages();) {
        const std::uint64_t count = std::min<std::uint64_t>(entries.size(), own.pages() - page);
        const auto wanted = static_cast<ssize_t>(count * sizeof entries[0]);
        if (!file || pread(file->get(), entries.data(), static_cast<std::size_t>(wanted),
                           static_cast<off_t>((first + page) * sizeof entries[0])) != wanted) {
            own.mark(0, bytes);
            return own;
        }
        for (std::uint64_t i = 0; i < count; ++i) {
            const bool is_own =
                (entries[i] & (pagemap_present | pagemap_swapped)) != 0 && (entries[i] & pagemap_file) == 0;
            if (is_own) own.mark((page + i) * page_bytes, page_bytes);
        }
        page += count;
    }
    return own;
}

template <class F>
Result<> each_marked(const DirtyPages& marked, F f) {
    for (std::uint64_t page = marked.next(0, true); page < marked.pages();) {
        const std::uint64_t end = std::min(marked.next(page, false), page + largest_run / page_bytes);
        TRY(f(page * page_bytes, (end - page) * page_bytes));
        page = marked.next(end, true);
    }
    return {};
}

// A page run on a stream; after the last one comes the end.
struct RunHeader {
    std::uint64_t address = 0;
    std::uint64_t bytes = 0;
};
constexpr RunHeader end_of_runs = {.address = UINT64_MAX, .bytes = 0};

Result<Fd> open_userfaultfd() {
    // The device is what a jail has; the system call asks for privileges that a jailed process lacks.
    if (const auto device = open_file("/dev/userfaultfd", O_RDWR)) {
        // SAFETY: takes flags; makes a descriptor, owned at once.
        Fd fd(ioctl(device->get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
        if (fd) return fd;
    }
    // SAFETY: makes a descriptor, owned at once.
    Fd fd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
    if (!fd) return fail_errno("userfaultfd");
    return fd;
}

}  // namespace

Result<std::shared_ptr<GuestMemory>> GuestMemory::map_image(std::span<const GuestRange> ranges, int file,
                                                            std::uint64_t pluggable_bytes) {
    TRY(check_ranges(ranges, page_bytes));
    std::uint64_t total = pluggable_bytes;
    for (const GuestRange& range : ranges) total += range.bytes;
    struct stat status = {};
    if (fstat(file, &status) < 0) return fail_errno("memory file");
    if (!S_ISREG(status.st_mode)) return fail(Code::invalid_argument, "the memory file is no regular file");
    if (static_cast<std::uint64_t>(status.st_size) != total)
        return fail(Code::invalid_argument,
                    fmt::format("the memory file has {} bytes, the snapshot is of a machine with {} bytes of memory",
                                status.st_size, total));
    std::shared_ptr<GuestMemory> memory(new GuestMemory);
    memory->backing_ = Backing::private_file;
    std::uint64_t offset = 0;
    for (const GuestRange& range : ranges) {
        // SAFETY: a mapping of its own; unmapped by the owner of the region.
        void* host = mmap(nullptr, range.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file,
                          static_cast<off_t>(offset));
        if (host == MAP_FAILED) return fail_errno("mapping of the memory file");
        memory->add_region(range, static_cast<std::byte*>(host), offset);
        offset += range.bytes;
    }
    return memory;
}

Result<std::shared_ptr<GuestMemory>> GuestMemory::create_faulting(std::span<const GuestRange> ranges,
                                                                  HugePages huge_pages) {
    std::shared_ptr<GuestMemory> memory(new GuestMemory);
    const bool is_huge = huge_pages == HugePages::two_megabytes;
    if (is_huge) memory->page_bytes_ = 2U << 20U;
    TRY(check_ranges(ranges, memory->page_bytes_));
    memory->faults_ = TRY(open_userfaultfd());
    uffdio_api api = {};
    api.api = UFFD_API;
    // What the guest gives back must come back as zeroes, which only the handler can see to.
    api.features = UFFD_FEATURE_EVENT_REMOVE | (is_huge ? std::uint64_t{UFFD_FEATURE_MISSING_HUGETLBFS} : 0);
    // SAFETY: reads and writes the structure.
    if (ioctl(memory->faults_.get(), UFFDIO_API, &api) < 0) return fail_errno("userfaultfd");
    std::uint64_t offset = 0;
    for (const GuestRange& range : ranges) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (is_huge ? MAP_HUGETLB | MAP_HUGE_2MB : 0);
        // SAFETY: a mapping of its own; unmapped by the owner of the region.
        void* host = mmap(nullptr, range.bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (host == MAP_FAILED) return fail_errno("mapping of guest memory");
        memory->add_region(range, static_cast<std::byte*>(host), offset);
        if (huge_pages == HugePages::transparent) madvise(host, range.bytes, MADV_HUGEPAGE);
        uffdio_register region = {};
        // SAFETY: the address as a number, for the kernel; the mapping was just made.
        region.range = {.start = reinterpret_cast<std::uintptr_t>(host), .len = range.bytes};
        region.mode = UFFDIO_REGISTER_MODE_MISSING;
        // SAFETY: reads and writes the structure.
        if (ioctl(memory->faults_.get(), UFFDIO_REGISTER, &region) < 0) return fail_errno("userfaultfd");
        offset += range.bytes;
    }
    return memory;
}

GuestMemory::Handover GuestMemory::handover() const {
    std::string mappings = "[";
    for (const Region& region : regions_) {
        // SAFETY: the address as a number: what the handler fills in, by the descriptor.
        mappings +=
            fmt::format(R"({}{{"base_host_virt_addr":{},"size":{},"offset":{},"page_size":{},"page_size_kib":{}}})",
                        mappings.size() > 1 ? "," : "", reinterpret_cast<std::uintptr_t>(region.host),
                        region.range.bytes, region.file_offset, page_bytes_, page_bytes_);
    }
    return {.descriptor = faults_.get(), .mappings = mappings + "]"};
}

Result<> GuestMemory::collect_dirty(const kvm::Vm& vm, std::uint32_t first_slot) {
    std::uint32_t slot = first_slot;
    for (const Region& region : regions_) region.dirty->merge(TRY(vm.dirty_log(slot++, region.range.bytes)));
    return device_memory_->collect_dirty(vm);
}

void GuestMemory::forget_dirty() {
    for (const Region& region : regions_) region.dirty->clear();
    device_memory_->forget_dirty();
}

std::uint64_t GuestMemory::image_bytes() const {
    return total_bytes() + device_memory_->pluggable_bytes();
}

template <class F>
Result<> GuestMemory::each_run(Pages pages, F f) const {
    for (const Region& region : regions_) {
        const auto run = [&](std::uint64_t offset, std::uint64_t bytes) { return f(region, offset, bytes); };
        if (pages == Pages::dirty) {
            TRY(each_marked(*region.dirty, run));
            continue;
        }
        if (pages == Pages::untracked && backing_ != Backing::shared_file) {
            TRY(each_marked(own_pages(region.host, region.range.bytes), run));
            continue;
        }
        // Memory nobody touched is no page of the mapping, or has no data in its file, and reads as zero.
        if (backing_ == Backing::anonymous) {
            const DirtyPages own = own_pages(region.host, region.range.bytes);
            DirtyPages wanted(region.range.bytes);
            for (std::uint64_t page = own.next(0, true); page < own.pages(); page = own.next(page + 1, true))
                if (!is_zero(region.host + page * page_bytes)) wanted.mark(page * page_bytes, page_bytes);
            TRY(each_marked(wanted, run));
            continue;
        }
        DirtyPages wanted(region.range.bytes);
        if (pages == Pages::untracked) {
            for (std::uint64_t page = region.dirty->next(0, true); page < wanted.pages();
                 page = region.dirty->next(page + 1, true))
                wanted.mark(page * page_bytes, page_bytes);  // what was given back is zero by now
        }
        const std::uint64_t end = region.file_offset + region.range.bytes;
        for (std::uint64_t at = region.file_offset; at < end;) {
            DataRun data{at, end};
            if (backing_ == Backing::shared_file) data = TRY(next_data(file_.get(), at, end));
            for (std::uint64_t offset = data.start / page_bytes * page_bytes; offset < data.end; offset += page_bytes) {
                const std::uint64_t inside = offset - region.file_offset;
                if (pages == Pages::untracked || !is_zero(region.host + inside)) wanted.mark(inside, page_bytes);
            }
            at = data.end;
        }
        TRY(each_marked(wanted, run));
    }
    const auto plugged = device_memory_->backing();
    if (plugged.plugged.empty()) return {};
    const Region region{plugged.range, plugged.host, total_bytes(), nullptr};
    const DirtyPages wanted = TRY(device_memory_->wanted_pages(pages));
    return each_marked(wanted, [&](std::uint64_t offset, std::uint64_t bytes) { return f(region, offset, bytes); });
}

// The pages of plugged blocks that `pages` stands for.
Result<DirtyPages> DeviceMemory::wanted_pages(GuestMemory::Pages pages) const {
    const Backing plugged = backing();
    DirtyPages wanted(plugged.range.bytes);
    for (const GuestRange& block : plugged.plugged) {
        const std::uint64_t start = block.start.value - plugged.range.start.value, end = start + block.bytes;
        if (pages != GuestMemory::Pages::all) {
            for (std::uint64_t page = plugged.dirty->next(start / page_bytes, true); page < end / page_bytes;
                 page = plugged.dirty->next(page + 1, true))
                wanted.mark(page * page_bytes, page_bytes);
        }
        if (pages == GuestMemory::Pages::dirty) continue;
        for (std::uint64_t at = start; at < end;) {
            const DataRun data = TRY(next_data(plugged.file, at, end));
            for (std::uint64_t offset = data.start / page_bytes * page_bytes; offset < data.end; offset += page_bytes)
                if (pages == GuestMemory::Pages::untracked || !is_zero(plugged.host + offset))
                    wanted.mark(offset, page_bytes);
            at = data.end;
        }
    }
    return wanted;
}

Result<> DeviceMemory::load_image(int file, std::uint64_t offset) {
    const Backing plugged = backing();
    for (const GuestRange& block : plugged.plugged) {
        const std::uint64_t start = block.start.value - plugged.range.start.value, end = start + block.bytes;
        for (std::uint64_t at = start; at < end;) {  // what is a hole is zero already
            const DataRun data = TRY(next_data(file, offset + at, offset + end));
            at = data.end - offset;
            std::byte* to = plugged.host + (data.start - offset);
            for (std::uint64_t from = data.start; from < data.end;) {
                const ssize_t n = pread(file, to, data.end - from, static_cast<off_t>(from));
                if (n < 0 && errno == EINTR) continue;
                if (n < 0) return fail_errno("reading plugged memory");
                if (n == 0) return fail(Code::data_loss, "the memory file ends early");
                to += n;
                from += static_cast<std::uint64_t>(n);
            }
        }
    }
    return {};
}

Result<> GuestMemory::write_image(int file, Pages pages) const {
    return each_run(pages, [&](const Region& region, std::uint64_t offset, std::uint64_t bytes) {
        return write_at(file, region.host + offset, bytes, region.file_offset + offset);
    });
}

Result<> GuestMemory::send_image(int stream, Pages pages) const {
    const auto send_header = [stream](const RunHeader& header) {
        std::array<char, sizeof(RunHeader)> raw = {};
        std::memcpy(raw.data(), &header, sizeof header);
        return write_all(stream, {raw.data(), raw.size()});
    };
    TRY(each_run(pages, [&](const Region& region, std::uint64_t offset, std::uint64_t bytes) -> Result<> {
        TRY(send_header({.address = region.range.start.value + offset, .bytes = bytes}));
        // SAFETY: bytes are chars; the run lies in the region.
        return write_all(stream, {reinterpret_cast<const char*>(region.host + offset), bytes});
    }));
    return send_header(end_of_runs);
}

Result<> GuestMemory::receive_image(int stream) {
    for (;;) {
        RunHeader header;
        TRY(read_exact(stream, std::as_writable_bytes(std::span(&header, 1))), "memory of the machine");
        if (header.address == end_of_runs.address && header.bytes == 0) return {};
        std::byte* host = find(GuestAddress{header.address}, header.bytes, Access::write);
        if (host == nullptr || header.bytes == 0 || header.bytes > largest_run)
            return fail(Code::data_loss, "memory of the machine: pages that it does not have");
        TRY(read_exact(stream, {host, header.bytes}), "memory of the machine");
    }
}

}  // namespace wherry::vmm
