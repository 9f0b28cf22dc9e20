// The range that memory is plugged into: one memory file, mapped twice. What the monitor uses stays accessible, so that
// a transfer which was on its way when its block went harms nobody; what KVM uses is accessible only where a block is
// plugged. For DeviceMemory alone, which locks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "vmm/memory/device_memory.hpp"
#include "vmm/memory/dirty_pages.hpp"

namespace wherry::vmm {

struct DeviceMemory::Pluggable {
  public:
    static Result<std::unique_ptr<Pluggable>> create(const PluggableRange& config);
    ~Pluggable();
    Pluggable(const Pluggable&) = delete;
    Pluggable& operator=(const Pluggable&) = delete;

    const GuestRange& range() const { return config_.range; }
    std::uint64_t block_bytes() const { return config_.block_bytes; }
    std::uint64_t blocks() const { return config_.range.bytes / config_.block_bytes; }
    std::uint64_t blocks_per_slot() const { return config_.slot_bytes / config_.block_bytes; }
    std::byte* guest_view() const { return guest_view_; }

    // Where it is for the monitor; nullptr unless all of it is plugged.
    std::byte* find(GuestAddress address, std::uint64_t bytes) const;
    bool address_of(const std::byte* host, GuestAddress& address) const;
    // How many of the blocks are plugged.
    std::uint64_t count(std::uint64_t first, std::uint64_t count) const;
    std::vector<GuestRange> plugged_ranges() const;
    Result<> plug(std::uint64_t first, std::uint64_t count);
    Result<> unplug(std::uint64_t first, std::uint64_t count);
    Result<> discard(std::uint64_t offset, std::uint64_t bytes);
    std::uint64_t resident_bytes() const;
    std::byte* monitor_view() const { return monitor_view_; }
    int file() const { return file_.get(); }
    DirtyPages& dirty() { return *dirty_; }

    std::uint32_t first_slot = 0;
    std::vector<bool> in_kvm;  // by slot

  private:
    Pluggable() = default;
    Result<> protect(std::uint64_t first, std::uint64_t count, int protection);

    PluggableRange config_;
    Fd file_;
    std::byte* monitor_view_ = nullptr;
    std::byte* guest_view_ = nullptr;
    std::vector<bool> plugged_;  // by block
    std::unique_ptr<DirtyPages> dirty_;
};

}  // namespace wherry::vmm
