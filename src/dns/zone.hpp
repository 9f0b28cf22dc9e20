// One zone's data, immutable once built, laid out for answering: a hash table of names over flat arrays, so that a
// million names cost a few large allocations and a lookup touches a few cache lines.
//
//     ZoneBuilder builder(origin);
//     TRY(builder.add(owner, Type::A, 300, rdata));
//     std::shared_ptr<const Zone> zone = TRY(std::move(builder).finish());
//     Lookup found = zone->lookup(name, Type::A);
//
// Readers share a zone by shared_ptr; a reload builds another one and swaps the pointer.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "dns/master_file.hpp"
#include "dns/name.hpp"
#include "dns/rdata.hpp"
#include "dns/types.hpp"

namespace wherry::dns {

// Hashes of every suffix of a name, computed once from the root and used for finding its zone and its node.
class SuffixHashes {
  public:
    explicit SuffixHashes(std::span<const std::uint8_t> wire);

    std::size_t labels() const { return count_; }
    // The suffix of `labels` labels: its hash and where it starts in the wire form.
    std::uint64_t hash(std::size_t labels) const { return hashes_[labels]; }
    std::size_t start(std::size_t labels) const { return starts_[count_ - labels]; }

  private:
    std::size_t count_ = 0;
    std::array<std::uint64_t, 129> hashes_;  // by number of labels
    std::array<std::uint8_t, 129> starts_;   // by label from the left; the root's byte last
};

// The records of one name and type, in wire form, each behind its 16-bit length.
class RecordSet {
  public:
    class Iterator {
      public:
        explicit Iterator(const std::uint8_t* at) : at_(at) {}
        std::span<const std::uint8_t> operator*() const { return {at_ + 2, size()}; }
        Iterator& operator++() {
            at_ += 2 + size();
            return *this;
        }
        bool operator==(const Iterator&) const = default;

      private:
        std::size_t size() const { return static_cast<std::size_t>(at_[0] << 8U | at_[1]); }
        const std::uint8_t* at_;
    };

    RecordSet(Type type, Type covered, std::uint32_t ttl, std::uint16_t count, std::span<const std::uint8_t> packed)
        : packed_(packed), ttl_(ttl), type_(type), covered_(covered), count_(count) {}
    Type type() const { return type_; }
    Type covered() const { return covered_; }  // of RRSIGs: what they sign
    std::uint32_t ttl() const { return ttl_; }
    std::size_t size() const { return count_; }
    Iterator begin() const { return Iterator(packed_.data()); }
    Iterator end() const { return Iterator(packed_.data() + packed_.size()); }
    std::span<const std::uint8_t> packed() const { return packed_; }

  private:
    std::span<const std::uint8_t> packed_;
    std::uint32_t ttl_;
    Type type_;
    Type covered_;
    std::uint16_t count_;
};

using NodeIndex = std::uint32_t;
inline constexpr NodeIndex no_node = 0xFFFFFFFFU;

// What a name is in a zone (RFC 1034 section 4.3.2, RFC 4592, RFC 6672).
struct Lookup {
    enum class Kind : unsigned char {
        records,     // node has the type (or is asked for ANY)
        no_data,     // node exists, without the type (empty non-terminals too)
        alias,       // node has a CNAME, and another type was asked for
        redirect,    // node is an ancestor with a DNAME
        delegation,  // node is the zone cut
        no_name,     // NXDOMAIN
    };
    Kind kind = Kind::no_name;
    NodeIndex node = no_node;              // what is answered from; a wildcard's own node when synthesized
    NodeIndex closest_encloser = no_node;  // longest existing ancestor, or the name itself
    bool wildcard = false;                 // synthesized: the owner is the name that was asked for
};

class Zone {
  public:
    const Name& origin() const { return origin_; }
    // A number that no other zone in this process has, nor another version of this one.
    std::uint64_t version() const { return version_; }
    std::uint32_t serial() const { return serial_; }
    std::uint32_t negative_ttl() const { return negative_ttl_; }  // RFC 2308 section 5
    bool is_signed() const { return signed_; }                    // has DNSKEY and RRSIGs at its apex
    NodeIndex apex() const { return 0; }

    Lookup lookup(const Name& name, Type type) const { return lookup(name.wire(), SuffixHashes(name.wire()), type); }
    // `name` lies within the origin.
    Lookup lookup(std::span<const std::uint8_t> name, const SuffixHashes& hashes, Type type) const;
    // The node of exactly this name, also below zone cuts (glue).
    NodeIndex find(const Name& name) const;

    // For answering in steps, so that the memory of many queries is waited for at once: the hash table's cell of a
    // name; the node that it leads to (which may be another's: no_node when there is surely none); the node's name and
    // data; and what plain_records finds when the node has that name, lies below no cut and has no alias.
    void prefetch_slot(std::uint64_t hash) const { __builtin_prefetch(&slots_[hash & (slots_.size() - 1)]); }
    NodeIndex candidate(std::uint64_t hash) const;
    void prefetch_node(NodeIndex node) const { __builtin_prefetch(&nodes_[node]); }
    void prefetch_data(NodeIndex node) const {
        __builtin_prefetch(data_.data() + nodes_[node].name_at);
        __builtin_prefetch(&sets_[nodes_[node].sets_at]);
    }
    std::optional<RecordSet> plain_records(NodeIndex node, std::span<const std::uint8_t> name, Type type) const;

    Name name_of(NodeIndex node) const;
    std::optional<RecordSet> records(NodeIndex node, Type type) const;
    std::optional<RecordSet> signatures(NodeIndex node, Type covered) const;
    std::size_t set_count(NodeIndex node) const { return nodes_[node].set_count; }
    RecordSet set(NodeIndex node, std::size_t index) const;
    NodeIndex parent(NodeIndex node) const { return nodes_[node].parent; }
    bool is_delegation(NodeIndex node) const { return (nodes_[node].flags & flag_delegation) != 0; }
    // At or below a zone cut: not authoritative data.
    bool is_glue(NodeIndex node) const;

    std::size_t node_count() const { return nodes_.size(); }
    std::size_t record_count() const { return record_count_; }
    // Made from another version by changing it in places (zone_patch.hpp).
    bool is_patched() const { return patched_; }
    // All that the zone occupies, and the part of it that is names and record data themselves.
    std::size_t memory_bytes() const;
    std::size_t data_bytes() const { return data_.size(); }

    // The NSEC3 chain of a zone signed with one (RFC 5155): the nodes of its NSEC3 records by hash, built at the first
    // use.
    struct Nsec3Chain {
        Bytes salt;
        unsigned iterations = 0;
        std::vector<std::pair<std::array<std::uint8_t, 20>, NodeIndex>> nodes;  // empty: there is no chain

        NodeIndex matching(const std::array<std::uint8_t, 20>& hash) const;  // no_node when there is none
        NodeIndex covering(const std::array<std::uint8_t, 20>& hash) const;  // the last one before it
    };
    const Nsec3Chain& nsec3_chain() const;

    // Indices of the nodes that have a name in canonical order (RFC 4034 section 6.1); built at the first use, kept.
    const std::vector<NodeIndex>& canonical_order() const;

  private:
    friend class ZoneBuilder;
    friend class ZonePatcher;
    static constexpr std::uint8_t flag_delegation = 1;  // NS, and not the apex
    static constexpr std::uint8_t flag_dname = 2;
    static constexpr std::uint8_t flag_wildcard_child = 4;
    static constexpr std::uint8_t flag_alias = 8;

    struct Node {
        std::uint32_t name_at = 0;
        std::uint32_t sets_at = 0;
        NodeIndex parent = no_node;
        NodeIndex cut = no_node;  // nearest delegation or DNAME at an ancestor (a delegation: at the node itself too)
        std::uint16_t set_count = 0;
        std::uint8_t name_bytes = 0;
        std::uint8_t flags = 0;
    };
    struct Set {
        std::uint32_t data_at = 0;
        std::uint32_t data_bytes = 0;
        std::uint32_t ttl = 0;
        Type type = Type::A;
        Type covered = static_cast<Type>(0);
        std::uint16_t count = 0;
    };
    struct Slot {
        std::uint32_t tag = 0;  // high half of the hash: most mismatches end here
        NodeIndex node = no_node;
    };

    NodeIndex find_hashed(std::span<const std::uint8_t> name, std::uint64_t hash) const;
    const Set* find_set(NodeIndex node, Type type, Type covered) const;
    RecordSet view(const Set& set) const;
    Lookup at_node(NodeIndex node, Type type, NodeIndex encloser, bool wildcard) const;

    Name origin_;
    std::uint64_t version_ = 0;
    std::uint32_t serial_ = 0;
    std::uint32_t negative_ttl_ = 0;
    bool signed_ = false;
    std::size_t origin_labels_ = 0;
    std::size_t record_count_ = 0;
    std::vector<std::uint8_t> data_;  // names and packed record data
    std::vector<Node> nodes_;         // [0] is the apex
    std::vector<Set> sets_;
    std::vector<Slot> slots_;  // open addressing, a power of two
    // Of a version made by changing another: bytes that nothing leads to any more, and nodes without a name.
    std::size_t waste_ = 0;
    std::size_t gone_ = 0;
    bool patched_ = false;
    struct Order;
    std::shared_ptr<Order> order_;
};

class ZoneBuilder {
  public:
    explicit ZoneBuilder(const Name& origin);
    ~ZoneBuilder();
    ZoneBuilder(ZoneBuilder&&) noexcept;
    ZoneBuilder& operator=(ZoneBuilder&&) = delete;
    ZoneBuilder(const ZoneBuilder&) = delete;
    ZoneBuilder& operator=(const ZoneBuilder&) = delete;

    // rdata in wire form. invalid_argument for names outside the zone and types that no zone holds.
    Result<> add(const Name& owner, Type type, std::uint32_t ttl, std::span<const std::uint8_t> rdata);
    // Checks the whole (one SOA and NS at the apex, CNAME alone at its name, one record per singleton type) and lays it
    // out. Records given twice count once; of different TTLs in a set the lowest holds (RFC 2181 section 5.2).
    Result<std::shared_ptr<const Zone>> finish() &&;

  private:
    friend class ZonePatcher;
    struct Pending;
    // A zone of that origin without anything, of a version of its own.
    static std::unique_ptr<Zone> empty_zone(const Name& origin);
    // What follows from the apex's records; an error when they are not there.
    static Result<> take_apex(Zone& zone);
    NodeIndex node_for(std::span<const std::uint8_t> name, const SuffixHashes& hashes, std::size_t labels);
    void grow();
    std::unique_ptr<Zone> zone_;
    std::unique_ptr<std::vector<Pending>> pending_;
};

Result<std::shared_ptr<const Zone>> load_zone(const Name& origin, const std::string& path);

}  // namespace wherry::dns
