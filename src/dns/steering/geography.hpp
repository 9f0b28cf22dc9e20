// Where addresses are, by a MaxMind database, and the round trip that a distance makes at least likely.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "dns/steering/prefix.hpp"

namespace wherry::dns::steering {

// Great-circle kilometres between two places in degrees north and east.
double distance_km(std::pair<double, double> one, std::pair<double, double> other);
// Light in fibre goes 200 km a millisecond, paths are about half as long again as the great circle, and access adds
// some.
inline double typical_rtt(double kilometres) {
    return 4 + kilometres * 2 * 1.5 / 200;
}

class Geography {
  public:
    static Result<std::unique_ptr<Geography>> open(const std::string& path);
    ~Geography();
    Geography(const Geography&) = delete;
    Geography& operator=(const Geography&) = delete;

    // Of the first address of the prefix; nullopt: the database does not know. Thread-safe.
    std::optional<std::pair<double, double>> locate(const Prefix& prefix) const;
    // Every network of the database with a place, cut to a cell's length.
    void each(const std::function<void(const Prefix&)>& visit) const;

  private:
    struct Database;
    explicit Geography(std::unique_ptr<Database> database);
    std::unique_ptr<Database> database_;
};

// Round trips as distances make them likely, for LatencyMap::geography. `locations` by site; the database must outlive
// it.
std::function<std::optional<float>(const Prefix& cell, std::uint16_t site)> geographic_prior(
    const Geography& geography, std::vector<std::optional<std::pair<double, double>>> locations);

}  // namespace wherry::dns::steering
