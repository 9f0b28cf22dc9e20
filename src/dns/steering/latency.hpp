// Round trips between sites and client prefixes: measured, kept with confidence and age, and estimated where not
// measured.
//
// A sample is one round trip of a client cell (/24, /48) to a site, told by an authenticated sender: an agent at the
// site that probes, or a front end that reads TCP_INFO. Each (cell, site) is the median over its senders of each
// sender's low quantile: queueing only ever adds, and one sender's lie does not move a median. Fewer senders than
// `quorum` count for little.
//
// What is not measured is estimated from the cells around it (the covering prefixes, from near to far), and where a
// cell was measured to some sites only, from its network coordinate. Geography is the last prior.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "dns/steering/coordinates.hpp"
#include "dns/steering/prefix.hpp"

namespace wherry::dns::steering {

using SiteIndex = std::uint16_t;
using SenderIndex = std::uint16_t;

enum class Source : unsigned char { none, geography, average, neighbours, coordinates, measured };
std::string_view to_string(Source source);

struct Estimate {
    float rtt = 0;          // ms; meaningless when source is none
    float confidence = 0;   // 0 to 1
    std::int64_t age = -1;  // seconds since the newest sample it rests on; -1: none
    Source source = Source::none;
};

struct LatencyOptions {
    unsigned quorum = 2;                               // senders that make a measurement of a (cell, site) count fully
    std::int64_t lifetime = std::int64_t{14} * 86400;  // seconds after which a sample is forgotten
    std::int64_t half_life = std::int64_t{3} * 86400;  // of confidence
};

class LatencyMap {
  public:
    LatencyMap(std::size_t sites, LatencyOptions options);

    // One round trip, ms. False: not believed (not above 0, or above 10 s).
    bool add(const Prefix& client, SiteIndex site, SenderIndex sender, double rtt, std::int64_t time);
    // Round trips between sites, measured by their agents, from which coordinates are made.
    void set_site_rtt(SiteIndex one, SiteIndex other, double rtt);
    // A sender whose key was withdrawn: all it ever said is forgotten.
    void forget(SenderIndex sender);
    // Takes over the samples of another map whose sites and senders have other numbers here; those without one are left
    // out.
    void adopt(const LatencyMap& other, const std::vector<std::optional<SiteIndex>>& sites,
               const std::vector<std::optional<SenderIndex>>& senders);
    // The prior of last resort: a round trip by geography; unset or nullopt: none.
    std::function<std::optional<float>(const Prefix& cell, SiteIndex site)> geography;

    // After samples were added: statistics of the covering prefixes and coordinates are made anew. Estimates use the
    // last ones made.
    void summarize(std::int64_t now);
    // One estimate for each site. Thread-safe against other estimates, not against changes.
    std::vector<Estimate> estimate(const Prefix& client, std::int64_t now) const;

    std::vector<Prefix> cells() const;
    // The covering prefixes that estimates are made for where a cell was not measured, as of the last summarize().
    std::vector<Prefix> covering() const;
    std::size_t cell_count() const { return cells_.size(); }
    const std::vector<Coordinate>& site_coordinates() const { return coordinates_; }

    // Text, one line for each (cell, site, sender), to be kept over restarts; read by load().
    std::string save() const;
    // False when a line is wrong; nothing is taken then.
    bool load(std::string_view text, std::int64_t now);

  private:
    static constexpr std::size_t kept = 6;
    // What one sender told of one (cell, site): its newest samples.
    struct Samples {
        SiteIndex site = 0;
        SenderIndex sender = 0;
        std::uint8_t count = 0;
        std::uint8_t next = 0;
        std::int64_t newest = 0;
        std::array<float, kept> values{};

        float low_quantile() const;
    };
    struct Measured {
        float rtt = 0;
        float confidence = 0;
        std::int64_t newest = 0;
    };
    struct Cell {
        std::vector<Samples> samples;    // of all sites and senders
        std::vector<Measured> measured;  // by site; confidence 0: not
        Coordinate coordinate;
    };
    // Of the measured cells below a covering prefix.
    struct Group {
        std::vector<float> rtt;     // by site: the typical one, drawn to the next wider group's where few were measured
        std::vector<float> weight;  // by site: how many cells it rests on
        std::int64_t newest = 0;
    };

    std::vector<float> known_of(const Cell& cell) const;
    Measured combine(const Cell& cell, SiteIndex site, std::int64_t now) const;
    double freshness(std::int64_t newest, std::int64_t now) const;

    std::size_t sites_;
    LatencyOptions options_;
    std::unordered_map<Prefix, Cell, PrefixHash> cells_;
    std::unordered_map<Prefix, Group, PrefixHash> groups_;
    std::vector<std::vector<float>> site_rtt_;
    std::vector<Coordinate> coordinates_;  // made from site_rtt_
    bool sites_moved_ = true;              // site_rtt_ changed since
};

}  // namespace wherry::dns::steering
