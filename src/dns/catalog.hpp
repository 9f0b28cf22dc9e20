// The zones a server serves, found by the longest matching suffix. Immutable: a reload makes another set and swaps the
// pointer.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "dns/zone.hpp"

namespace wherry::dns {

class ZoneSet {
  public:
    ZoneSet() = default;
    // already_exists when two zones have one origin.
    static Result<std::shared_ptr<const ZoneSet>> create(std::vector<std::shared_ptr<const Zone>> zones);

    // The zone whose origin is the longest suffix of the name; nullptr when there is none. For DS at a zone's apex pass
    // above = true: the parent zone, where it is here, answers (RFC 4035 section 3.1.4.1).
    const Zone* find(std::span<const std::uint8_t> name, const SuffixHashes& hashes, bool above = false) const;
    const std::vector<std::shared_ptr<const Zone>>& zones() const { return zones_; }

  private:
    std::vector<std::shared_ptr<const Zone>> zones_;
    std::unordered_multimap<std::uint64_t, const Zone*> by_hash_;
    std::vector<bool> label_counts_;  // which numbers of labels some origin has
};

}  // namespace wherry::dns
