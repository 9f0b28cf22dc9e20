// How files get into guest memory: of a start of a small machine most is the copying of its kernel, so that is done
// with as few pages, page faults and copies as the host allows.
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm {

void GuestMemory::expect(GuestRange range) {
    if (backing_ == Backing::private_file || page_bytes_ != 4096) return;
    constexpr std::uint64_t huge_page_bytes = 2U << 20U;
    constexpr int collapse = 25;  // MADV_COLLAPSE, of Linux 6.1
    const auto rounded = [](std::uint64_t value) {
        return (value + huge_page_bytes / 2) / huge_page_bytes * huge_page_bytes;
    };
    if (range.bytes > UINT64_MAX / 2 || range.start.value > UINT64_MAX / 2) return;
    const std::uint64_t start = rounded(range.start.value), end = rounded(range.end().value);
    if (end <= start) return;
    std::byte* host = find(GuestAddress{start}, end - start, Access::write);
    if (host == nullptr) return;
    // Hints, both: a host that has no huge pages at hand fills normal ones.
    if (backing_ == Backing::anonymous) {
        madvise(host, end - start, MADV_HUGEPAGE);
        return;
    }
    // There must be something to collapse: a page in each huge page, zero as it is.
    for (std::uint64_t at = 0; at < end - start; at += huge_page_bytes) madvise(host + at, 4096, MADV_POPULATE_WRITE);
    if (madvise(host, end - start, collapse) == 0) collapsed_ = {GuestAddress{start}, end - start};
}

Result<> GuestMemory::load_file(int fd, std::uint64_t offset, GuestAddress address, std::uint64_t bytes) {
    if (find_to_write(address, bytes) == nullptr)
        return fail(Code::out_of_range, "does not fit into the guest's memory");
    struct stat status = {};
    if (fstat(fd, &status) < 0) return fail_errno("reading into guest memory");
    const auto size = static_cast<std::uint64_t>(status.st_size);
    const bool is_whole = S_ISREG(status.st_mode) && offset <= size && bytes <= size - offset;
    if (!is_whole) return load_run(fd, offset, address, bytes);  // a device, or what will be found to end early
    // Kernels are padded to huge pages with zeroes, which are holes where whoever wrote the file saw to it. Small ones
    // are read: finding them costs as much.
    constexpr std::uint64_t smallest_hole = 64U << 10U;
    const std::uint64_t end = offset + bytes;
    const auto next = [fd, end](std::uint64_t at, int what) {
        const off_t found = lseek(fd, static_cast<off_t>(at), what);
        // Nothing but a hole from here on; or a file system that does not tell.
        if (found < 0) return what == SEEK_DATA && errno != ENXIO ? at : end;
        // Data has a byte at least, whatever becomes of the file meanwhile.
        return std::clamp(static_cast<std::uint64_t>(found), what == SEEK_HOLE ? at + 1 : at, end);
    };
    for (std::uint64_t start = next(offset, SEEK_DATA); start < end;) {
        std::uint64_t run_end = next(start, SEEK_HOLE), following = end;
        while (run_end < end && (following = next(run_end, SEEK_DATA)) - run_end < smallest_hole && following < end)
            run_end = next(following, SEEK_HOLE);
        TRY(load_run(fd, start, address + (start - offset), run_end - start));
        start = run_end < end ? following : end;
    }
    return {};
}

// One run of data.
Result<> GuestMemory::load_run(int fd, std::uint64_t offset, GuestAddress address, std::uint64_t bytes) {
    std::byte* host = find_to_write(address, bytes);
    if (host == nullptr) return fail(Code::out_of_range, "does not fit into the guest's memory");
    // Huge pages are mapped already: one copy, and no page to find for each piece.
    const bool is_collapsed = address >= collapsed_.start && bytes <= collapsed_.bytes &&
                              address.value - collapsed_.start.value <= collapsed_.bytes - bytes;
    const std::uint64_t sent = is_collapsed ? 0 : TRY(send_file(fd, offset, address, bytes));
    host += sent;
    offset += sent;
    bytes -= sent;
    while (bytes > 0) {
        const ssize_t n = pread(fd, host, bytes, static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno("reading into guest memory");
        if (n == 0) return fail(Code::data_loss, "the file ends early");
        host += n;
        offset += static_cast<std::uint64_t>(n);
        bytes -= static_cast<std::uint64_t>(n);
    }
    return {};
}

// From page cache to page cache: fresh pages are neither zeroed nor mapped first. Stops early, without an error, where
// the file or the memory cannot be spliced (hugetlbfs, anonymous memory); how many bytes there were.
Result<std::uint64_t> GuestMemory::send_file(int fd, std::uint64_t offset, GuestAddress address, std::uint64_t bytes) {
    if (backing_ != Backing::shared_file || page_bytes_ != 4096 || offset > INT64_MAX) return std::uint64_t{0};
    const auto region = std::ranges::find_if(
        regions_, [address](const Region& one) { return address >= one.range.start && address < one.range.end(); });
    if (region == regions_.end()) return std::uint64_t{0};
    const std::uint64_t target = region->file_offset + (address.value - region->range.start.value);
    if (lseek(file_.get(), static_cast<off_t>(target), SEEK_SET) < 0) return fail_errno("guest memory");
    auto from = static_cast<off_t>(offset);
    std::uint64_t sent = 0;
    while (sent < bytes) {
        const ssize_t n = sendfile(file_.get(), fd, &from, bytes - sent);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        sent += static_cast<std::uint64_t>(n);
    }
    return sent;
}

}  // namespace wherry::vmm
