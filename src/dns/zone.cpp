#include "dns/zone.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "dns/fold.hpp"
#include "dns/message.hpp"
#include "dns/text_codec.hpp"

namespace wherry::dns {

namespace {

std::uint64_t mix(std::uint64_t value) {
    value ^= value >> 32U;
    value *= 0xd6e8feb86659fd93U;
    value ^= value >> 29U;
    return value;
}

// A label with its length byte.
std::uint64_t hash_label(std::uint64_t seed, const std::uint8_t* label) {
    std::size_t size = label[0] + std::size_t{1};
    std::uint64_t value = seed + size * 0x9E3779B97F4A7C15U;
    std::size_t at = 0;
    for (; at + 8 <= size; at += 8) value = mix(value ^ lower8(load8(label + at)));
    if (at < size) value = mix(value ^ lower8(load_less_than8(label + at, size - at)));
    return value;
}

std::uint32_t tag_of(std::uint64_t hash) {
    return static_cast<std::uint32_t>(hash >> 32U);
}

constexpr bool is_singleton(Type type) {
    return type == Type::CNAME || type == Type::DNAME || type == Type::SOA;
}

}  // namespace

SuffixHashes::SuffixHashes(std::span<const std::uint8_t> wire) {
    std::size_t at = 0;
    for (; wire[at] != 0; at += wire[at] + 1U) starts_[count_++] = static_cast<std::uint8_t>(at);
    starts_[count_] = static_cast<std::uint8_t>(at);
    hashes_[0] = 0x243F6A8885A308D3U;
    for (std::size_t label = 1; label <= count_; ++label)
        hashes_[label] = hash_label(hashes_[label - 1], wire.data() + starts_[count_ - label]);
}

struct Zone::Order {
    std::once_flag built;
    std::vector<NodeIndex> nodes;
    std::once_flag chain_built;
    Nsec3Chain chain;
};

NodeIndex Zone::find_hashed(std::span<const std::uint8_t> name, std::uint64_t hash) const {
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t at = hash & mask;; at = (at + 1) & mask) {
        const Slot& slot = slots_[at];
        if (slot.node == no_node) return no_node;
        if (slot.tag != tag_of(hash)) continue;
        const Node& node = nodes_[slot.node];
        if (node.name_bytes == name.size() && same_name(data_.data() + node.name_at, name.data(), name.size()))
            return slot.node;
    }
}

NodeIndex Zone::candidate(std::uint64_t hash) const {
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t at = hash & mask;; at = (at + 1) & mask) {
        const Slot& slot = slots_[at];
        if (slot.node == no_node || slot.tag == tag_of(hash)) return slot.node;
    }
}

std::optional<RecordSet> Zone::plain_records(NodeIndex index, std::span<const std::uint8_t> name, Type type) const {
    const Node& node = nodes_[index];
    if (node.cut != no_node || (node.flags & flag_alias) != 0 || node.name_bytes != name.size() ||
        !same_name(data_.data() + node.name_at, name.data(), name.size()))
        return std::nullopt;
    return records(index, type);
}

NodeIndex Zone::find(const Name& name) const {
    SuffixHashes hashes(name.wire());
    return find_hashed(name.wire(), hashes.hash(hashes.labels()));
}

const Zone::Set* Zone::find_set(NodeIndex index, Type type, Type covered) const {
    const Node& node = nodes_[index];
    const Set* set = sets_.data() + node.sets_at;
    for (std::size_t i = 0; i < node.set_count; ++i, ++set)
        if (set->type == type && set->covered == covered) return set;
    return nullptr;
}

RecordSet Zone::view(const Set& set) const {
    return {set.type, set.covered, set.ttl, set.count, std::span(data_).subspan(set.data_at, set.data_bytes)};
}

RecordSet Zone::set(NodeIndex node, std::size_t index) const {
    return view(sets_[nodes_[node].sets_at + index]);
}

std::optional<RecordSet> Zone::records(NodeIndex node, Type type) const {
    const Set* set = find_set(node, type, static_cast<Type>(0));
    if (set == nullptr) return std::nullopt;
    return view(*set);
}

std::optional<RecordSet> Zone::signatures(NodeIndex node, Type covered) const {
    const Set* set = find_set(node, Type::RRSIG, covered);
    if (set == nullptr) return std::nullopt;
    return view(*set);
}

Name Zone::name_of(NodeIndex node) const {
    return Name::from_checked_wire(std::span(data_).subspan(nodes_[node].name_at, nodes_[node].name_bytes));
}

bool Zone::is_glue(NodeIndex node) const {
    NodeIndex cut = nodes_[node].cut;
    return cut != no_node && cut != node;
}

Lookup Zone::at_node(NodeIndex index, Type type, NodeIndex encloser, bool wildcard) const {
    using Kind = Lookup::Kind;
    const Node& node = nodes_[index];
    Lookup found{Kind::no_data, index, encloser, wildcard};
    if ((node.flags & flag_alias) != 0 && type != Type::CNAME && type != Type::ANY && type != Type::NSEC &&
        type != Type::RRSIG) {
        found.kind = Kind::alias;
        return found;
    }
    if (type == Type::ANY || type == Type::RRSIG) {
        const bool any = type == Type::ANY
                             ? node.set_count > 0
                             : std::any_of(sets_.begin() + node.sets_at, sets_.begin() + node.sets_at + node.set_count,
                                           [](const Set& s) { return s.type == Type::RRSIG; });
        if (any) found.kind = Kind::records;
        return found;
    }
    if (find_set(index, type, static_cast<Type>(0)) != nullptr) found.kind = Kind::records;
    return found;
}

Lookup Zone::lookup(std::span<const std::uint8_t> name, const SuffixHashes& hashes, Type type) const {
    using Kind = Lookup::Kind;
    const std::size_t labels = hashes.labels();
    NodeIndex node = find_hashed(name, hashes.hash(labels));
    std::size_t matched = labels;
    // The longest ancestor that exists; the apex does.
    while (node == no_node) {
        --matched;
        node = find_hashed(name.subspan(hashes.start(matched)), hashes.hash(matched));
    }
    if (NodeIndex cut = nodes_[node].cut; cut != no_node) {
        const bool delegation = (nodes_[cut].flags & flag_delegation) != 0;
        // The parent side of a cut answers for DS itself (RFC 4035 section 3.1.4.1).
        const bool parent_side = cut == node && matched == labels && type == Type::DS;
        if (delegation && !parent_side) return {Kind::delegation, cut, node, false};
        if (!delegation) return {Kind::redirect, cut, node, false};
    }
    if (matched == labels) return at_node(node, type, node, false);
    if ((nodes_[node].flags & flag_dname) != 0) return {Kind::redirect, node, node, false};
    if ((nodes_[node].flags & flag_wildcard_child) != 0) {
        // "*" as a label in front of the closest encloser.
        std::array<std::uint8_t, max_name_bytes + 2> star{1, '*'};
        std::span<const std::uint8_t> encloser = name.subspan(hashes.start(matched));
        std::memcpy(star.data() + 2, encloser.data(), encloser.size());
        NodeIndex wild =
            find_hashed(std::span(star).first(encloser.size() + 2), hash_label(hashes.hash(matched), star.data()));
        if (wild != no_node) {
            if ((nodes_[wild].flags & flag_delegation) != 0) return {Kind::delegation, wild, node, true};
            return at_node(wild, type, node, true);
        }
    }
    return {Kind::no_name, no_node, node, false};
}

std::size_t Zone::memory_bytes() const {
    return data_.capacity() + nodes_.capacity() * sizeof(Node) + sets_.capacity() * sizeof(Set) +
           slots_.capacity() * sizeof(Slot);
}

const std::vector<NodeIndex>& Zone::canonical_order() const {
    std::call_once(order_->built, [this] {
        std::vector<NodeIndex>& nodes = order_->nodes;
        nodes.reserve(nodes_.size());
        for (NodeIndex i = 0; i < nodes_.size(); ++i)
            if (nodes_[i].name_bytes != 0) nodes.push_back(i);
        std::ranges::sort(nodes,
                          [this](NodeIndex a, NodeIndex b) { return name_of(a).canonical_order(name_of(b)) < 0; });
    });
    return order_->nodes;
}

NodeIndex Zone::Nsec3Chain::matching(const std::array<std::uint8_t, 20>& hash) const {
    auto found = std::ranges::lower_bound(nodes, hash, {}, [](const auto& item) { return item.first; });
    return found == nodes.end() || found->first != hash ? no_node : found->second;
}

NodeIndex Zone::Nsec3Chain::covering(const std::array<std::uint8_t, 20>& hash) const {
    if (nodes.empty()) return no_node;
    auto after = std::ranges::lower_bound(nodes, hash, {}, [](const auto& item) { return item.first; });
    return after == nodes.begin() ? nodes.back().second : std::prev(after)->second;
}

const Zone::Nsec3Chain& Zone::nsec3_chain() const {
    std::call_once(order_->chain_built, [this] {
        Nsec3Chain& chain = order_->chain;
        auto parameters = records(apex(), Type::NSEC3PARAM);
        if (!parameters) return;
        // Algorithm, flags, iterations, salt behind its length: the shape was checked when the zone was built.
        std::span<const std::uint8_t> data = *parameters->begin();
        if (data[0] != 1) return;
        chain.iterations = load_u16(data.data() + 2);
        chain.salt.assign(data.begin() + 5, data.end());
        for (NodeIndex i = 0; i < nodes_.size(); ++i) {
            if (nodes_[i].parent != apex() || find_set(i, Type::NSEC3, static_cast<Type>(0)) == nullptr) continue;
            const std::uint8_t* name = data_.data() + nodes_[i].name_at;
            if (name[0] != 32) continue;
            // SAFETY: bytes as characters.
            auto hash = base32hex_decode({reinterpret_cast<const char*>(name + 1), 32});
            if (!hash || hash->size() != 20) continue;
            auto& made = chain.nodes.emplace_back();
            std::ranges::copy(*hash, made.first.begin());
            made.second = i;
        }
        std::ranges::sort(chain.nodes);
    });
    return order_->chain;
}

struct ZoneBuilder::Pending {
    NodeIndex node;
    Type type;
    Type covered;
    std::uint32_t ttl;
    std::uint32_t data_at;
    std::uint32_t data_bytes;
};

std::unique_ptr<Zone> ZoneBuilder::empty_zone(const Name& origin) {
    static std::atomic<std::uint64_t> versions{0};
    auto zone = std::make_unique<Zone>();
    zone->version_ = ++versions;
    zone->origin_ = origin;
    zone->origin_labels_ = origin.label_count();
    zone->order_ = std::make_shared<Zone::Order>();
    return zone;
}

Result<> ZoneBuilder::take_apex(Zone& zone) {
    auto missing = [&](std::string_view what) {
        return fail(Code::invalid_argument,
                    zone.origin_.to_text() + ": the zone has no " + std::string(what) + " record at its apex");
    };
    auto soa = zone.records(zone.apex(), Type::SOA);
    if (!soa) return missing("SOA");
    if (!zone.records(zone.apex(), Type::NS)) return missing("NS");
    std::span<const std::uint8_t> data = *soa->begin();
    zone.serial_ = load_u32(data.data() + data.size() - 20);
    zone.negative_ttl_ = std::min(soa->ttl(), load_u32(data.data() + data.size() - 4));
    zone.signed_ = zone.records(zone.apex(), Type::DNSKEY) && zone.signatures(zone.apex(), Type::SOA);
    return {};
}

ZoneBuilder::ZoneBuilder(const Name& origin)
    : zone_(empty_zone(origin)), pending_(std::make_unique<std::vector<Pending>>()) {
    zone_->slots_.resize(64);
    SuffixHashes hashes(origin.wire());
    node_for(origin.wire(), hashes, hashes.labels());
}

ZoneBuilder::~ZoneBuilder() = default;
ZoneBuilder::ZoneBuilder(ZoneBuilder&&) noexcept = default;

void ZoneBuilder::grow() {
    Zone& zone = *zone_;
    std::vector<Zone::Slot> slots(zone.slots_.size() * 2);
    const std::size_t mask = slots.size() - 1;
    for (NodeIndex i = 0; i < zone.nodes_.size(); ++i) {
        std::span<const std::uint8_t> name =
            std::span(zone.data_).subspan(zone.nodes_[i].name_at, zone.nodes_[i].name_bytes);
        SuffixHashes hashes(name);
        std::uint64_t hash = hashes.hash(hashes.labels());
        std::size_t at = hash & mask;
        while (slots[at].node != no_node) at = (at + 1) & mask;
        slots[at] = {tag_of(hash), i};
    }
    zone.slots_ = std::move(slots);
}

// The node of the suffix of `labels` labels, made with its ancestors when it is not there (empty non-terminals).
NodeIndex ZoneBuilder::node_for(std::span<const std::uint8_t> name, const SuffixHashes& hashes, std::size_t labels) {
    Zone& zone = *zone_;
    std::span<const std::uint8_t> suffix = name.subspan(hashes.start(labels));
    std::uint64_t hash = hashes.hash(labels);
    if (NodeIndex node = zone.find_hashed(suffix, hash); node != no_node) return node;
    NodeIndex parent = no_node;
    if (labels > zone.origin_labels_) {
        parent = node_for(name, hashes, labels - 1);
        if (suffix[0] == 1 && suffix[1] == '*') zone.nodes_[parent].flags |= Zone::flag_wildcard_child;
    }
    auto index = static_cast<NodeIndex>(zone.nodes_.size());
    Zone::Node node;
    node.name_at = static_cast<std::uint32_t>(zone.data_.size());
    node.name_bytes = static_cast<std::uint8_t>(suffix.size());
    node.parent = parent;
    zone.data_.insert(zone.data_.end(), suffix.begin(), suffix.end());
    zone.nodes_.push_back(node);
    if (zone.nodes_.size() * 3 > zone.slots_.size() * 2) {
        grow();  // places the new one too
    } else {
        const std::size_t mask = zone.slots_.size() - 1;
        std::size_t at = hash & mask;
        while (zone.slots_[at].node != no_node) at = (at + 1) & mask;
        zone.slots_[at] = {tag_of(hash), index};
    }
    return index;
}

Result<> ZoneBuilder::add(const Name& owner, Type type, std::uint32_t ttl, std::span<const std::uint8_t> rdata) {
    Zone& zone = *zone_;
    if (!owner.is_within(zone.origin_))
        return fail(Code::invalid_argument, owner.to_text() + " is not within the zone " + zone.origin_.to_text());
    if (is_meta(type))
        return fail(Code::invalid_argument, "records of type " + to_string(type) + " cannot be in a zone");
    if (!rdata_is_valid(type, rdata))
        return fail(Code::invalid_argument, owner.to_text() + ": malformed " + to_string(type) + " record");
    if (zone.data_.size() + rdata.size() + max_name_bytes * 128 > 0xFFFFFFFFU)
        return fail(Code::resource_exhausted, "zone is larger than 4 GiB");
    SuffixHashes hashes(owner.wire());
    NodeIndex node = node_for(owner.wire(), hashes, hashes.labels());
    Type covered = type == Type::RRSIG ? static_cast<Type>(load_u16(rdata.data())) : static_cast<Type>(0);
    pending_->push_back({node, type, covered, ttl, static_cast<std::uint32_t>(zone.data_.size()),
                         static_cast<std::uint32_t>(rdata.size())});
    zone.data_.insert(zone.data_.end(), rdata.begin(), rdata.end());
    return {};
}

Result<std::shared_ptr<const Zone>> ZoneBuilder::finish() && {
    Zone& zone = *zone_;
    std::vector<Pending>& pending = *pending_;
    const std::vector<std::uint8_t> raw = std::move(zone.data_);
    auto bytes_of = [&](const Pending& p) { return std::span(raw).subspan(p.data_at, p.data_bytes); };
    auto wrong = [&](const Name& name, std::string_view what) {
        return fail(Code::invalid_argument, name.to_text() + ": " + std::string(what));
    };
    std::ranges::sort(pending, [&](const Pending& a, const Pending& b) {
        if (a.node != b.node) return a.node < b.node;
        if (a.type != b.type) return a.type < b.type;
        if (a.covered != b.covered) return a.covered < b.covered;
        auto x = bytes_of(a);
        auto y = bytes_of(b);
        int order = std::memcmp(x.data(), y.data(), std::min(x.size(), y.size()));
        return order != 0 ? order < 0 : x.size() < y.size();
    });
    // Everything is copied once more, so that a node's records lie together and nothing is left over.
    zone.data_ = {};
    zone.data_.reserve(raw.size() + pending.size() * 2);
    // Each name stands right before its records: one line of the cache holds both more often than not.
    NodeIndex placed = 0;
    auto place_names = [&](NodeIndex end) {
        for (; placed < end; ++placed) {
            Zone::Node& node = zone.nodes_[placed];
            auto at = static_cast<std::uint32_t>(zone.data_.size());
            zone.data_.insert(zone.data_.end(), raw.begin() + node.name_at,
                              raw.begin() + node.name_at + node.name_bytes);
            node.name_at = at;
        }
    };
    for (std::size_t i = 0; i < pending.size();) {
        place_names(pending[i].node + 1);
        const Pending& first = pending[i];
        Zone::Node& node = zone.nodes_[first.node];
        Zone::Set set;
        set.type = first.type;
        set.covered = first.covered;
        set.ttl = first.ttl;
        set.data_at = static_cast<std::uint32_t>(zone.data_.size());
        std::span<const std::uint8_t> previous;
        for (; i < pending.size() && pending[i].node == first.node && pending[i].type == first.type &&
               pending[i].covered == first.covered;
             ++i) {
            auto bytes = bytes_of(pending[i]);
            set.ttl = std::min(set.ttl, pending[i].ttl);
            if (set.count > 0 && std::ranges::equal(bytes, previous)) continue;
            previous = bytes;
            if (set.count == 0xFFFF) return wrong(zone.name_of(first.node), "more than 65535 records of one type");
            ++set.count;
            zone.data_.push_back(static_cast<std::uint8_t>(bytes.size() >> 8U));
            zone.data_.push_back(static_cast<std::uint8_t>(bytes.size()));
            zone.data_.insert(zone.data_.end(), bytes.begin(), bytes.end());
        }
        set.data_bytes = static_cast<std::uint32_t>(zone.data_.size() - set.data_at);
        zone.record_count_ += set.count;
        if (is_singleton(set.type) && set.count > 1)
            return wrong(zone.name_of(first.node), "more than one " + to_string(set.type) + " record");
        if (set.type == Type::SOA && first.node != zone.apex())
            return wrong(zone.name_of(first.node), "SOA record below the apex");
        if (node.set_count == 0) node.sets_at = static_cast<std::uint32_t>(zone.sets_.size());
        if (set.type == Type::NS && first.node != zone.apex()) node.flags |= Zone::flag_delegation;
        if (set.type == Type::DNAME) node.flags |= Zone::flag_dname;
        if (set.type == Type::CNAME) node.flags |= Zone::flag_alias;
        ++node.set_count;
        zone.sets_.push_back(set);
    }
    place_names(static_cast<NodeIndex>(zone.nodes_.size()));
    for (NodeIndex i = 0; i < zone.nodes_.size(); ++i) {
        Zone::Node& node = zone.nodes_[i];
        if ((node.flags & Zone::flag_alias) != 0) {
            for (std::size_t k = 0; k < node.set_count; ++k) {
                Type type = zone.sets_[node.sets_at + k].type;
                if (type != Type::CNAME && type != Type::RRSIG && type != Type::NSEC && type != Type::KEY)
                    return wrong(zone.name_of(i), "CNAME and other data (" + to_string(type) + ")");
            }
        }
        // Parents come before their children, so one pass hands the nearest cut down.
        if (node.parent != no_node) {
            const Zone::Node& parent = zone.nodes_[node.parent];
            node.cut = parent.cut != no_node                    ? parent.cut
                       : (parent.flags & Zone::flag_dname) != 0 ? node.parent
                                                                : no_node;
        }
        if (node.cut == no_node && (node.flags & Zone::flag_delegation) != 0) node.cut = i;
    }
    TRY(take_apex(zone));
    zone.nodes_.shrink_to_fit();
    zone.sets_.shrink_to_fit();
    pending_.reset();
    return std::shared_ptr<const Zone>(std::move(zone_));
}

Result<std::shared_ptr<const Zone>> load_zone(const Name& origin, const std::string& path) {
    ZoneBuilder builder(origin);
    TRY(parse_master_file(path, {.origin = origin}, [&](const ParsedRecord& record) -> Result<> {
        if (record.dns_class != Class::IN)
            return fail(Code::invalid_argument, "class " + to_string(record.dns_class) + " is not served");
        return builder.add(record.owner, record.type, record.ttl, record.rdata);
    }));
    return std::move(builder).finish();
}

}  // namespace wherry::dns
