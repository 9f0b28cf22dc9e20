#include "vmm/memory/device_memory.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "kvm/vm.hpp"
#include "vmm/memory/pluggable.hpp"

namespace wherry::vmm {
namespace {

bool overlap(const GuestRange& one, const GuestRange& other) {
    return one.start < other.end() && other.start < one.end();
}

std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) {
    return (value + alignment - 1) / alignment * alignment;
}

// Fresh memory of nobody's over [host, host + bytes).
bool put_nothing(std::byte* host, std::uint64_t bytes, int protection) {
    // SAFETY: replaces a mapping of our own.
    return mmap(host, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
}

}  // namespace

DeviceMemory::DeviceMemory() = default;

DeviceMemory::~DeviceMemory() {
    for (const Window& window : windows_) munmap(window.host, window.range.bytes);
    for (const Remains& remains : remains_) munmap(remains.host, remains.bytes);
}

void DeviceMemory::use(const kvm::Vm& vm, std::uint32_t first_slot, bool log_dirty_pages) {
    const std::unique_lock lock(mutex_);
    vm_ = &vm;
    next_slot_ = first_slot;
    log_dirty_pages_ = log_dirty_pages;
}

void DeviceMemory::set_space(GuestRange space) {
    const std::unique_lock lock(mutex_);
    space_ = space;
}

bool DeviceMemory::is_free(const GuestRange& range) const {
    if (pluggable_ && overlap(pluggable_->range(), range)) return false;
    return std::ranges::none_of(windows_, [&](const Window& window) { return overlap(window.range, range); });
}

Result<GuestAddress> DeviceMemory::place(std::uint64_t bytes, std::uint64_t alignment) const {
    const std::shared_lock lock(mutex_);
    // Free stretches begin where the space or something in it does.
    std::vector<std::uint64_t> starts = {space_.start.value};
    if (pluggable_) starts.push_back(pluggable_->range().end().value);
    for (const Window& window : windows_) starts.push_back(window.range.end().value);
    std::ranges::sort(starts);
    for (std::uint64_t start : starts) {
        const GuestRange range{{align_up(start, alignment)}, bytes};
        if (range.start < space_.start || range.start.value - space_.start.value > space_.bytes) continue;
        if (bytes <= space_.bytes - (range.start.value - space_.start.value) && is_free(range)) return range.start;
    }
    return fail(Code::out_of_range,
                fmt::format("no room for {} MiB in the machine's physical addresses", bytes >> 20U));
}

std::uint32_t DeviceMemory::take_slot() {
    if (free_slots_.empty()) return next_slot_++;
    const std::uint32_t slot = free_slots_.back();
    free_slots_.pop_back();
    return slot;
}

// Addresses of the host for a window, aligned as huge pages want it; those of one that went where they fit.
Result<std::byte*> DeviceMemory::take_addresses(std::uint64_t bytes) {
    const auto same = std::ranges::find(remains_, bytes, &Remains::bytes);
    if (same != remains_.end()) {
        std::byte* host = same->host;
        remains_.erase(same);
        return host;
    }
    // SAFETY: a mapping of its own, given back by ~DeviceMemory; what is over at both ends is given back here.
    void* start =
        mmap(nullptr, bytes + window_alignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return fail_errno("addresses of a window");
    auto* first = static_cast<std::byte*>(start);
    // SAFETY: the address as a number, to align it.
    const auto number = reinterpret_cast<std::uintptr_t>(first);
    const std::uint64_t before = align_up(number, window_alignment) - number;
    if (before > 0) munmap(first, before);
    munmap(first + before + bytes, window_alignment - before);
    return first + before;
}

Result<> DeviceMemory::map(const FileWindow& window) {
    const GuestRange& range = window.range;
    if (range.bytes == 0 || range.bytes % window_alignment != 0 || range.start.value % window_alignment != 0)
        return fail(Code::invalid_argument, "a window must be whole pages of 2 MiB");
    const std::unique_lock lock(mutex_);
    if (!is_free(range)) return fail(Code::already_exists, "two windows at one address");
    std::byte* host = TRY(take_addresses(range.bytes));
    const auto give_up = [&](std::unexpected<Error> error) {
        put_nothing(host, range.bytes, PROT_READ | PROT_WRITE);
        remains_.push_back({host, range.bytes});
        return error;
    };
    const int protection = window.is_read_only ? PROT_READ : PROT_READ | PROT_WRITE;
    if (!put_nothing(host, range.bytes, PROT_READ | PROT_WRITE)) return give_up(fail_errno("a window"));
    for (const auto& piece : window.contents) {
        if (piece.offset > range.bytes || piece.bytes.size() > range.bytes - piece.offset)
            return give_up(fail(Code::invalid_argument, "contents outside of their window"));
        std::memcpy(host + piece.offset, piece.bytes.data(), piece.bytes.size());
    }
    if (window.is_read_only && mprotect(host, range.bytes, protection) < 0) return give_up(fail_errno("a window"));
    for (const auto& file : window.files) {
        if (file.bytes == 0 || file.offset % DirtyPages::page_bytes != 0 || file.offset > range.bytes ||
            file.bytes > range.bytes - file.offset)
            return give_up(fail(Code::invalid_argument, "a file outside of its window"));
        // SAFETY: over a part of the addresses taken above; the kernel zeroes what is behind the file in its last page.
        if (mmap(host + file.offset, file.bytes, protection, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, file.fd, 0) ==
            MAP_FAILED)
            return give_up(fail_errno("mapping of a file"));
    }
    // The host's memory is the files' own; no dump needs a second copy.
    madvise(host, range.bytes, MADV_DONTDUMP);
    const std::uint32_t slot = take_slot();
    if (vm_ != nullptr) {
        auto set = vm_->set_memory({.slot = slot,
                                    .guest_address = range.start.value,
                                    .bytes = range.bytes,
                                    .host = host,
                                    .read_only = window.is_read_only});
        if (!set) {
            free_slots_.push_back(slot);
            return give_up(std::unexpected(std::move(set).error()));
        }
    }
    windows_.push_back({range, host, window.is_read_only, slot});
    return {};
}

void DeviceMemory::unmap(GuestAddress start) {
    const std::unique_lock lock(mutex_);
    const auto found = std::ranges::find(windows_, start, [](const Window& window) { return window.range.start; });
    if (found == windows_.end()) return;
    // Removing a slot cannot fail; the guest's next access there finds nothing.
    if (vm_ != nullptr) [[maybe_unused]]
        const auto removed = vm_->set_memory({.slot = found->slot, .guest_address = start.value});
    put_nothing(found->host, found->range.bytes, PROT_READ | PROT_WRITE);
    remains_.push_back({found->host, found->range.bytes});
    free_slots_.push_back(found->slot);
    windows_.erase(found);
}

std::byte* DeviceMemory::find(GuestAddress address, std::uint64_t bytes, Access access) const {
    const std::shared_lock lock(mutex_);
    if (pluggable_)
        if (std::byte* host = pluggable_->find(address, bytes)) return host;
    for (const Window& window : windows_) {
        if (address < window.range.start) continue;
        const std::uint64_t offset = address.value - window.range.start.value;
        if (offset >= window.range.bytes || bytes > window.range.bytes - offset) continue;
        return window.is_read_only && access == Access::write ? nullptr : window.host + offset;
    }
    return nullptr;
}

Result<> DeviceMemory::add_pluggable(const PluggableRange& range) {
    const std::unique_lock lock(mutex_);
    if (pluggable_ || !is_free(range.range)) return fail(Code::already_exists, "memory is plugged somewhere already");
    auto made = TRY(Pluggable::create(range));
    // Slots of its own, one after the other.
    made->first_slot = next_slot_;
    next_slot_ += static_cast<std::uint32_t>(range.range.bytes / range.slot_bytes);
    pluggable_ = std::move(made);
    return {};
}

DeviceMemory::BlockState DeviceMemory::state(std::uint64_t first, std::uint64_t count) const {
    const std::shared_lock lock(mutex_);
    const std::uint64_t plugged = pluggable_ ? pluggable_->count(first, count) : 0;
    return plugged == 0 ? BlockState::unplugged : plugged == count ? BlockState::plugged : BlockState::mixed;
}

// A slot is KVM's while a block of it is plugged. Called for blocks [first, first + count) after a change.
Result<> DeviceMemory::update_slots(std::uint64_t first, std::uint64_t count) {
    Pluggable& memory = *pluggable_;
    const std::uint64_t per_slot = memory.blocks_per_slot();
    for (std::uint64_t slot = first / per_slot; slot <= (first + count - 1) / per_slot; ++slot) {
        const bool is_wanted = memory.count(slot * per_slot, per_slot) > 0;
        if (is_wanted == memory.in_kvm[slot]) continue;
        const std::uint64_t bytes = per_slot * memory.block_bytes();
        if (vm_ != nullptr)
            TRY(vm_->set_memory({.slot = memory.first_slot + static_cast<std::uint32_t>(slot),
                                 .guest_address = memory.range().start.value + slot * bytes,
                                 .bytes = is_wanted ? bytes : 0,
                                 .host = memory.guest_view() + slot * bytes,
                                 .log_dirty_pages = log_dirty_pages_ && is_wanted}));
        memory.in_kvm[slot] = is_wanted;
    }
    return {};
}

Result<> DeviceMemory::plug(std::uint64_t first, std::uint64_t count) {
    const std::unique_lock lock(mutex_);
    TRY(pluggable_->plug(first, count));
    if (auto updated = update_slots(first, count); !updated) {
        [[maybe_unused]] const auto undone = pluggable_->unplug(first, count);
        [[maybe_unused]] const auto restored = update_slots(first, count);
        return updated;
    }
    return {};
}

Result<> DeviceMemory::unplug(std::uint64_t first, std::uint64_t count) {
    const std::unique_lock lock(mutex_);
    TRY(pluggable_->unplug(first, count));
    return update_slots(first, count);
}

std::uint64_t DeviceMemory::plugged_bytes() const {
    const std::shared_lock lock(mutex_);
    return pluggable_ ? pluggable_->count(0, pluggable_->blocks()) * pluggable_->block_bytes() : 0;
}

std::vector<GuestRange> DeviceMemory::plugged_ranges() const {
    const std::shared_lock lock(mutex_);
    return pluggable_ ? pluggable_->plugged_ranges() : std::vector<GuestRange>();
}

Result<bool> DeviceMemory::discard(GuestAddress start, std::uint64_t bytes) {
    const std::shared_lock lock(mutex_);
    if (!pluggable_ || pluggable_->find(start, bytes) == nullptr) return false;
    TRY(pluggable_->discard(start.value - pluggable_->range().start.value, bytes));
    return true;
}

bool DeviceMemory::address_of(const std::byte* host, GuestAddress& address) const {
    const std::shared_lock lock(mutex_);
    return pluggable_ && pluggable_->address_of(host, address);
}

std::uint64_t DeviceMemory::pluggable_bytes() const {
    const std::shared_lock lock(mutex_);
    return pluggable_ ? pluggable_->range().bytes : 0;
}

DeviceMemory::Backing DeviceMemory::backing() const {
    const std::shared_lock lock(mutex_);
    if (!pluggable_) return {};
    return {.range = pluggable_->range(),
            .host = pluggable_->monitor_view(),
            .file = pluggable_->file(),
            .dirty = &pluggable_->dirty(),
            .plugged = pluggable_->plugged_ranges()};
}

void DeviceMemory::mark_written(const std::byte* host, std::uint64_t bytes) const {
    GuestAddress address;
    const std::shared_lock lock(mutex_);
    if (pluggable_ && pluggable_->address_of(host, address))
        pluggable_->dirty().mark(address.value - pluggable_->range().start.value, bytes);
}

Result<> DeviceMemory::collect_dirty(const kvm::Vm& vm) {
    const std::shared_lock lock(mutex_);
    if (!pluggable_) return {};
    const std::uint64_t bytes = pluggable_->blocks_per_slot() * pluggable_->block_bytes();
    for (std::size_t slot = 0; slot < pluggable_->in_kvm.size(); ++slot) {
        if (!pluggable_->in_kvm[slot]) continue;
        const auto log = TRY(vm.dirty_log(pluggable_->first_slot + static_cast<std::uint32_t>(slot), bytes));
        pluggable_->dirty().merge(log, slot * bytes / DirtyPages::page_bytes);
    }
    return {};
}

void DeviceMemory::forget_dirty() {
    const std::shared_lock lock(mutex_);
    if (pluggable_) pluggable_->dirty().clear();
}

std::uint64_t DeviceMemory::resident_bytes() const {
    const std::shared_lock lock(mutex_);
    return pluggable_ ? pluggable_->resident_bytes() : 0;
}

}  // namespace wherry::vmm
