#include "dns/catalog.hpp"

#include <algorithm>

namespace wherry::dns {

Result<std::shared_ptr<const ZoneSet>> ZoneSet::create(std::vector<std::shared_ptr<const Zone>> zones) {
    auto set = std::make_shared<ZoneSet>();
    set->label_counts_.resize(129);
    for (const auto& zone : zones) {
        SuffixHashes hashes(zone->origin().wire());
        std::uint64_t hash = hashes.hash(hashes.labels());
        auto [from, to] = set->by_hash_.equal_range(hash);
        for (auto it = from; it != to; ++it)
            if (it->second->origin() == zone->origin())
                return fail(Code::already_exists, "zone " + zone->origin().to_text() + " is given twice");
        set->by_hash_.emplace(hash, zone.get());
        set->label_counts_[hashes.labels()] = true;
    }
    set->zones_ = std::move(zones);
    return std::shared_ptr<const ZoneSet>(std::move(set));
}

const Zone* ZoneSet::find(std::span<const std::uint8_t> name, const SuffixHashes& hashes, bool above) const {
    for (std::size_t labels = hashes.labels() + 1; labels-- > 0;) {
        if (labels >= label_counts_.size() || !label_counts_[labels]) continue;
        if (above && labels == hashes.labels()) continue;
        std::span<const std::uint8_t> suffix = name.subspan(hashes.start(labels));
        auto [from, to] = by_hash_.equal_range(hashes.hash(labels));
        for (auto it = from; it != to; ++it) {
            std::span<const std::uint8_t> origin = it->second->origin().wire();
            if (std::ranges::equal(origin, suffix,
                                   [](std::uint8_t a, std::uint8_t b) { return to_lower(a) == to_lower(b); }))
                return it->second;
        }
    }
    return nullptr;
}

}  // namespace wherry::dns
