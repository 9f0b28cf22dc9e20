// The zones a server serves, found by the longest matching suffix, with what belongs to each, and the keys. Immutable:
// a reload makes another set and swaps the pointer.
#pragma once

#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "dns/access.hpp"
#include "dns/tsig.hpp"
#include "dns/zone.hpp"
#include "dns/zone_edit.hpp"

namespace wherry::dns {

class ZoneSigner;

// Who asks, for answers that depend on it.
struct ClientView {
    std::span<const std::uint8_t> address;  // of the client, or of its subnet where the query names one (RFC 7871)
    std::uint8_t prefix_bits = 0;           // how much of the address is known
};

// Where a search through a tree is that reads one place of memory after the other, so that many searches can wait for
// their memory at once.
struct StepwiseSearch {
    const void* tree = nullptr;
    const void* next = nullptr;  // what is being fetched; null: the search has ended
    std::uint64_t key = 0;
    std::uint32_t place = 0;
    std::uint8_t shift = 0;
    std::uint8_t step = 0;
};

// A policy's search for an answer: its own business.
struct PolicySearch {
    const void* subject = nullptr;  // null: there is nothing to search
    StepwiseSearch walk;
    bool hidden = false;  // the client hides
};

// A source of answers of its own for some names of a zone: a site chosen by measurement, a name of a workload. Called
// on the way of a query from any thread: it may neither block nor allocate.
class AnswerPolicy {
  public:
    virtual ~AnswerPolicy() = default;
    AnswerPolicy() = default;
    AnswerPolicy(const AnswerPolicy&) = delete;
    AnswerPolicy& operator=(const AnswerPolicy&) = delete;

    struct Answer {
        RecordSet records;            // lives as long as the policy
        std::uint8_t scope_bits = 0;  // how much of the client's prefix the answer depended on (RFC 7871 section 7.2.1)
    };
    // `node` holds the zone's own data of the name (which a policy's name must have too); nullopt: that is the answer.
    std::optional<Answer> answer(NodeIndex node, Type type, const ClientView& client) const {
        PolicySearch search;
        begin(node, type, client, search);
        return end(type, client, search);
    }

    // The same in steps, so that the memory of many queries is waited for at once: begin() and each of `steps` calls of
    // step() start to fetch what the next one reads.
    static constexpr unsigned steps = 2;
    virtual void begin(NodeIndex node, Type type, const ClientView& client, PolicySearch& search) const = 0;
    virtual void step(PolicySearch& search) const = 0;
    virtual std::optional<Answer> end(Type type, const ClientView& client, PolicySearch& search) const = 0;
};

struct ServedZone {
    Name origin;
    std::shared_ptr<const Zone> zone;            // null: nothing to serve yet, or no longer (SERVFAIL)
    std::shared_ptr<const ZoneHistory> history;  // for IXFR; may be null
    std::shared_ptr<const ZoneAccess> access;    // null: nobody may anything but ask
    std::shared_ptr<const ZoneSigner> signer;    // null: served as it is
    std::shared_ptr<const AnswerPolicy> policy;  // null: the zone's data alone
};

class ZoneSet {
  public:
    ZoneSet() = default;
    // already_exists when two zones have one origin.
    static Result<std::shared_ptr<const ZoneSet>> create(std::vector<std::shared_ptr<const Zone>> zones);
    static Result<std::shared_ptr<const ZoneSet>> create(std::vector<ServedZone> zones,
                                                         std::shared_ptr<const KeyRing> keys);

    // The zone whose origin is the longest suffix of the name; nullptr when there is none. For DS at a zone's apex pass
    // above = true: the parent zone, where it is here, answers (RFC 4035 section 3.1.4.1).
    const ServedZone* find(std::span<const std::uint8_t> name, const SuffixHashes& hashes, bool above = false) const;
    const ServedZone* find_exact(const Name& origin) const;
    const std::vector<ServedZone>& zones() const { return zones_; }
    const KeyRing& keys() const { return *keys_; }

  private:
    struct Slot {
        std::uint64_t hash = 0;
        const ServedZone* zone = nullptr;
    };
    std::vector<ServedZone> zones_;
    std::shared_ptr<const KeyRing> keys_ = std::make_shared<const KeyRing>();
    std::vector<Slot> slots_ = std::vector<Slot>(1);  // open addressing, a power of two
    std::array<bool, 129> label_counts_{};            // which numbers of labels some origin has
};

}  // namespace wherry::dns
