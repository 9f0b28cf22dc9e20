#include "dns/zone_patch.hpp"

#include <algorithm>
#include <cstring>

#include "dns/message.hpp"

namespace wherry::dns {

class ZonePatcher {
  public:
    using Sets = ZoneEditor::Sets;

    explicit ZonePatcher(const Zone& base) : base_(base) {}

    std::shared_ptr<const Zone> patch(const std::unordered_map<Name, Sets, NameHash>& edited) {
        std::size_t bytes = 0;
        std::size_t sets_to_come = 0;
        for (const auto& [name, sets] : edited) {
            if (!fits(name, sets)) return nullptr;
            bytes += 2 * max_name_bytes;
            sets_to_come += sets.size();
            for (const auto& [key, set] : sets)
                for (const Bytes& rdata : set.rdata) bytes += rdata.size() + 2;
        }
        // Names may bring as many ancestors.
        if (base_.data_.size() + bytes > 0x7FFFFFFFU ||
            (base_.nodes_.size() + edited.size() * 2 + 64) * 3 > base_.slots_.size() * 2)
            return nullptr;
        if (base_.waste_ > base_.data_.size() / 4 + (64U << 10U) || base_.gone_ > base_.nodes_.size() / 4 + 64)
            return nullptr;
        zone_ = ZoneBuilder::empty_zone(base_.origin_);
        zone_->record_count_ = base_.record_count_;
        zone_->waste_ = base_.waste_;
        zone_->gone_ = base_.gone_;
        zone_->patched_ = true;
        // With room for what comes, so that nothing is copied twice.
        zone_->data_.reserve(base_.data_.size() + bytes);
        zone_->data_ = base_.data_;
        zone_->nodes_.reserve(base_.nodes_.size() + edited.size() * 2 + 64);
        zone_->nodes_ = base_.nodes_;
        zone_->sets_.reserve(base_.sets_.size() + sets_to_come);
        zone_->sets_ = base_.sets_;
        zone_->slots_ = base_.slots_;
        for (const auto& [name, sets] : edited)
            if (!sets.empty()) lay_out(name, sets);
        if (!remove(edited) || !ZoneBuilder::take_apex(*zone_)) return nullptr;
        return std::shared_ptr<const Zone>(std::move(zone_));
    }

  private:
    static bool cuts(const Zone& zone, NodeIndex node) {
        return node != no_node && (zone.nodes_[node].flags & (Zone::flag_delegation | Zone::flag_dname)) != 0;
    }

    // What the checks of a whole zone would say, where it can be said here.
    bool fits(const Name& name, const Sets& sets) const {
        const bool apex = name == base_.origin_;
        if (!name.is_within(base_.origin_) || cuts(base_, base_.find(name))) return false;
        bool alias = false;
        for (const auto& [key, set] : sets) {
            const Type type = key.first;
            if (set.rdata.empty() || set.rdata.size() > 0xFFFF) return false;
            if (type == Type::DNAME || (type == Type::NS && !apex) ||
                (type == Type::SOA) != (apex && type == Type::SOA))
                return false;
            if ((type == Type::CNAME || type == Type::SOA) && set.rdata.size() != 1) return false;
            alias = alias || type == Type::CNAME;
        }
        if (alias)
            for (const auto& [key, set] : sets)
                if (key.first != Type::CNAME && key.first != Type::RRSIG && key.first != Type::NSEC &&
                    key.first != Type::KEY)
                    return false;
        return true;
    }

    // The node of the name's suffix, with its ancestors.
    NodeIndex node_for(std::span<const std::uint8_t> name, const SuffixHashes& hashes, std::size_t labels) {
        Zone& zone = *zone_;
        std::span<const std::uint8_t> suffix = name.subspan(hashes.start(labels));
        const std::uint64_t hash = hashes.hash(labels);
        if (NodeIndex node = zone.find_hashed(suffix, hash); node != no_node) return node;
        const NodeIndex parent = node_for(name, hashes, labels - 1);
        if (suffix[0] == 1 && suffix[1] == '*') zone.nodes_[parent].flags |= Zone::flag_wildcard_child;
        const auto index = static_cast<NodeIndex>(zone.nodes_.size());
        const Zone::Node& above = zone.nodes_[parent];
        Zone::Node node;
        node.name_at = static_cast<std::uint32_t>(zone.data_.size());
        node.name_bytes = static_cast<std::uint8_t>(suffix.size());
        node.parent = parent;
        node.cut = above.cut != no_node ? above.cut : (above.flags & Zone::flag_dname) != 0 ? parent : no_node;
        zone.data_.insert(zone.data_.end(), suffix.begin(), suffix.end());
        zone.nodes_.push_back(node);
        const std::size_t mask = zone.slots_.size() - 1;
        std::size_t at = hash & mask;
        while (zone.slots_[at].node != no_node) at = (at + 1) & mask;
        zone.slots_[at] = {static_cast<std::uint32_t>(hash >> 32U), index};
        return index;
    }

    void forget_sets(Zone::Node& node) {
        for (std::size_t i = 0; i < node.set_count; ++i) {
            const Zone::Set& set = zone_->sets_[node.sets_at + i];
            zone_->record_count_ -= set.count;
            zone_->waste_ += set.data_bytes + sizeof(Zone::Set);
        }
        node.set_count = 0;
        node.flags &= static_cast<std::uint8_t>(~Zone::flag_alias);
    }

    void lay_out(const Name& name, const Sets& sets) {
        Zone& zone = *zone_;
        const SuffixHashes hashes(name.wire());
        const NodeIndex index = node_for(name.wire(), hashes, hashes.labels());
        Zone::Node& node = zone.nodes_[index];
        forget_sets(node);
        node.sets_at = static_cast<std::uint32_t>(zone.sets_.size());
        for (const auto& [key, from] : sets) {
            Zone::Set set;
            set.type = key.first;
            set.covered = key.second;
            set.ttl = from.ttl;
            set.data_at = static_cast<std::uint32_t>(zone.data_.size());
            // In the order that a zone built anew has them in.
            std::vector<const Bytes*> order;
            for (const Bytes& rdata : from.rdata) order.push_back(&rdata);
            std::ranges::sort(order, [](const Bytes* a, const Bytes* b) { return *a < *b; });
            for (const Bytes* rdata : order) {
                zone.data_.push_back(static_cast<std::uint8_t>(rdata->size() >> 8U));
                zone.data_.push_back(static_cast<std::uint8_t>(rdata->size()));
                zone.data_.insert(zone.data_.end(), rdata->begin(), rdata->end());
            }
            set.count = static_cast<std::uint16_t>(order.size());
            set.data_bytes = static_cast<std::uint32_t>(zone.data_.size() - set.data_at);
            zone.record_count_ += set.count;
            if (set.type == Type::CNAME) node.flags |= Zone::flag_alias;
            ++node.set_count;
            zone.sets_.push_back(set);
        }
    }

    // Names that lost all they had: gone, unless there are names below.
    bool remove(const std::unordered_map<Name, Sets, NameHash>& edited) {
        Zone& zone = *zone_;
        std::vector<NodeIndex> empty;
        for (const auto& [name, sets] : edited) {
            if (!sets.empty()) continue;
            const NodeIndex index = zone.find(name);
            if (index == no_node) continue;
            if (index == zone.apex()) return false;
            forget_sets(zone.nodes_[index]);
            empty.push_back(index);
        }
        if (empty.empty()) return true;
        std::vector<bool> has_child(zone.nodes_.size());
        for (const Zone::Node& node : zone.nodes_)
            if (node.parent != no_node) has_child[node.parent] = true;
        for (NodeIndex index : empty) {
            if (has_child[index]) continue;
            // A parent that has nothing of its own might have to go as well: rare enough to build anew for.
            const NodeIndex parent = zone.nodes_[index].parent;
            if (parent != zone.apex() && zone.nodes_[parent].set_count == 0) return false;
            take_out(index);
        }
        return true;
    }

    // Out of the table of names: what stood further on because of it moves up.
    void take_out(NodeIndex index) {
        Zone& zone = *zone_;
        const std::size_t mask = zone.slots_.size() - 1;
        auto hash_of = [&](NodeIndex node) {
            const SuffixHashes hashes(
                std::span(zone.data_).subspan(zone.nodes_[node].name_at, zone.nodes_[node].name_bytes));
            return hashes.hash(hashes.labels());
        };
        std::size_t hole = hash_of(index) & mask;
        while (zone.slots_[hole].node != index) hole = (hole + 1) & mask;
        for (std::size_t at = (hole + 1) & mask; zone.slots_[at].node != no_node; at = (at + 1) & mask) {
            const std::size_t home = hash_of(zone.slots_[at].node) & mask;
            // It may move where its home is not behind the hole.
            if (((at - home) & mask) < ((at - hole) & mask)) continue;
            zone.slots_[hole] = zone.slots_[at];
            hole = at;
        }
        zone.slots_[hole] = {};
        Zone::Node& node = zone.nodes_[index];
        zone.waste_ += node.name_bytes + sizeof node;
        ++zone.gone_;
        node = {};
    }

    const Zone& base_;
    std::unique_ptr<Zone> zone_;
};

std::shared_ptr<const Zone> patch_zone(const Zone& base,
                                       const std::unordered_map<Name, ZoneEditor::Sets, NameHash>& edited) {
    return ZonePatcher(base).patch(edited);
}

}  // namespace wherry::dns
