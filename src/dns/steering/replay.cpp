#include "dns/steering/replay.hpp"

#include <algorithm>

#include "dns/words.hpp"

namespace wherry::dns::steering {

namespace {

struct Side {
    const SteeringConfig& config;
    Chooser chooser;
    std::vector<bool> up;
    std::map<std::string, const SteeredName*> names;

    Side(const ReplaySide& given, const std::vector<std::string>& down)
        : config(given.steering),
          chooser(given.steering, given.latency, given.geography),
          up(given.steering.sites.size(), true) {
        for (const std::string& site : down)
            if (auto index = config.site(site)) up[*index] = false;
        for (const SteeredName& name : config.names) names[name.name.lower().to_text()] = &name;
    }

    std::string describe(const Decision& decision) const {
        if (decision.sites.empty()) return "zone";
        std::string text;
        for (SiteIndex site : decision.sites) text += (text.empty() ? "" : "+") + config.sites[site].name;
        return text;
    }
};

}  // namespace

Result<Replay> replay(std::string_view log, const ReplaySide& before, const ReplaySide& after,
                      const std::vector<std::string>& down, std::int64_t now) {
    for (const std::string& site : down)
        if (!before.steering.site(site) && !after.steering.site(site))
            return fail(Code::not_found, "there is no site " + site);
    Side old_side(before, {});
    Side new_side(after, down);
    Replay result;
    std::map<std::tuple<std::string, std::string, std::string>, Move> moves;
    // The same client asks again and again: decided once.
    struct Pair {
        std::string from;
        std::string to;
        float rtt_before = -1;
        float rtt_after = -1;
    };
    std::map<std::pair<std::string, Prefix>, Pair> decided;
    while (!log.empty()) {
        std::size_t end = std::min(log.find('\n'), log.size());
        std::string_view line = log.substr(0, end);
        log.remove_prefix(std::min(end + 1, log.size()));
        auto words = words_of(line);
        if (words.empty() || words[0].starts_with('#')) continue;
        std::optional<Prefix> client;
        std::optional<Name> name;
        if (words.size() >= 2) {
            auto prefix = Prefix::parse(words[words.size() >= 3 ? 1 : 0]);
            auto parsed = Name::parse(words[words.size() >= 3 ? 2 : 1]);
            if (prefix) client = *prefix;
            if (parsed) name = *parsed;
        }
        std::string text = name ? name->lower().to_text() : "";
        auto old_name = old_side.names.find(text);
        auto new_name = new_side.names.find(text);
        if (!client || !name || (old_name == old_side.names.end() && new_name == new_side.names.end())) {
            ++result.skipped;
            continue;
        }
        ++result.queries;
        auto [entry, fresh] = decided.try_emplace({text, *client});
        Pair& pair = entry->second;
        if (fresh) {
            auto decide = [&](const Side& side, auto found, std::string& sites, float& rtt) {
                sites = "zone";
                if (found == side.names.end()) return;
                Decision decision = side.chooser.decide(*found->second, *client, side.up, now, true);
                sites = side.describe(decision);
                for (const Candidate& candidate : decision.candidates)
                    if (!decision.sites.empty() && candidate.site == decision.sites.front() &&
                        candidate.estimate.source != Source::none)
                        rtt = candidate.estimate.rtt;
            };
            decide(old_side, old_name, pair.from, pair.rtt_before);
            decide(new_side, new_name, pair.to, pair.rtt_after);
        }
        if (pair.from == pair.to) {
            ++result.unchanged;
            continue;
        }
        Move& move = moves[{text, pair.from, pair.to}];
        move.name = text;
        move.from = pair.from;
        move.to = pair.to;
        ++move.queries;
        ++move.clients[*client];
        if (pair.rtt_before >= 0 && pair.rtt_after >= 0) {
            ++move.known;
            move.rtt_before += static_cast<double>(pair.rtt_before);
            move.rtt_after += static_cast<double>(pair.rtt_after);
        }
    }
    for (auto& [key, move] : moves) result.moves.push_back(std::move(move));
    std::ranges::sort(result.moves, [](const Move& one, const Move& other) { return one.queries > other.queries; });
    return result;
}

}  // namespace wherry::dns::steering
