// What the `steering` block of wherry-dns's configuration says: sites, who may tell round trips, which names are
// steered and how. docs/dispatch.md describes the statements.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "dns/config_tree.hpp"
#include "dns/name.hpp"
#include "dns/socket_address.hpp"
#include "dns/steering/latency.hpp"
#include "dns/steering/prefix.hpp"

namespace wherry::dns::steering {

struct CheckConfig {
    enum class Kind : unsigned char { tcp, http, command };
    Kind kind = Kind::tcp;
    SocketAddress address;             // tcp
    std::string url;                   // http: http://… or https://…
    std::vector<std::string> command;  // exit code 0 is healthy
    unsigned expect = 0;               // http status; 0: 200 to 399
    std::chrono::milliseconds every{5000};
    std::chrono::milliseconds timeout{2000};
    unsigned rise = 2;  // successes in a row until it counts as up
    unsigned fall = 3;  // failures in a row until it counts as down
};

struct SiteConfig {
    std::string name;
    std::vector<SocketAddress> addresses;  // ports 0
    double weight = 1;
    unsigned priority = 0;                              // lower comes first in failover
    bool drain = false;                                 // gets nobody new
    std::optional<std::pair<double, double>> location;  // degrees north, east
    std::vector<CheckConfig> checks;
    unsigned quorum = 0;  // checks that must be up; 0: more than half
};

struct SenderConfig {
    std::string name;
    std::string site;
    std::string secret;  // bytes
};

enum class Policy : unsigned char { latency, geo, weighted, failover };

enum class AllDown : unsigned char { all, none };

struct SteeredName {
    Name name;
    std::vector<SiteIndex> sites;  // empty in the file: all of them
    std::vector<Policy> policies;  // tried in turn: the first that can tell decides
    std::uint32_t ttl = 30;
    unsigned answers = 1;            // sites in one answer
    double tolerance = 0;            // ms: sites this near to the best share its clients by weight
    float least_confidence = 0.05F;  // estimates below are no knowledge
    AllDown all_down = AllDown::all;
    std::vector<std::pair<Prefix, SiteIndex>> overrides;
    std::optional<std::pair<std::uint32_t, std::int64_t>> planned;  // TTL until a time: lowered ahead of a move
};

struct SteeringConfig {
    std::vector<SiteConfig> sites;
    std::vector<SenderConfig> senders;
    std::vector<SteeredName> names;
    std::vector<SocketAddress> control;  // HTTP: samples in, explanations out
    std::string state;                   // file of samples; empty: kept in memory only
    std::string query_log;               // file of steered queries, for replay; empty: none
    std::string geo;                     // MaxMind database of locations; empty: none
    LatencyOptions latency;

    std::optional<SiteIndex> site(std::string_view name) const;
    std::vector<std::optional<std::pair<double, double>>> locations() const;  // by site
};

// The statements inside of `steering { … }`. File names are relative to `folder`. Errors name file and line.
Result<SteeringConfig> parse_steering(const std::vector<ConfigStatement>& block, const std::string& file,
                                      const std::string& folder);

}  // namespace wherry::dns::steering
