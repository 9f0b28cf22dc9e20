// Guest-physical memory that devices bring, beside the memory a machine boots with: windows onto files (virtio-pmem)
// and one range that memory is plugged into and taken out of again, block by block (virtio-mem). It is reached like
// all guest memory, by value through GuestMemory and GuestBuffers; a device's request may lie in it, where the guest
// may write, and nowhere in memory that is not plugged.
//
// Thread-safe. Windows and blocks come and go on the device thread.
//
//     DeviceMemory& extra = memory->device_memory();
//     const GuestAddress start = *extra.place(4 << 20, window_alignment);
//     extra.map({.range = {start, 4 << 20}, .is_read_only = true, .files = {{fd, 5000, 0}}, .contents = {}});
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/memory/dirty_pages.hpp"
#include "vmm/memory/guest_memory.hpp"

namespace wherry::vmm {

// What guests can map with huge pages, and the smallest stretch Linux takes as persistent memory.
inline constexpr std::uint64_t window_alignment = 2U << 20U;

// A stretch made of files, one after the other at aligned offsets; what lies between and behind them reads as zero.
struct FileWindow {
    struct File {
        int fd = -1;
        std::uint64_t bytes = 0;
        std::uint64_t offset = 0;  // in the window, whole pages
    };
    struct Contents {  // bytes of the monitor's own, copied
        std::uint64_t offset = 0;
        std::string bytes;
    };
    GuestRange range;           // both ends aligned
    bool is_read_only = false;  // by the processor's page tables; otherwise what is written is written to the files
    std::vector<File> files;
    std::vector<Contents> contents;
};

struct PluggableRange {
    GuestRange range;  // whole slots
    std::uint64_t block_bytes = window_alignment;
    std::uint64_t slot_bytes = 128U << 20U;  // whole blocks; what KVM hears of as one
    HugePages huge_pages = HugePages::none;
};

class DeviceMemory {
  public:
    DeviceMemory();
    ~DeviceMemory();
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    // Where place() looks; empty at first.
    void set_space(GuestRange space);
    // A free stretch. out_of_range when there is none.
    Result<GuestAddress> place(std::uint64_t bytes, std::uint64_t alignment) const;

    // already_exists when something else is there. The descriptors may be closed afterwards.
    Result<> map(const FileWindow& window);
    // What was on its way into the window when it went ends in memory that nobody reads.
    void unmap(GuestAddress start);

    // Once; nothing is plugged then.
    Result<> add_pluggable(const PluggableRange& range);
    enum class BlockState : unsigned char { plugged, unplugged, mixed };
    // `first` counts blocks; the blocks must lie in the range.
    BlockState state(std::uint64_t first, std::uint64_t count) const;
    // The blocks must not be plugged. Their memory is zero. resource_exhausted when the host lacks huge pages.
    Result<> plug(std::uint64_t first, std::uint64_t count);
    // The blocks must be plugged. The host has their memory back; a processor that still touches it ends the machine.
    Result<> unplug(std::uint64_t first, std::uint64_t count);
    std::uint64_t plugged_bytes() const;
    std::vector<GuestRange> plugged_ranges() const;
    // Of the whole range: what it takes in an image (GuestMemory::write_image()), behind the rest of memory.
    std::uint64_t pluggable_bytes() const;
    // What is plugged, as the image in a file has it that begins at `offset`. data_loss when the file ends early.
    Result<> load_image(int file, std::uint64_t offset);

  private:
    friend class GuestMemory;
    friend class GuestBuffers;
    struct Window {
        GuestRange range;
        std::byte* host = nullptr;
        bool is_read_only = false;
        std::uint32_t slot = 0;
    };
    // What a removed window leaves: addresses that stay valid.
    struct Remains {
        std::byte* host = nullptr;
        std::uint64_t bytes = 0;
    };
    struct Pluggable;

    // For images: the monitor's mapping of the range and its memory file.
    struct Backing {
        GuestRange range;
        std::byte* host = nullptr;
        int file = -1;
        const DirtyPages* dirty = nullptr;
        std::vector<GuestRange> plugged;
    };
    Backing backing() const;
    Result<DirtyPages> wanted_pages(GuestMemory::Pages pages) const;
    void use(const kvm::Vm& vm, std::uint32_t first_slot, bool log_dirty_pages);
    std::byte* find(GuestAddress address, std::uint64_t bytes, Access access) const;
    // Of memory that may be given back: plugged blocks. Nothing when it is a window.
    Result<bool> discard(GuestAddress start, std::uint64_t bytes);
    // The guest's address of a host address in plugged memory.
    bool address_of(const std::byte* host, GuestAddress& address) const;
    std::uint64_t resident_bytes() const;
    void mark_written(const std::byte* host, std::uint64_t bytes) const;
    Result<> collect_dirty(const kvm::Vm& vm);
    void forget_dirty();

    bool is_free(const GuestRange& range) const;
    std::uint32_t take_slot();
    Result<std::byte*> take_addresses(std::uint64_t bytes);
    Result<> update_slots(std::uint64_t first, std::uint64_t count);

    mutable std::shared_mutex mutex_;  // guards everything
    GuestRange space_;
    std::vector<Window> windows_;
    std::vector<Remains> remains_;
    std::unique_ptr<Pluggable> pluggable_;
    const kvm::Vm* vm_ = nullptr;  // none in tests: then nothing is told to KVM
    std::uint32_t next_slot_ = 0;
    std::vector<std::uint32_t> free_slots_;
    bool log_dirty_pages_ = false;
};

}  // namespace wherry::vmm
