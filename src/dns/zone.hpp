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
    std::uint32_t serial() const { return serial_; }
    std::uint32_t negative_ttl() const { return negative_ttl_; }  // RFC 2308 section 5
    bool is_signed() const { return signed_; }                    // has DNSKEY and RRSIGs at its apex
    NodeIndex apex() const { return 0; }

    Lookup lookup(const Name& name, Type type) const { return lookup(name.wire(), SuffixHashes(name.wire()), type); }
    // `name` lies within the origin.
    Lookup lookup(std::span<const std::uint8_t> name, const SuffixHashes& hashes, Type type) const;
    // The node of exactly this name, also below zone cuts (glue).
    NodeIndex find(const Name& name) const;

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
    // All that the zone occupies, and the part of it that is names and record data themselves.
    std::size_t memory_bytes() const;
    std::size_t data_bytes() const { return data_.size(); }

    // Node indices in canonical order (RFC 4034 section 6.1); built at the first use, kept.
    const std::vector<NodeIndex>& canonical_order() const;

  private:
    friend class ZoneBuilder;
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
    std::uint32_t serial_ = 0;
    std::uint32_t negative_ttl_ = 0;
    bool signed_ = false;
    std::size_t origin_labels_ = 0;
    std::size_t record_count_ = 0;
    std::vector<std::uint8_t> data_;  // names and packed record data
    std::vector<Node> nodes_;         // [0] is the apex
    std::vector<Set> sets_;
    std::vector<Slot> slots_;  // open addressing, a power of two
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
    struct Pending;
    NodeIndex node_for(std::span<const std::uint8_t> name, const SuffixHashes& hashes, std::size_t labels);
    void grow();
    std::unique_ptr<Zone> zone_;
    std::unique_ptr<std::vector<Pending>> pending_;
};

Result<std::shared_ptr<const Zone>> load_zone(const Name& origin, const std::string& path);

}  // namespace wherry::dns
