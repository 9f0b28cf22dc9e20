#include <liburing.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>

#include "vmm/memory/device_memory.hpp"
#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm {

struct GuestBuffers::Pieces {
    std::vector<iovec> list;
};

GuestBuffers::GuestBuffers() : pieces_(std::make_unique<Pieces>()) {}
GuestBuffers::~GuestBuffers() = default;
GuestBuffers::GuestBuffers(GuestBuffers&& other) noexcept = default;
GuestBuffers& GuestBuffers::operator=(GuestBuffers&& other) noexcept = default;

namespace {

// The pieces from `offset` on, one call of `f(host, bytes)` each, until `bytes` are done.
template <class F>
std::size_t each_piece(const std::vector<iovec>& list, std::uint64_t offset, std::uint64_t bytes, F f) {
    std::size_t done = 0;
    for (const iovec& piece : list) {
        if (done == bytes) break;
        if (offset >= piece.iov_len) {
            offset -= piece.iov_len;
            continue;
        }
        const std::size_t now = std::min<std::size_t>(piece.iov_len - offset, bytes - done);
        f(static_cast<std::byte*>(piece.iov_base) + offset, now);
        done += now;
        offset = 0;
    }
    return done;
}

// How many entries one readv or writev takes.
int vector_count(std::size_t pieces) {
    return static_cast<int>(std::min<std::size_t>(pieces, IOV_MAX));
}

}  // namespace

void GuestBuffers::mark_written(std::uint64_t offset, std::uint64_t bytes) const {
    each_piece(pieces_->list, offset, bytes,
               [this](const std::byte* host, std::size_t n) { memory_->mark_written(host, n); });
}

void GuestBuffers::clear() {
    pieces_->list.clear();
    size_ = 0;
}

std::size_t GuestBuffers::pieces() const {
    return pieces_->list.size();
}

bool GuestBuffers::append(const GuestMemory& memory, GuestAddress address, std::uint32_t bytes, Access access) {
    if (bytes == 0) return true;
    std::byte* host = memory.find(address, bytes, access);
    if (host == nullptr) return false;
    memory_ = &memory;
    auto& list = pieces_->list;
    if (!list.empty() && static_cast<std::byte*>(list.back().iov_base) + list.back().iov_len == host) {
        list.back().iov_len += bytes;
    } else {
        list.push_back({host, bytes});
    }
    size_ += bytes;
    return true;
}

std::size_t GuestBuffers::copy_out(std::uint64_t offset, std::span<std::byte> out) const {
    std::byte* to = out.data();
    const std::size_t done = each_piece(pieces_->list, offset, out.size(), [&](const std::byte* host, std::size_t n) {
        std::memcpy(to, host, n);
        to += n;
    });
    asm volatile("" ::: "memory");  // judged on the copy, never read twice
    return done;
}

std::size_t GuestBuffers::copy_in(std::uint64_t offset, std::span<const std::byte> data) {
    mark_written(offset, data.size());
    const std::byte* from = data.data();
    return each_piece(pieces_->list, offset, data.size(), [&](std::byte* host, std::size_t n) {
        std::memcpy(host, from, n);
        from += n;
    });
}

std::size_t GuestBuffers::copy_in(std::uint64_t offset, std::string_view data) {
    return copy_in(offset, std::as_bytes(std::span(data)));
}

std::size_t GuestBuffers::fill(std::uint64_t offset, std::uint64_t bytes, std::byte value) {
    mark_written(offset, bytes);
    return each_piece(pieces_->list, offset, bytes,
                      [&](std::byte* host, std::size_t n) { std::memset(host, std::to_integer<int>(value), n); });
}

void GuestBuffers::drop_front(std::uint64_t bytes) {
    auto& list = pieces_->list;
    std::size_t whole = 0;
    while (whole < list.size() && bytes >= list[whole].iov_len) {
        bytes -= list[whole].iov_len;
        size_ -= list[whole].iov_len;
        ++whole;
    }
    list.erase(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(whole));
    if (list.empty() || bytes == 0) return;
    list.front().iov_base = static_cast<std::byte*>(list.front().iov_base) + bytes;
    list.front().iov_len -= bytes;
    size_ -= bytes;
}

void GuestBuffers::truncate(std::uint64_t bytes) {
    auto& list = pieces_->list;
    while (size_ > bytes) {
        const std::uint64_t over = size_ - bytes;
        if (list.back().iov_len <= over) {
            size_ -= list.back().iov_len;
            list.pop_back();
        } else {
            list.back().iov_len -= over;
            size_ -= over;
        }
    }
}

GuestBuffers GuestBuffers::take_back(std::uint64_t bytes) {
    GuestBuffers back;
    bytes = std::min(bytes, size_);
    back.pieces_->list = pieces_->list;
    back.size_ = size_;
    back.memory_ = memory_;
    back.drop_front(size_ - bytes);
    truncate(size_ - bytes);
    return back;
}

void GuestBuffers::append(GuestBuffers&& other) {
    pieces_->list.insert(pieces_->list.end(), other.pieces_->list.begin(), other.pieces_->list.end());
    size_ += other.size_;
    if (memory_ == nullptr) memory_ = other.memory_;
    other.clear();
}

Result<std::size_t> GuestBuffers::read_from(int fd) {
    for (;;) {
        const ssize_t n = readv(fd, pieces_->list.data(), vector_count(pieces_->list.size()));
        if (n >= 0) {
            mark_written(0, static_cast<std::size_t>(n));
            return static_cast<std::size_t>(n);
        }
        if (errno != EINTR) return fail_errno("reading into guest memory");
    }
}

Result<std::size_t> GuestBuffers::write_to(int fd) const {
    for (;;) {
        const ssize_t n = writev(fd, pieces_->list.data(), vector_count(pieces_->list.size()));
        if (n >= 0) return static_cast<std::size_t>(n);
        if (errno != EINTR) return fail_errno("writing from guest memory");
    }
}

namespace {

template <class Transfer>
Result<> transfer_all(std::vector<iovec> rest, std::uint64_t offset, const char* what, Transfer transfer) {
    std::size_t first = 0;
    while (first < rest.size()) {
        ssize_t n = transfer(rest.data() + first, vector_count(rest.size() - first), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno(what);
        if (n == 0) return fail(Code::data_loss, "the file ends early");
        offset += static_cast<std::uint64_t>(n);
        while (n > 0 && first < rest.size()) {
            const auto now = std::min<std::size_t>(static_cast<std::size_t>(n), rest[first].iov_len);
            rest[first].iov_base = static_cast<std::byte*>(rest[first].iov_base) + now;
            rest[first].iov_len -= now;
            n -= static_cast<ssize_t>(now);
            if (rest[first].iov_len == 0) ++first;
        }
    }
    return {};
}

}  // namespace

Result<> GuestBuffers::read_from_file(int fd, std::uint64_t offset) {
    mark_written(0, size_);
    return transfer_all(pieces_->list, offset, "reading into guest memory",
                        [fd](const iovec* list, int count, off_t at) { return preadv(fd, list, count, at); });
}

Result<> GuestBuffers::write_to_file(int fd, std::uint64_t offset) const {
    return transfer_all(pieces_->list, offset, "writing from guest memory",
                        [fd](const iovec* list, int count, off_t at) { return pwritev(fd, list, count, at); });
}

namespace {

template <class Transfer>
std::int64_t transfer_part(const std::vector<iovec>& list, std::uint64_t offset, std::uint64_t skip,
                           std::uint64_t bytes, Transfer transfer) {
    std::array<iovec, 300> some;  // a mebibyte of single pages, and then some
    std::uint64_t done = 0;
    while (done < bytes) {
        std::size_t count = 0;
        std::uint64_t gathered = 0;
        std::uint64_t before = skip + done;
        for (const iovec& piece : list) {
            if (before >= piece.iov_len) {
                before -= piece.iov_len;
                continue;
            }
            if (count == some.size() || done + gathered == bytes) break;
            const auto now = std::min<std::uint64_t>(piece.iov_len - before, bytes - done - gathered);
            some[count++] = {static_cast<std::byte*>(piece.iov_base) + before, now};
            gathered += now;
            before = 0;
        }
        if (gathered == 0) break;
        const ssize_t n = transfer(some.data(), static_cast<int>(count), static_cast<off_t>(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return done > 0 ? static_cast<std::int64_t>(done) : -errno;
        done += static_cast<std::uint64_t>(n);
        if (static_cast<std::uint64_t>(n) < gathered) break;
    }
    return static_cast<std::int64_t>(done);
}

}  // namespace

std::int64_t GuestBuffers::read_part(int fd, std::uint64_t offset, std::uint64_t skip, std::uint64_t bytes) {
    mark_written(skip, bytes);
    return transfer_part(pieces_->list, offset, skip, bytes,
                         [fd](const iovec* list, int count, off_t at) { return preadv(fd, list, count, at); });
}

std::int64_t GuestBuffers::write_part(int fd, std::uint64_t offset, std::uint64_t skip, std::uint64_t bytes) const {
    return transfer_part(pieces_->list, offset, skip, bytes,
                         [fd](const iovec* list, int count, off_t at) { return pwritev(fd, list, count, at); });
}

Result<> GuestBuffers::fill_random() {
    mark_written(0, size_);
    for (const iovec& piece : pieces_->list) {
        for (std::size_t done = 0; done < piece.iov_len;) {
            const ssize_t n = getrandom(static_cast<std::byte*>(piece.iov_base) + done, piece.iov_len - done, 0);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) return fail_errno("getrandom");
            done += static_cast<std::size_t>(n);
        }
    }
    return {};
}

Result<> GuestBuffers::discard(GuestMemory& memory) {
    for (const iovec& piece : pieces_->list) {
        for (const auto& region : memory.regions_) {
            const auto* host = static_cast<const std::byte*>(piece.iov_base);
            if (host < region.host || host >= region.host + region.range.bytes) continue;
            const auto offset = static_cast<std::uint64_t>(host - region.host);
            TRY(memory.discard(region.range.start + offset, piece.iov_len));
        }
        GuestAddress address;
        if (memory.device_memory().address_of(static_cast<const std::byte*>(piece.iov_base), address))
            TRY(memory.discard(address, piece.iov_len));
    }
    return {};
}

void GuestBuffers::prepare(io_uring_sqe& entry, int fd, std::uint64_t offset, bool is_write) const {
    const auto count = static_cast<unsigned>(vector_count(pieces_->list.size()));
    if (is_write) {
        io_uring_prep_writev(&entry, fd, pieces_->list.data(), count, offset);
    } else {
        mark_written(0, size_);  // as good as written: a snapshot waits for it
        io_uring_prep_readv(&entry, fd, pieces_->list.data(), count, offset);
    }
}

}  // namespace wherry::vmm
