#include "vmm/core/bus.hpp"

#include <algorithm>

namespace wherry::vmm {

Result<> Bus::add(std::uint64_t start, std::uint64_t bytes, std::shared_ptr<BusDevice> device) {
    auto at = std::upper_bound(entries_.begin(), entries_.end(), start,
                               [](std::uint64_t value, const Entry& entry) { return value < entry.start; });
    if ((at != entries_.end() && at->start - start < bytes) ||
        (at != entries_.begin() && start - std::prev(at)->start < std::prev(at)->bytes))
        return fail(Code::already_exists, "two devices at one address");
    entries_.insert(at, {start, bytes, std::move(device)});
    return {};
}

const Bus::Entry* Bus::find(std::uint64_t address, std::size_t bytes) const {
    auto at = std::upper_bound(entries_.begin(), entries_.end(), address,
                               [](std::uint64_t value, const Entry& entry) { return value < entry.start; });
    if (at == entries_.begin()) return nullptr;
    --at;
    const std::uint64_t offset = address - at->start;
    return offset < at->bytes && bytes <= at->bytes - offset ? &*at : nullptr;
}

bool Bus::read(std::uint64_t address, std::span<std::byte> out) const {
    const Entry* entry = find(address, out.size());
    if (entry == nullptr) {
        std::ranges::fill(out, std::byte{0xff});
        return false;
    }
    entry->device->read(address - entry->start, out);
    return true;
}

bool Bus::write(std::uint64_t address, std::span<const std::byte> data) const {
    const Entry* entry = find(address, data.size());
    if (entry == nullptr) return false;
    entry->device->write(address - entry->start, data);
    return true;
}

}  // namespace wherry::vmm
