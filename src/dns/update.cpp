#include "dns/update.hpp"

#include <algorithm>
#include <map>
#include <vector>

namespace wherry::dns {

namespace {

struct Change {
    Name owner;
    Type type = Type::A;
    Class dns_class = Class::IN;
    std::uint32_t ttl = 0;
    Bytes rdata;
};

bool is_apex_kind(Type type) {
    return type == Type::SOA || type == Type::NS;
}

// RFC 2136 section 3.2.
Rcode check_prerequisites(const ZoneEditor& editor, const std::vector<Change>& prerequisites) {
    std::map<std::pair<std::string, Type>, std::vector<Bytes>> wanted;  // whole sets, compared at the end
    std::map<std::string, Name> names;
    for (const Change& p : prerequisites) {
        if (p.ttl != 0) return Rcode::FORMERR;
        if (!p.owner.is_within(editor.origin())) return Rcode::NOTZONE;
        const bool any_type = p.type == Type::ANY;
        switch (p.dns_class) {
            case Class::ANY:
                if (!p.rdata.empty()) return Rcode::FORMERR;
                if (any_type && editor.at(p.owner) == nullptr) return Rcode::NXDOMAIN;
                if (!any_type && editor.find(p.owner, p.type) == nullptr) return Rcode::NXRRSET;
                break;
            case Class::NONE:
                if (!p.rdata.empty()) return Rcode::FORMERR;
                if (any_type && editor.at(p.owner) != nullptr) return Rcode::YXDOMAIN;
                if (!any_type && editor.find(p.owner, p.type) != nullptr) return Rcode::YXRRSET;
                break;
            case Class::IN: {
                std::string text = p.owner.lower().to_text();
                names.emplace(text, p.owner);
                wanted[{text, p.type}].push_back(p.rdata);
                break;
            }
            default:
                return Rcode::FORMERR;
        }
    }
    for (const auto& set_wanted : wanted) {
        const auto type = set_wanted.first.second;
        const ZoneEditor::Set* set = editor.find(names.at(set_wanted.first.first), type);
        if (set == nullptr) return Rcode::NXRRSET;
        auto canonical = [&](std::vector<Bytes> list) {
            for (Bytes& rdata : list) canonicalize_rdata(type, rdata);
            std::ranges::sort(list);
            list.erase(std::ranges::unique(list).begin(), list.end());
            return list;
        };
        if (canonical(set_wanted.second) != canonical(set->rdata)) return Rcode::NXRRSET;
    }
    return Rcode::NOERROR;
}

// RFC 2136 section 3.4.1: all of it before any of it.
Rcode check_changes(const ZoneEditor& editor, const std::vector<Change>& changes) {
    for (const Change& c : changes) {
        if (!c.owner.is_within(editor.origin())) return Rcode::NOTZONE;
        switch (c.dns_class) {
            case Class::IN:
                if (is_meta(c.type) || !rdata_is_valid(c.type, c.rdata)) return Rcode::FORMERR;
                break;
            case Class::ANY:
                if (c.ttl != 0 || !c.rdata.empty() || (is_meta(c.type) && c.type != Type::ANY)) return Rcode::FORMERR;
                break;
            case Class::NONE:
                if (c.ttl != 0 || is_meta(c.type)) return Rcode::FORMERR;
                break;
            default:
                return Rcode::FORMERR;
        }
    }
    return Rcode::NOERROR;
}

// RFC 2136 section 3.4.2.2 to 3.4.2.4.
void apply_change(ZoneEditor& editor, const Change& c) {
    const bool apex = c.owner == editor.origin();
    if (c.dns_class == Class::IN) {
        const ZoneEditor::Set* alias = editor.find(c.owner, Type::CNAME);
        if (c.type == Type::CNAME) {
            // A CNAME is not put beside other data, nor other data beside a CNAME.
            const ZoneEditor::Sets* sets = editor.at(c.owner);
            if (sets != nullptr && std::ranges::any_of(*sets, [](const auto& item) {
                    const Type type = item.first.first;
                    return type != Type::CNAME && type != Type::RRSIG && type != Type::NSEC;
                }))
                return;
        } else if (alias != nullptr && c.type != Type::RRSIG && c.type != Type::NSEC) {
            return;
        }
        if (c.type == Type::SOA && (!apex || !serial_newer(soa_serial(c.rdata), editor.serial()))) return;
        // Nothing that it could refuse: check_changes() saw the owner and the data.
        (void)editor.add(c.owner, c.type, c.ttl > 0x7FFFFFFFU ? 0 : c.ttl, c.rdata);
        return;
    }
    if (c.dns_class == Class::ANY) {
        if (c.type != Type::ANY) {
            if (!apex || !is_apex_kind(c.type)) editor.remove_set(c.owner, c.type);
            return;
        }
        std::vector<Type> types;
        if (const ZoneEditor::Sets* sets = editor.at(c.owner))
            for (const auto& [key, set] : *sets) types.push_back(key.first);
        for (Type type : types)
            if (!apex || !is_apex_kind(type)) editor.remove_set(c.owner, type);
        return;
    }
    if (c.type == Type::SOA) return;
    const ZoneEditor::Set* set = editor.find(c.owner, c.type);
    if (set == nullptr || (apex && c.type == Type::NS && set->rdata.size() == 1)) return;
    // The case of names in data does not matter (section 1.1.1).
    Bytes wanted = c.rdata;
    canonicalize_rdata(c.type, wanted);
    for (const Bytes& there : set->rdata) {
        Bytes canonical = there;
        canonicalize_rdata(c.type, canonical);
        if (canonical != wanted) continue;
        Bytes exact = there;
        editor.remove(c.owner, c.type, exact);
        return;
    }
}

}  // namespace

Rcode apply_update(ZoneEditor& editor, std::span<const std::uint8_t> packet) {
    auto reader = MessageReader::open(packet);
    if (!reader) return Rcode::FORMERR;
    const Header header = reader->header();
    auto zone = reader->read_question();
    if (header.questions != 1 || !zone || zone->type != Type::SOA) return Rcode::FORMERR;
    std::vector<Change> prerequisites;
    std::vector<Change> changes;
    for (unsigned i = 0; i < unsigned{header.answers} + header.authorities; ++i) {
        auto record = reader->read_record();
        if (!record) return Rcode::FORMERR;
        Change change{record->name, record->type, record->dns_class, record->ttl, {}};
        if (!record->rdata.empty()) {
            auto rdata = rdata_from_message(*reader, *record);
            if (!rdata) return Rcode::FORMERR;
            change.rdata = std::move(*rdata);
        }
        (i < header.answers ? prerequisites : changes).push_back(std::move(change));
    }
    if (Rcode rcode = check_prerequisites(editor, prerequisites); rcode != Rcode::NOERROR) return rcode;
    if (Rcode rcode = check_changes(editor, changes); rcode != Rcode::NOERROR) return rcode;
    for (const Change& change : changes) apply_change(editor, change);
    return Rcode::NOERROR;
}

}  // namespace wherry::dns
