// run --timings: where the time of a start went, as a waterfall of the command's own steps and the daemon's phases.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cli/session.hpp"

namespace wherry::cli {

struct Phase {
    std::string name;
    std::int64_t start_ns = 0;  // CLOCK_MONOTONIC
    std::int64_t end_ns = 0;
};

// Lines of bars, `columns` wide; phases in their order, times relative to the earliest.
std::string draw_waterfall(const std::vector<Phase>& phases, unsigned columns);

class Timings {
  public:
    explicit Timings(bool wanted);
    bool wanted() const { return wanted_; }
    void begin(std::string_view name);  // ends the phase before
    void end();
    // The daemon's phases, while it still knows the container.
    void fetch(Session& session, const std::string& id);
    void print(Session& session);  // on stderr
    void show(Session& session, const std::string& id) {
        fetch(session, id);
        print(session);
    }

  private:
    bool wanted_;
    bool open_ = false;
    std::vector<Phase> own_;
    std::vector<Phase> daemons_;
};

}  // namespace wherry::cli
