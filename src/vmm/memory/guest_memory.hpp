// The guest's memory, as the rest of the monitor may see it: by value, by address, never by pointer. What the guest
// can change under our eyes is copied once and judged on the copy. The only code that knows where the memory is
// mapped are the files of this folder.
//
// Thread-safe: the guest writes to it at any time anyway. Addresses out of range give false or an empty optional,
// never a fault; they are the guest's mistake.
//
//     auto memory = GuestMemory::create({{{GuestAddress{0}, 128 << 20}}}, HugePages::none);
//     std::optional<std::uint32_t> magic = memory->read<std::uint32_t>(GuestAddress{0x1000});
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/memory/dirty_pages.hpp"

struct io_uring_sqe;

namespace wherry::kvm {
class Vm;
}

namespace wherry::vmm {

struct GuestAddress {
    std::uint64_t value = 0;

    friend auto operator<=>(GuestAddress, GuestAddress) = default;
    void fields(this auto& self, auto&& f) { f(self.value); }
    friend GuestAddress operator+(GuestAddress address, std::uint64_t bytes) { return {address.value + bytes}; }
};

struct GuestRange {
    GuestAddress start;
    std::uint64_t bytes = 0;

    GuestAddress end() const { return start + bytes; }
    friend bool operator==(const GuestRange&, const GuestRange&) = default;
    void fields(this auto& self, auto&& f) { f(self.start, self.bytes); }
};

// A range and the file that it is memory of, for a process that is to map it too.
struct SharedRange {
    GuestRange range;
    int file = -1;
    std::uint64_t file_offset = 0;
};

// none: what the host gives. transparent: anonymous memory that asks for huge pages. two_megabytes: hugetlbfs.
enum class HugePages : unsigned char { none, transparent, two_megabytes };
constexpr HugePages last_value(HugePages) {
    return HugePages::two_megabytes;
}

// Whether another process is going to map the memory (a memfd then, of normal pages). Otherwise it is anonymous, which
// the host may back with huge pages as it does with any program's.
enum class Sharing : unsigned char { none, by_file };

// What a caller is going to do with memory: some of it can only be read.
enum class Access : unsigned char { read, write };

class DeviceMemory;
class GuestBuffers;

class GuestMemory {
  public:
    // Ranges must not overlap; sizes are whole pages. resource_exhausted when the host lacks (huge) memory.
    static Result<std::shared_ptr<GuestMemory>> create(std::span<const GuestRange> ranges, HugePages huge_pages,
                                                       Sharing sharing = Sharing::none);
    // Memory as a snapshot's file has it, ranges one behind the other: mapped privately, so that a page is read when it
    // is first touched, is shared with all who map the file until it is written, and the file never changes.
    // invalid_argument when the file has another size. Behind the ranges it has `pluggable_bytes` more, which are
    // DeviceMemory::load_image()'s.
    static Result<std::shared_ptr<GuestMemory>> map_image(std::span<const GuestRange> ranges, int file,
                                                          std::uint64_t pluggable_bytes = 0);
    // Empty memory whose pages another process provides as they are touched (userfaultfd). handover() says what that
    // process needs to know; see image.cpp.
    static Result<std::shared_ptr<GuestMemory>> create_faulting(std::span<const GuestRange> ranges,
                                                                HugePages huge_pages);
    struct Handover {
        int descriptor = -1;   // the userfaultfd, which stays this object's
        std::string mappings;  // Firecracker's JSON
    };
    Handover handover() const;
    // Memory of another process' guest, from its files. invalid_argument for ranges that are empty, overlap or reach
    // beyond their files. What is done with it is on its own: a file that shrinks ends this process.
    static Result<std::shared_ptr<GuestMemory>> map(std::span<const SharedRange> ranges);
    ~GuestMemory();
    GuestMemory(const GuestMemory&) = delete;
    GuestMemory& operator=(const GuestMemory&) = delete;

    // What the machine boots with; device_memory() is beside it.
    std::vector<GuestRange> ranges() const;
    std::uint64_t total_bytes() const;
    DeviceMemory& device_memory() { return *device_memory_; }
    const DeviceMemory& device_memory() const { return *device_memory_; }
    bool contains(GuestAddress address, std::uint64_t bytes, Access access = Access::write) const {
        return find(address, bytes, access) != nullptr;
    }

    // The whole span or nothing.
    bool read_bytes(GuestAddress address, std::span<std::byte> out) const;
    bool write_bytes(GuestAddress address, std::span<const std::byte> data);
    bool write_bytes(GuestAddress address, std::string_view data);
    bool fill(GuestAddress address, std::uint64_t bytes, std::byte value);

    template <class T>
        requires std::is_trivially_copyable_v<T>
    std::optional<T> read(GuestAddress address) const {
        T value;
        if (!read_bytes(address, std::as_writable_bytes(std::span(&value, 1)))) return std::nullopt;
        return value;
    }
    template <class T>
        requires std::is_trivially_copyable_v<T>
    bool write(GuestAddress address, const T& value) {
        return write_bytes(address, std::as_bytes(std::span(&value, 1)));
    }
    // Ring indexes: single accesses that order what is around them. Addresses must be even.
    std::optional<std::uint16_t> load_acquire(GuestAddress address) const;
    bool store_release(GuestAddress address, std::uint16_t value);

    // A hint before load_file(): nearly all of the range will be written and used, so huge pages serve it best.
    void expect(GuestRange range);
    // `bytes` of a file at `offset` into memory that is still zero, without a copy in between; holes of the file stay
    // untouched. data_loss when the file ends early.
    Result<> load_file(int fd, std::uint64_t offset, GuestAddress address, std::uint64_t bytes);
    // Gives whole pages inside the range back to the host; they read as zero afterwards. Never those of a file.
    Result<> discard(GuestAddress address, std::uint64_t bytes);
    // Makes the memory the machine's, one slot a range, from `first_slot`; device memory gets the slots behind. The Vm
    // must not outlive this object.
    Result<> attach(const kvm::Vm& vm, std::uint32_t first_slot, bool log_dirty_pages);

    // Snapshots. All that writes to the memory by way of this folder is remembered; what the guest itself writes KVM
    // remembers, when it was told to log. While the processors stand still:
    // adds KVM's log (which begins anew) to what is remembered.
    Result<> collect_dirty(const kvm::Vm& vm, std::uint32_t first_slot);
    // A snapshot has everything now.
    void forget_dirty();
    enum class Pages : unsigned char {
        all,        // zeroes are left out: the target has them already
        dirty,      // what is remembered
        untracked,  // for memory that was never logged: all that was touched since it was created or mapped
    };
    // Ranges one behind the other into a file (as map_image() takes it), which is as large already: image_bytes().
    // Behind them lies the range that memory is plugged into; what is not plugged is a hole in the file.
    std::uint64_t image_bytes() const;
    Result<> write_image(int file, Pages pages) const;
    // The same into and out of any descriptor, a pipe or a socket: pages with their addresses, and an end.
    Result<> send_image(int stream, Pages pages) const;
    Result<> receive_image(int stream);
    // For another process (vhost-user). conflict when the memory is no file's (transparent huge pages).
    Result<std::vector<SharedRange>> shared_ranges() const;
    // Of the host, which the guest's memory occupies now, in bytes.
    Result<std::uint64_t> resident_bytes() const;

  private:
    friend class GuestBuffers;
    struct Region {
        GuestRange range;
        std::byte* host = nullptr;
        std::uint64_t file_offset = 0;
        std::unique_ptr<DirtyPages> dirty;
        // Of another process' memory: a bit for each window that was touched here (a page of the bitmap is a window).
        std::unique_ptr<DirtyPages> touched;
    };
    enum class Backing : unsigned char { shared_file, private_file, anonymous };
    GuestMemory();
    void add_region(const GuestRange& range, std::byte* host, std::uint64_t offset);
    // f(region, offset into it, bytes) for each run of pages that `pages` stands for.
    template <class F>
    Result<> each_run(Pages pages, F f) const;
    // Bytes at a host address inside of a region were or will be written.
    void mark_written(const std::byte* host, std::uint64_t bytes) const;
    // Bytes of another process' memory are about to be written here for the first time: see shared_memory.cpp.
    static void touch(const Region& region, const std::byte* host, std::uint64_t bytes);
    // As find(), for bytes that will be written.
    std::byte* find_to_write(GuestAddress address, std::uint64_t bytes);
    Result<> load_run(int fd, std::uint64_t offset, GuestAddress address, std::uint64_t bytes);
    Result<std::uint64_t> send_file(int fd, std::uint64_t offset, GuestAddress address, std::uint64_t bytes);
    // Where `bytes` from `address` on are mapped; nullptr unless all of them lie in one region and may be accessed so.
    std::byte* find(GuestAddress address, std::uint64_t bytes, Access access) const;

    std::vector<Region> regions_;
    std::unique_ptr<DeviceMemory> device_memory_;
    Backing backing_ = Backing::anonymous;
    Fd file_;               // of shared files
    GuestRange collapsed_;  // what expect() has found huge pages for
    Fd faults_;
    std::uint64_t page_bytes_ = 4096;
};

// An ordered list of pieces of guest memory: the readable or the writable half of a request. Appending proves the
// range; what is done with it later cannot leave it. Holds references into the memory, which must outlive it.
class GuestBuffers {
  public:
    GuestBuffers();
    ~GuestBuffers();
    GuestBuffers(GuestBuffers&&) noexcept;
    GuestBuffers& operator=(GuestBuffers&&) noexcept;
    GuestBuffers(const GuestBuffers&) = delete;
    GuestBuffers& operator=(const GuestBuffers&) = delete;

    void clear();
    bool append(const GuestMemory& memory, GuestAddress address, std::uint32_t bytes, Access access = Access::write);
    std::uint64_t size() const { return size_; }
    bool empty() const { return size_ == 0; }
    std::size_t pieces() const;

    // Copies from or to the pieces, starting `offset` bytes into the list; how many bytes there were.
    std::size_t copy_out(std::uint64_t offset, std::span<std::byte> out) const;
    std::size_t copy_in(std::uint64_t offset, std::span<const std::byte> data);
    std::size_t copy_in(std::uint64_t offset, std::string_view data);
    std::size_t fill(std::uint64_t offset, std::uint64_t bytes, std::byte value);
    template <class T>
        requires std::is_trivially_copyable_v<T>
    std::optional<T> read(std::uint64_t offset) const {
        T value;
        if (copy_out(offset, std::as_writable_bytes(std::span(&value, 1))) != sizeof(T)) return std::nullopt;
        return value;
    }
    template <class T>
        requires std::is_trivially_copyable_v<T>
    bool write(std::uint64_t offset, const T& value) {
        return copy_in(offset, std::as_bytes(std::span(&value, 1))) == sizeof(T);
    }
    // The first `bytes` of this list leave it (all, when there are fewer); the rest stays.
    void drop_front(std::uint64_t bytes);
    // Keeps at most `bytes`.
    void truncate(std::uint64_t bytes);
    // The last `bytes` of this list, which leave it.
    GuestBuffers take_back(std::uint64_t bytes);
    // Moves the pieces of `other` behind these.
    void append(GuestBuffers&& other);

    // readv/writev(2) of a descriptor, one call each: bytes done, or an error (unavailable for EAGAIN).
    Result<std::size_t> read_from(int fd);
    Result<std::size_t> write_to(int fd) const;
    // All of it at a file's offset, retrying short transfers. data_loss at the file's end.
    Result<> read_from_file(int fd, std::uint64_t offset);
    Result<> write_to_file(int fd, std::uint64_t offset) const;
    // The `bytes` that lie `skip` bytes into the list, at a file's offset: bytes done, fewer at the file's end. A
    // negative errno instead.
    std::int64_t read_part(int fd, std::uint64_t offset, std::uint64_t skip, std::uint64_t bytes);
    std::int64_t write_part(int fd, std::uint64_t offset, std::uint64_t skip, std::uint64_t bytes) const;
    Result<> fill_random();
    // Gives the whole pages among the pieces back to the host. `memory` is what they were appended from.
    Result<> discard(GuestMemory& memory);
    // As a vectored request of io_uring. The list must stay as it is until the request ends.
    void prepare(io_uring_sqe& entry, int fd, std::uint64_t offset, bool is_write) const;

  private:
    struct Pieces;
    void mark_written(std::uint64_t offset, std::uint64_t bytes) const;

    std::unique_ptr<Pieces> pieces_;
    std::uint64_t size_ = 0;
    const GuestMemory* memory_ = nullptr;  // what the pieces are of
};

}  // namespace wherry::vmm
