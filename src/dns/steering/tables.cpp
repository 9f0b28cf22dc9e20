// The tables that queries read, and the policy that reads them.
#include <algorithm>
#include <map>
#include <unordered_map>

#include "base/log.hpp"
#include "dns/message.hpp"
#include "dns/steering/dispatcher.hpp"
#include "dns/zone.hpp"

namespace wherry::dns::steering {

namespace {

// Where weights alone decide, every client network of this size is put somewhere by itself.
constexpr unsigned share_bits_ipv4 = 16;
constexpr unsigned share_bits_ipv6 = 18;

void add_shares(std::vector<Prefix>& keys) {
    for (unsigned top = 0; top < 1U << share_bits_ipv4; ++top) {
        const std::uint8_t bytes[4] = {static_cast<std::uint8_t>(top >> 8U), static_cast<std::uint8_t>(top), 0, 0};
        keys.push_back(Prefix::from_bytes(false, bytes, share_bits_ipv4));
    }
    // Global unicast: 2000::/3.
    for (unsigned top = 0; top < 1U << (share_bits_ipv6 - 3); ++top) {
        std::uint8_t bytes[16] = {};
        std::uint32_t value = 1U << 29U | top << (32 - share_bits_ipv6);
        store_u32(bytes, value);
        keys.push_back(Prefix::from_bytes(true, bytes, share_bits_ipv6));
    }
}

class SteeredNames final : public AnswerPolicy {
  public:
    struct Set {
        std::vector<std::uint8_t> packed;  // of A or AAAA records: lengths and data
        std::uint16_t count = 0;
    };
    struct Steered {
        std::shared_ptr<const NameTable> table;
        std::vector<Set> ipv4;  // by answer
        std::vector<Set> ipv6;
        std::uint16_t number = 0;  // in the configuration
    };

    void begin(NodeIndex node, Type type, const ClientView& client, PolicySearch& search) const override {
        search.subject = nullptr;
        if (type != Type::A && type != Type::AAAA) return;
        auto found = names.find(node);
        if (found == names.end()) return;
        // A client that hides (a prefix of no bits) is answered as one of which nothing is known.
        search.hidden = client.prefix_bits == 0;
        if (!search.hidden) found->second.table->prefixes.begin(client.address, search.walk);
        search.subject = &found->second;
    }

    void step(PolicySearch& search) const override {
        if (search.subject != nullptr && !search.hidden) PrefixTable::step(search.walk);
    }

    std::optional<Answer> end(Type type, const ClientView& client, PolicySearch& search) const override {
        if (search.subject == nullptr) return std::nullopt;
        const Steered& steered = *static_cast<const Steered*>(search.subject);
        const NameTable& table = *steered.table;
        PrefixTable::Match match;
        if (!search.hidden)
            match = PrefixTable::end(search.walk);
        else
            match.value = table.otherwise;
        const Set& set = (type == Type::A ? steered.ipv4 : steered.ipv6)[match.value];
        if (set.count == 0) return std::nullopt;
        if (recorder) recorder->note(steered.number, client.address, client.prefix_bits);
        return Answer{.records = RecordSet(type, static_cast<Type>(0), table.ttl, set.count, set.packed),
                      .scope_bits = match.depth};
    }

    std::unordered_map<NodeIndex, Steered> names;
    std::shared_ptr<QueryRecorder> recorder;
};

SteeredNames::Set pack(const SteeringConfig& config, const std::vector<SiteIndex>& sites, int family) {
    SteeredNames::Set set;
    for (SiteIndex site : sites)
        for (const SocketAddress& address : config.sites[site].addresses) {
            if (address.family() != family) continue;
            auto bytes = socket_address_bytes(address.storage);
            set.packed.push_back(0);
            set.packed.push_back(static_cast<std::uint8_t>(bytes.size()));
            set.packed.insert(set.packed.end(), bytes.begin(), bytes.end());
            ++set.count;
        }
    return set;
}

}  // namespace

std::vector<Prefix> places_of(const SteeringConfig& config, const Geography& geography) {
    std::vector<PrefixTable::Entry> entries;
    // By order: sites without a location have no part in it.
    std::map<std::vector<SiteIndex>, std::uint16_t> orders;
    bool too_many = false;
    geography.each([&](const Prefix& prefix) {
        auto place = geography.locate(prefix);
        if (!place) return;
        std::vector<std::pair<double, SiteIndex>> distances;
        for (std::size_t site = 0; site < config.sites.size(); ++site)
            if (const auto& location = config.sites[site].location)
                distances.emplace_back(distance_km(*place, *location), static_cast<SiteIndex>(site));
        std::ranges::sort(distances);
        std::vector<SiteIndex> order;
        for (const auto& [distance, site] : distances) order.push_back(site);
        auto [entry, fresh] = orders.try_emplace(std::move(order), static_cast<std::uint16_t>(orders.size() + 1));
        too_many = too_many || (fresh && orders.size() > 65534);
        entries.push_back({prefix, entry->second});
    });
    std::vector<Prefix> places;
    if (too_many) {
        // Numbers have come round: every network by itself.
        for (const PrefixTable::Entry& entry : entries) places.push_back(entry.prefix);
        return places;
    }
    const PrefixTable merged(std::move(entries), 0);
    merged.each([&](const Prefix& prefix, std::uint16_t order) {
        if (order != 0) places.push_back(prefix);
    });
    return places;
}

std::vector<std::shared_ptr<const NameTable>> make_tables(const SteeringConfig& config, const LatencyMap& latency,
                                                          const Geography* geography, const std::vector<Prefix>& places,
                                                          const std::vector<bool>& up, std::int64_t now) {
    std::vector<Prefix> keys = latency.covering();
    std::vector<Prefix> cells = latency.cells();
    keys.insert(keys.end(), cells.begin(), cells.end());
    Chooser chooser(config, latency, geography);
    std::vector<std::shared_ptr<const NameTable>> tables;
    for (const SteeredName& name : config.names) {
        std::vector<Prefix> own = keys;
        bool shares = name.tolerance > 0;
        for (Policy policy : name.policies) shares = shares || policy == Policy::weighted || policy == Policy::failover;
        if (shares) add_shares(own);
        if (geography != nullptr && std::ranges::find(name.policies, Policy::geo) != name.policies.end())
            own.insert(own.end(), places.begin(), places.end());
        for (const auto& [prefix, site] : name.overrides) own.push_back(prefix);
        auto table = std::make_shared<NameTable>();
        table->answers.emplace_back();
        std::map<std::vector<SiteIndex>, std::uint16_t> known{{{}, std::uint16_t{0}}};
        auto answer_for = [&](const Prefix& prefix) {
            Decision decision = chooser.decide(name, prefix, up, now, false);
            auto [entry, fresh] = known.try_emplace(decision.sites, static_cast<std::uint16_t>(table->answers.size()));
            if (fresh) {
                if (table->answers.size() >= 65535) {  // more orders of sites than a table holds: the first site alone
                    known.erase(entry);
                    decision.sites.resize(1);
                    auto single = known.find(decision.sites);
                    return single == known.end() ? std::uint16_t{0} : single->second;
                }
                table->answers.push_back(decision.sites);
            }
            return entry->second;
        };
        std::vector<PrefixTable::Entry> entries;
        entries.reserve(own.size());
        for (const Prefix& prefix : own) entries.push_back({prefix, answer_for(prefix)});
        table->otherwise = answer_for(Prefix{});
        Prefix all_ipv6;
        all_ipv6.ipv6 = true;
        entries.push_back({all_ipv6, answer_for(all_ipv6)});
        table->prefixes = PrefixTable(std::move(entries), table->otherwise);
        table->ttl = name.planned && now < name.planned->second ? std::min(name.ttl, name.planned->first) : name.ttl;
        tables.push_back(std::move(table));
    }
    return tables;
}

std::shared_ptr<const AnswerPolicy> make_policy(const SteeringConfig& config,
                                                const std::vector<std::shared_ptr<const NameTable>>& tables,
                                                const Zone& zone, std::shared_ptr<QueryRecorder> recorder) {
    auto policy = std::make_shared<SteeredNames>();
    policy->recorder = std::move(recorder);
    for (std::size_t i = 0; i < config.names.size() && i < tables.size(); ++i) {
        const Name& name = config.names[i].name;
        if (!name.is_within(zone.origin())) continue;
        NodeIndex node = zone.find(name);
        if (node == no_node) continue;  // of a zone below, or the zone lacks the name: its operator is told at load
        SteeredNames::Steered steered{
            .table = tables[i], .ipv4 = {}, .ipv6 = {}, .number = static_cast<std::uint16_t>(i)};
        for (const auto& sites : tables[i]->answers) {
            steered.ipv4.push_back(pack(config, sites, AF_INET));
            steered.ipv6.push_back(pack(config, sites, AF_INET6));
        }
        policy->names.emplace(node, std::move(steered));
    }
    if (policy->names.empty()) return nullptr;
    return policy;
}

}  // namespace wherry::dns::steering
