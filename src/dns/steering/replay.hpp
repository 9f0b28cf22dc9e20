// A recorded query log against two configurations: what would be answered otherwise.
#pragma once

#include <boost/json/object.hpp>
#include <map>
#include <string>
#include <vector>

#include "dns/steering/dispatcher.hpp"

namespace wherry::dns::steering {

struct Move {
    std::string name;
    std::string from;  // sites of the answer, joined with "+"; "zone" for the zone's own records
    std::string to;
    std::uint64_t queries = 0;
    double rtt_before = 0;  // sum over queries where both are known, ms
    double rtt_after = 0;
    std::uint64_t known = 0;
    std::map<Prefix, std::uint64_t> clients;
};

struct Replay {
    std::uint64_t queries = 0;
    std::uint64_t unchanged = 0;
    std::uint64_t skipped = 0;  // lines that are no queries, or of names that neither configuration steers
    std::vector<Move> moves;    // most queries first
};

// What one side decides by; `geography` may be null.
struct ReplaySide {
    const SteeringConfig& steering;
    const LatencyMap& latency;
    const Geography* geography = nullptr;
};

// `log`: lines "TIME CLIENT/BITS NAME" (query-log's), or "CLIENT NAME". Health is taken to be good everywhere but at
// sites in `down`.
Result<Replay> replay(std::string_view log, const ReplaySide& before, const ReplaySide& after,
                      const std::vector<std::string>& down, std::int64_t now);

}  // namespace wherry::dns::steering
