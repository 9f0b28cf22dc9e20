// Changes to a zone: a difference between two versions, the versions a zone went through (for IXFR), and an editor that
// makes a new version from an old one.
//
//     ZoneEditor editor(zone);
//     editor.add(owner, Type::A, 300, rdata);
//     ZoneDiff diff = editor.diff();                       // for the journal and for IXFR
//     auto next = TRY(std::move(editor).finish());         // another immutable Zone
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "dns/record_list.hpp"
#include "dns/zone.hpp"

namespace wherry::dns {

// RFC 1995's shape: each list begins with that version's SOA.
struct ZoneDiff {
    std::uint32_t from = 0;
    std::uint32_t to = 0;
    Bytes deleted;  // record lists
    Bytes added;
    std::size_t bytes() const { return deleted.size() + added.size(); }
    // Whether there is more in it than the two SOAs.
    bool changes_records() const;
};

// What became of a zone, oldest first, each beginning where the one before ended.
class ZoneHistory {
  public:
    // A copy with one more; the oldest ones go when the sum exceeds `limit_bytes`. A diff that does not continue the
    // last one starts a new history.
    static std::shared_ptr<const ZoneHistory> extend(const std::shared_ptr<const ZoneHistory>& old,
                                                     std::shared_ptr<const ZoneDiff> diff, std::size_t limit_bytes);
    // The diffs from `serial` on; empty when it is not known.
    std::vector<std::shared_ptr<const ZoneDiff>> since(std::uint32_t serial) const;

  private:
    std::vector<std::shared_ptr<const ZoneDiff>> diffs_;
};

// What leads from one version to the other.
ZoneDiff diff_zones(const Zone& from, const Zone& to);

class ZoneEditor {
  public:
    struct Set {
        std::uint32_t ttl = 0;
        std::vector<Bytes> rdata;
    };
    using SetKey = std::pair<Type, Type>;  // type and, of RRSIGs, what they cover
    using Sets = std::map<SetKey, Set>;

    explicit ZoneEditor(std::shared_ptr<const Zone> base);

    const Name& origin() const { return origin_; }
    // The sets of a name as edited so far; nullptr when it has none.
    const Sets* at(const Name& name) const;
    const Set* find(const Name& name, Type type) const;
    // A record that is there already gets the TTL (as does its whole set). invalid_argument for malformed data and
    // names outside the zone. True when something changed.
    Result<bool> add(const Name& owner, Type type, std::uint32_t ttl, std::span<const std::uint8_t> rdata);
    bool remove(const Name& owner, Type type, std::span<const std::uint8_t> rdata);
    bool remove_set(const Name& owner, Type type);
    std::uint32_t serial() const;
    void set_serial(std::uint32_t serial);
    bool is_changed() const;

    ZoneDiff diff() const;
    // Applies another version's difference. conflict when it does not fit this version.
    Result<> apply(const ZoneDiff& diff);
    Result<std::shared_ptr<const Zone>> finish() &&;

  private:
    Sets& edit(const Name& name);
    Sets base_sets(const Name& name) const;
    Name origin_;
    std::shared_ptr<const Zone> base_;
    std::unordered_map<Name, Sets, NameHash> edited_;
    mutable std::unordered_map<Name, Sets, NameHash> seen_;
};

}  // namespace wherry::dns
