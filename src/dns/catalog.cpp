#include "dns/catalog.hpp"

#include <algorithm>

#include "dns/fold.hpp"

namespace wherry::dns {

Result<std::shared_ptr<const ZoneSet>> ZoneSet::create(std::vector<std::shared_ptr<const Zone>> zones) {
    std::vector<ServedZone> served;
    for (auto& zone : zones) {
        Name origin = zone->origin();
        served.push_back({.origin = origin, .zone = std::move(zone)});
    }
    return create(std::move(served), std::make_shared<const KeyRing>());
}

Result<std::shared_ptr<const ZoneSet>> ZoneSet::create(std::vector<ServedZone> zones,
                                                       std::shared_ptr<const KeyRing> keys) {
    auto set = std::make_shared<ZoneSet>();
    set->zones_ = std::move(zones);
    set->keys_ = std::move(keys);
    std::size_t size = 2;
    while (size < set->zones_.size() * 2) size *= 2;
    set->slots_.assign(size, {});
    for (const ServedZone& zone : set->zones_) {
        SuffixHashes hashes(zone.origin.wire());
        if (set->find_exact(zone.origin) != nullptr)
            return fail(Code::already_exists, "zone " + zone.origin.to_text() + " is given twice");
        std::uint64_t hash = hashes.hash(hashes.labels());
        std::size_t at = hash & (size - 1);
        while (set->slots_[at].zone != nullptr) at = (at + 1) & (size - 1);
        set->slots_[at] = {hash, &zone};
        set->label_counts_[hashes.labels()] = true;
    }
    return std::shared_ptr<const ZoneSet>(std::move(set));
}

const ServedZone* ZoneSet::find(std::span<const std::uint8_t> name, const SuffixHashes& hashes, bool above) const {
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t labels = hashes.labels() + 1; labels-- > 0;) {
        if (!label_counts_[labels] || (above && labels == hashes.labels())) continue;
        std::span<const std::uint8_t> suffix = name.subspan(hashes.start(labels));
        const std::uint64_t hash = hashes.hash(labels);
        for (std::size_t at = hash & mask; slots_[at].zone != nullptr; at = (at + 1) & mask) {
            if (slots_[at].hash != hash) continue;
            std::span<const std::uint8_t> origin = slots_[at].zone->origin.wire();
            if (origin.size() == suffix.size() && same_name(origin.data(), suffix.data(), suffix.size()))
                return slots_[at].zone;
        }
    }
    return nullptr;
}

const ServedZone* ZoneSet::find_exact(const Name& origin) const {
    const ServedZone* found = find(origin.wire(), SuffixHashes(origin.wire()));
    return found != nullptr && found->origin == origin ? found : nullptr;
}

}  // namespace wherry::dns
