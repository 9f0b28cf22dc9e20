// Whether sites are up: checks with hysteresis, and a quorum of each site's checks.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "dns/steering/command_checks.hpp"
#include "dns/steering/config.hpp"

namespace wherry::dns::steering {

// Successes and failures in a row against thresholds: one bad answer of a healthy service changes nothing.
class Hysteresis {
  public:
    Hysteresis(unsigned rise, unsigned fall, bool up) : rise_(rise), fall_(fall), up_(up) {}
    // True when the verdict changed.
    bool note(bool success);
    bool up() const { return up_; }

  private:
    unsigned rise_;
    unsigned fall_;
    unsigned streak_ = 0;  // results in a row that speak against the verdict
    bool up_;
};

// One check, once: nothing when it is healthy, else what is wrong. Blocks for at most the check's timeout.
Result<> run_check(const CheckConfig& check, const CommandChecks* commands);

class HealthMonitor {
  public:
    struct CheckStatus {
        std::string what;
        bool up = true;
        std::string problem;  // of the last run; empty: healthy
    };

    // `on_change` is called from the checks' threads when a site's verdict changed. Sites without checks are always up;
    // those with checks count as up until their first verdict, so that a restart sends nobody away.
    HealthMonitor(const std::vector<SiteConfig>& sites, std::shared_ptr<const CommandChecks> commands,
                  std::function<void()> on_change);
    ~HealthMonitor();
    HealthMonitor(const HealthMonitor&) = delete;
    HealthMonitor& operator=(const HealthMonitor&) = delete;

    void start();
    std::vector<bool> up() const;  // by site
    std::vector<CheckStatus> checks(SiteIndex site) const;

  private:
    struct Check {
        CheckConfig config;
        SiteIndex site;
        Hysteresis verdict;
        std::string problem;
    };
    void run(Check& check);
    bool site_up(SiteIndex site) const;  // with the lock

    std::vector<SiteConfig> sites_;
    std::shared_ptr<const CommandChecks> commands_;
    std::function<void()> on_change_;
    mutable std::mutex lock_;
    std::condition_variable wake_;
    bool stopping_ = false;
    std::vector<std::unique_ptr<Check>> checks_;
    std::vector<std::thread> threads_;
};

}  // namespace wherry::dns::steering
