#include "dns/zone_edit.hpp"

#include <algorithm>

#include "dns/zone_patch.hpp"

namespace wherry::dns {

namespace {

ZoneEditor::SetKey key_of(Type type, std::span<const std::uint8_t> rdata) {
    return {type, type == Type::RRSIG && rdata.size() >= 2 ? static_cast<Type>(load_u16(rdata.data()))
                                                           : static_cast<Type>(0)};
}

std::optional<RecordSet> matching(const Zone& zone, NodeIndex node, const RecordSet& set) {
    return set.type() == Type::RRSIG ? zone.signatures(node, set.covered()) : zone.records(node, set.type());
}

// Records of `from` that `to` lacks, apart from the apex's SOA.
void append_missing(const Zone& from, const Zone& to, Bytes& list) {
    for (NodeIndex i = 0; i < from.node_count(); ++i) {
        if (from.set_count(i) == 0) continue;
        Name owner = from.name_of(i);
        NodeIndex other = to.find(owner);
        for (std::size_t k = 0; k < from.set_count(i); ++k) {
            RecordSet set = from.set(i, k);
            if (set.type() == Type::SOA) continue;
            std::optional<RecordSet> there;
            if (other != no_node) there = matching(to, other, set);
            if (there && there->ttl() == set.ttl() && std::ranges::equal(there->packed(), set.packed())) continue;
            for (std::span<const std::uint8_t> rdata : set) {
                bool same = false;
                if (there && there->ttl() == set.ttl())
                    for (std::span<const std::uint8_t> theirs : *there)
                        same = same || std::ranges::equal(theirs, rdata);
                if (!same) append_plain(list, owner, set.type(), set.ttl(), rdata);
            }
        }
    }
}

void append_soa(const Zone& zone, Bytes& list) {
    auto soa = zone.records(zone.apex(), Type::SOA);
    if (soa) append_plain(list, zone.origin(), Type::SOA, soa->ttl(), *soa->begin());
}

}  // namespace

bool ZoneDiff::changes_records() const {
    for (std::span<const std::uint8_t> list :
         {std::span<const std::uint8_t>(deleted), std::span<const std::uint8_t>(added)}) {
        PlainRecord record;
        while (take_plain(list, record))
            if (record.type != Type::SOA) return true;
    }
    return false;
}

std::shared_ptr<const ZoneHistory> ZoneHistory::extend(const std::shared_ptr<const ZoneHistory>& old,
                                                       std::shared_ptr<const ZoneDiff> diff, std::size_t limit_bytes) {
    auto made = std::make_shared<ZoneHistory>();
    if (old && !old->diffs_.empty() && old->diffs_.back()->to == diff->from) made->diffs_ = old->diffs_;
    made->diffs_.push_back(std::move(diff));
    std::size_t sum = 0;
    std::size_t keep = made->diffs_.size();
    while (keep > 0 && sum + made->diffs_[keep - 1]->bytes() <= limit_bytes && made->diffs_.size() - keep < 1000)
        sum += made->diffs_[--keep]->bytes();
    made->diffs_.erase(made->diffs_.begin(), made->diffs_.begin() + static_cast<std::ptrdiff_t>(keep));
    return made;
}

std::vector<std::shared_ptr<const ZoneDiff>> ZoneHistory::since(std::uint32_t serial) const {
    for (std::size_t i = 0; i < diffs_.size(); ++i)
        if (diffs_[i]->from == serial) return {diffs_.begin() + static_cast<std::ptrdiff_t>(i), diffs_.end()};
    return {};
}

ZoneDiff diff_zones(const Zone& from, const Zone& to) {
    ZoneDiff diff{.from = from.serial(), .to = to.serial()};
    append_soa(from, diff.deleted);
    append_missing(from, to, diff.deleted);
    append_soa(to, diff.added);
    append_missing(to, from, diff.added);
    return diff;
}

ZoneEditor::ZoneEditor(std::shared_ptr<const Zone> base) : origin_(base->origin()), base_(std::move(base)) {}

ZoneEditor::Sets ZoneEditor::base_sets(const Name& name) const {
    Sets sets;
    NodeIndex node = name.is_within(origin_) ? base_->find(name) : no_node;
    if (node == no_node) return sets;
    for (std::size_t k = 0; k < base_->set_count(node); ++k) {
        RecordSet set = base_->set(node, k);
        Set& made = sets[{set.type(), set.covered()}];
        made.ttl = set.ttl();
        for (std::span<const std::uint8_t> rdata : set) made.rdata.emplace_back(rdata.begin(), rdata.end());
    }
    return sets;
}

ZoneEditor::Sets& ZoneEditor::edit(const Name& name) {
    auto found = edited_.find(name);
    if (found == edited_.end()) found = edited_.emplace(name, base_sets(name)).first;
    return found->second;
}

const ZoneEditor::Sets* ZoneEditor::at(const Name& name) const {
    if (auto found = edited_.find(name); found != edited_.end())
        return found->second.empty() ? nullptr : &found->second;
    auto found = seen_.find(name);
    if (found == seen_.end()) found = seen_.emplace(name, base_sets(name)).first;
    return found->second.empty() ? nullptr : &found->second;
}

const ZoneEditor::Set* ZoneEditor::find(const Name& name, Type type) const {
    const Sets* sets = at(name);
    if (sets == nullptr) return nullptr;
    auto found = sets->lower_bound({type, static_cast<Type>(0)});
    return found == sets->end() || found->first.first != type ? nullptr : &found->second;
}

Result<bool> ZoneEditor::add(const Name& owner, Type type, std::uint32_t ttl, std::span<const std::uint8_t> rdata) {
    if (!owner.is_within(origin_)) return fail(Code::invalid_argument, owner.to_text() + " is not within the zone");
    if (is_meta(type) || !rdata_is_valid(type, rdata))
        return fail(Code::invalid_argument, owner.to_text() + ": malformed " + to_string(type) + " record");
    Set& set = edit(owner)[key_of(type, rdata)];
    if (type == Type::SOA || type == Type::CNAME || type == Type::DNAME) {
        if (set.rdata.size() == 1 && set.ttl == ttl && std::ranges::equal(set.rdata[0], rdata)) return false;
        set.rdata.clear();
    }
    bool changed = set.ttl != ttl;
    set.ttl = ttl;
    for (const Bytes& there : set.rdata)
        if (std::ranges::equal(there, rdata)) return changed;
    set.rdata.emplace_back(rdata.begin(), rdata.end());
    return true;
}

bool ZoneEditor::remove(const Name& owner, Type type, std::span<const std::uint8_t> rdata) {
    const SetKey key = key_of(type, rdata);
    Sets& sets = edit(owner);
    auto found = sets.find(key);
    if (found == sets.end()) return false;
    auto gone = std::ranges::find_if(found->second.rdata, [&](const Bytes& b) { return std::ranges::equal(b, rdata); });
    if (gone == found->second.rdata.end()) return false;
    found->second.rdata.erase(gone);
    if (found->second.rdata.empty()) sets.erase(found);
    return true;
}

bool ZoneEditor::remove_set(const Name& owner, Type type) {
    return std::erase_if(edit(owner), [&](const auto& item) { return item.first.first == type; }) > 0;
}

std::uint32_t ZoneEditor::serial() const {
    const Set* soa = find(origin_, Type::SOA);
    return soa == nullptr || soa->rdata.empty() ? base_->serial() : soa_serial(soa->rdata[0]);
}

void ZoneEditor::set_serial(std::uint32_t serial) {
    for (Bytes& rdata : edit(origin_)[{Type::SOA, static_cast<Type>(0)}].rdata)
        store_u32(rdata.data() + rdata.size() - 20, serial);
}

bool ZoneEditor::is_changed() const {
    ZoneDiff made = diff();
    return made.from != made.to || made.changes_records();
}

ZoneDiff ZoneEditor::diff() const {
    ZoneDiff diff{.from = base_->serial(), .to = serial()};
    append_soa(*base_, diff.deleted);
    if (const Set* soa = find(origin_, Type::SOA); soa != nullptr && !soa->rdata.empty())
        append_plain(diff.added, origin_, Type::SOA, soa->ttl, soa->rdata[0]);
    auto missing = [](const Name& owner, const Sets& from, const Sets& to, Bytes& list) {
        for (const auto& [key, set] : from) {
            if (key.first == Type::SOA) continue;
            auto other = to.find(key);
            const bool comparable = other != to.end() && other->second.ttl == set.ttl;
            for (const Bytes& rdata : set.rdata)
                if (!comparable || std::ranges::find(other->second.rdata, rdata) == other->second.rdata.end())
                    append_plain(list, owner, key.first, set.ttl, rdata);
        }
    };
    for (const auto& [owner, sets] : edited_) {
        Sets before = base_sets(owner);
        missing(owner, before, sets, diff.deleted);
        missing(owner, sets, before, diff.added);
    }
    return diff;
}

Result<> ZoneEditor::apply(const ZoneDiff& diff) {
    if (diff.from != serial()) return fail(Code::conflict, "the difference starts at another serial");
    std::span<const std::uint8_t> rest = diff.deleted;
    PlainRecord record;
    while (take_plain(rest, record)) {
        if (record.type == Type::SOA) continue;
        if (!remove(record.owner, record.type, record.rdata))
            return fail(Code::conflict, "a record to delete is not there: " + record.owner.to_text());
    }
    if (!rest.empty()) return fail(Code::data_loss, "a difference is cut short");
    rest = diff.added;
    while (take_plain(rest, record)) TRY(add(record.owner, record.type, record.ttl, record.rdata));
    if (!rest.empty()) return fail(Code::data_loss, "a difference is cut short");
    if (serial() != diff.to) return fail(Code::conflict, "the difference ends at another serial");
    return {};
}

Result<std::shared_ptr<const Zone>> ZoneEditor::finish() && {
    if (auto patched = patch_zone(*base_, edited_)) return patched;
    ZoneBuilder builder(origin_);
    for (NodeIndex i = 0; i < base_->node_count(); ++i) {
        if (base_->set_count(i) == 0) continue;
        Name owner = base_->name_of(i);
        if (edited_.contains(owner)) continue;
        for (std::size_t k = 0; k < base_->set_count(i); ++k) {
            RecordSet set = base_->set(i, k);
            for (std::span<const std::uint8_t> rdata : set) TRY(builder.add(owner, set.type(), set.ttl(), rdata));
        }
    }
    for (const auto& [owner, sets] : edited_)
        for (const auto& [key, set] : sets)
            for (const Bytes& rdata : set.rdata) TRY(builder.add(owner, key.first, set.ttl, rdata));
    return std::move(builder).finish();
}

}  // namespace wherry::dns
