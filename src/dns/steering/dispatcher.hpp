// From sites, health and round trips to answers: for every steered name a table from client prefix to an answer, made
// ahead of the queries and swapped whole; and the explanation of each choice.
#pragma once

#include <boost/json/object.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "dns/catalog.hpp"
#include "dns/steering/config.hpp"
#include "dns/steering/geography.hpp"
#include "dns/steering/health.hpp"
#include "dns/steering/latency.hpp"
#include "dns/steering/prefix_table.hpp"
#include "dns/steering/recorder.hpp"

namespace wherry::dns::steering {

// What is known of one site for one client, and what was made of it.
struct Candidate {
    SiteIndex site = 0;
    bool up = true;
    bool drained = false;
    Estimate estimate;
    double distance_km = -1;  // -1: unknown
    bool chosen = false;
};

struct Decision {
    std::vector<SiteIndex> sites;  // of the answer, best first; empty: the name's own records in the zone
    std::string reason;            // a sentence
    std::vector<Candidate> candidates;
    std::optional<Prefix> override_prefix;
};

// Decides for a client: pure, the same for a recorded query as for a live one.
class Chooser {
  public:
    Chooser(const SteeringConfig& config, const LatencyMap& latency, const Geography* geography)
        : config_(config), latency_(latency), geography_(geography) {}
    // With `explain` the reason and all candidates are filled in, else only the sites.
    Decision decide(const SteeredName& name, const Prefix& client, const std::vector<bool>& up, std::int64_t now,
                    bool explain) const;

  private:
    const SteeringConfig& config_;
    const LatencyMap& latency_;
    const Geography* geography_;
};

// The answers to one name: what a query reads.
struct NameTable {
    PrefixTable prefixes;                         // client prefix -> index into answers
    std::vector<std::vector<SiteIndex>> answers;  // [0] is empty: the zone's own records
    std::uint16_t otherwise = 0;                  // of clients of which nothing is known
    std::uint32_t ttl = 0;
};

// The prefixes of a geo database, as few as tell the sites' order by distance apart. Walks the whole database.
std::vector<Prefix> places_of(const SteeringConfig& config, const Geography& geography);

// Makes the tables of all names. `places` are those of `geography`, where there is one.
std::vector<std::shared_ptr<const NameTable>> make_tables(const SteeringConfig& config, const LatencyMap& latency,
                                                          const Geography* geography, const std::vector<Prefix>& places,
                                                          const std::vector<bool>& up, std::int64_t now);

// A zone's steered names as an AnswerPolicy; nullptr when it has none.
std::shared_ptr<const AnswerPolicy> make_policy(const SteeringConfig& config,
                                                const std::vector<std::shared_ptr<const NameTable>>& tables,
                                                const Zone& zone, std::shared_ptr<QueryRecorder> recorder);

// The live state behind all of it. Thread-safe.
class Dispatcher {
  public:
    // `on_change` is told (from any thread) when policies should be made anew. Without `commands` checks that are
    // commands fail.
    static Result<std::unique_ptr<Dispatcher>> create(SteeringConfig config,
                                                      std::shared_ptr<const CommandChecks> commands,
                                                      std::function<void()> on_change);
    ~Dispatcher();
    Dispatcher(const Dispatcher&) = delete;
    Dispatcher& operator=(const Dispatcher&) = delete;

    void start();  // health checks, and the thread that takes samples into account
    std::shared_ptr<const AnswerPolicy> policy(const Zone& zone) const;

    // Samples as a sender's body has them, a line each: "PREFIX|ADDRESS RTT_MS", or "site NAME RTT_MS". `mac` is the
    // HMAC-SHA256 of "SENDER\nTIME\n" and the body under the sender's secret, in hex; `time` (s) may be five minutes
    // off and must rise for each sender. unauthenticated, invalid_argument; else how many lines were taken.
    Result<std::size_t> take_samples(std::string_view sender, std::int64_t time, std::string_view mac,
                                     std::string_view body);
    Result<Decision> explain(const Name& name, const Prefix& client) const;
    boost::json::object explain_json(const Name& name, const Decision& decision, const Prefix& client) const;
    boost::json::object status() const;
    // Sites, cells and round trips for a picture.
    boost::json::object map() const;
    // An address in each cell that somebody told of by a whole address, a line each: what agents can probe.
    std::string targets() const;
    // Takes over what another knows of sites and senders of the same names: after a reload.
    void adopt(const Dispatcher& other);
    const SteeringConfig& config() const { return config_; }
    // Works out everything that has come in so far; tests wait for nothing then.
    void refresh();

  private:
    Dispatcher(SteeringConfig config, std::function<void()> on_change);
    void run();
    void rebuild();

    SteeringConfig config_;
    std::function<void()> on_change_;
    std::unique_ptr<Geography> geography_;
    std::vector<Prefix> places_;  // of the geo database, walked once
    std::unique_ptr<HealthMonitor> health_;
    std::shared_ptr<QueryRecorder> recorder_;
    mutable std::mutex lock_;  // of what follows
    LatencyMap latency_;
    std::vector<std::shared_ptr<const NameTable>> tables_;
    std::vector<std::int64_t> last_time_;  // by sender
    std::map<Prefix, Prefix> targets_;     // an address in each cell
    std::uint64_t samples_taken_ = 0;
    std::uint64_t samples_refused_ = 0;
    bool dirty_ = false;
    bool stopping_ = false;
    std::condition_variable wake_;
    std::thread thread_;
};

}  // namespace wherry::dns::steering
