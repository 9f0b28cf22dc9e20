// Chooser: one client's site, and why.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "dns/steering/dispatcher.hpp"

namespace wherry::dns::steering {

namespace {

std::string number(double value, const char* format = "%.1f") {
    std::array<char, 32> text{};
    (void)std::snprintf(text.data(), text.size(), format, value);
    return text.data();
}

// Weighted rendezvous: each client prefix keeps its site as long as that site is there, and sites get shares by weight.
double rendezvous(const Prefix& client, SiteIndex site, double weight) {
    std::uint64_t hash = PrefixHash()(client) ^ (static_cast<std::uint64_t>(site) + 1) * 0x9E3779B97F4A7C15ULL;
    hash ^= hash >> 31U;
    hash *= 0xBF58476D1CE4E5B9ULL;
    hash ^= hash >> 29U;
    double uniform = (static_cast<double>(hash >> 11U) + 0.5) / 9007199254740992.0;
    return weight <= 0 ? -1e300 : std::log(uniform) / weight;
}

// What an order of sites was made by.
struct Order {
    std::vector<SiteIndex> sites;
    std::string reason;
};

}  // namespace

Decision Chooser::decide(const SteeredName& name, const Prefix& client, const std::vector<bool>& up, std::int64_t now,
                         bool explain) const {
    Decision decision;
    std::vector<Estimate> estimates = latency_.estimate(client, now);
    auto usable = [&](SiteIndex site) { return up[site] && !config_.sites[site].drain; };
    std::optional<std::pair<double, double>> place;
    bool wants_place = explain || std::ranges::find(name.policies, Policy::geo) != name.policies.end();
    if (geography_ != nullptr && wants_place) place = geography_->locate(client);
    auto distance = [&](SiteIndex site) {
        const auto& location = config_.sites[site].location;
        return place && location ? distance_km(*place, *location) : -1.0;
    };
    auto finish = [&](std::vector<SiteIndex> sites, std::string reason) {
        decision.sites = std::move(sites);
        decision.reason = std::move(reason);
        if (!explain) return;
        for (SiteIndex site : name.sites)
            decision.candidates.push_back({.site = site,
                                           .up = up[site],
                                           .drained = config_.sites[site].drain,
                                           .estimate = estimates[site],
                                           .distance_km = distance(site),
                                           .chosen = std::ranges::find(decision.sites, site) != decision.sites.end()});
    };

    const std::pair<Prefix, SiteIndex>* override_entry = nullptr;
    for (const auto& entry : name.overrides)
        if (entry.first.contains(client) &&
            (override_entry == nullptr || entry.first.length >= override_entry->first.length))
            override_entry = &entry;
    if (override_entry != nullptr && usable(override_entry->second)) {
        decision.override_prefix = override_entry->first;
        finish({override_entry->second}, "the override for " + override_entry->first.to_text() + " says " +
                                             config_.sites[override_entry->second].name);
        return decision;
    }

    std::vector<SiteIndex> alive;
    for (SiteIndex site : name.sites)
        if (usable(site)) alive.push_back(site);
    std::string note;
    if (alive.empty()) {
        // Sites that are being emptied are better than none.
        for (SiteIndex site : name.sites)
            if (up[site]) alive.push_back(site);
        if (!alive.empty()) note = "only drained sites are up; ";
    }
    if (alive.empty()) {
        if (name.all_down == AllDown::all)
            finish(name.sites, "every site is down: all are answered, in case the checks are wrong");
        else
            finish({}, "every site is down: the zone's own records are answered");
        return decision;
    }
    if (override_entry != nullptr && explain)
        note += config_.sites[override_entry->second].name + " of the override for " + override_entry->first.to_text() +
                " is not to be had; ";

    auto by_cost = [&](const std::vector<std::pair<double, SiteIndex>>& costs, double tolerance) {
        auto sorted = costs;
        std::ranges::sort(sorted);
        // Sites about as near as the nearest share its clients by weight.
        auto near = std::ranges::find_if(
            sorted, [&](const auto& entry) { return entry.first > sorted.front().first + tolerance; });
        if (tolerance > 0)
            std::sort(sorted.begin(), near, [&](const auto& one, const auto& other) {
                return rendezvous(client, one.second, config_.sites[one.second].weight) >
                       rendezvous(client, other.second, config_.sites[other.second].weight);
            });
        std::vector<SiteIndex> sites;
        for (const auto& [cost, site] : sorted) sites.push_back(site);
        return sites;
    };
    auto order_by = [&](Policy policy) -> std::optional<Order> {
        std::vector<std::pair<double, SiteIndex>> costs;
        switch (policy) {
            case Policy::latency:
                for (SiteIndex site : alive)
                    if (estimates[site].source > Source::geography &&
                        estimates[site].confidence >= name.least_confidence)
                        costs.emplace_back(static_cast<double>(estimates[site].rtt), site);
                if (costs.empty()) return std::nullopt;
                {
                    Order order{.sites = by_cost(costs, name.tolerance), .reason = ""};
                    if (explain) {
                        const Estimate& best = estimates[order.sites.front()];
                        order.reason = config_.sites[order.sites.front()].name +
                                       " is nearest: " + number(static_cast<double>(best.rtt)) + " ms (" +
                                       std::string(to_string(best.source)) + ", confidence " +
                                       number(static_cast<double>(best.confidence), "%.2f") + ")";
                        if (name.tolerance > 0)
                            order.reason += ", or shares with sites within " + number(name.tolerance) + " ms by weight";
                    }
                    return order;
                }
            case Policy::geo:
                for (SiteIndex site : alive)
                    if (double kilometres = distance(site); kilometres >= 0) costs.emplace_back(kilometres, site);
                if (costs.empty()) return std::nullopt;
                {
                    Order order{.sites = by_cost(costs, 0), .reason = ""};
                    if (explain)
                        order.reason = config_.sites[order.sites.front()].name +
                                       " is nearest on the map: " + number(distance(order.sites.front()), "%.0f") +
                                       " km";
                    return order;
                }
            case Policy::weighted:
            case Policy::failover: {
                std::vector<SiteIndex> sites = alive;
                std::ranges::sort(sites, [&](SiteIndex one, SiteIndex other) {
                    const SiteConfig& first = config_.sites[one];
                    const SiteConfig& second = config_.sites[other];
                    if (policy == Policy::failover && first.priority != second.priority)
                        return first.priority < second.priority;
                    return rendezvous(client, one, first.weight) > rendezvous(client, other, second.weight);
                });
                Order order{.sites = sites, .reason = ""};
                if (explain)
                    order.reason =
                        policy == Policy::failover
                            ? config_.sites[sites.front()].name + " is of the first priority that is up (" +
                                  std::to_string(config_.sites[sites.front()].priority) + ")"
                            : "weights share the clients; this one is " + config_.sites[sites.front()].name + "'s";
                return order;
            }
        }
        return std::nullopt;
    };
    for (Policy policy : name.policies) {
        auto order = order_by(policy);
        if (!order) continue;
        if (order->sites.size() > name.answers) order->sites.resize(name.answers);
        finish(std::move(order->sites), note + order->reason);
        return decision;
    }
    // No policy can tell: like failover, so that there is always an answer.
    auto order = order_by(Policy::failover);
    order->sites.resize(std::min<std::size_t>(order->sites.size(), name.answers));
    finish(std::move(order->sites), note + "no policy knows anything of this client; " + order->reason);
    return decision;
}

}  // namespace wherry::dns::steering
