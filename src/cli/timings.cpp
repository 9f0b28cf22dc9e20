#include "cli/timings.hpp"

#include <algorithm>
#include <cstdio>

#include "base/clock.hpp"
#include "base/json.hpp"
#include "cli/terminal.hpp"

namespace wherry::cli {

std::string draw_waterfall(const std::vector<Phase>& phases, unsigned columns) {
    if (phases.empty()) return {};
    std::int64_t first = phases.front().start_ns;
    std::int64_t last = first;
    std::size_t name_width = 0;
    for (const Phase& phase : phases) {
        first = std::min(first, phase.start_ns);
        last = std::max(last, phase.end_ns);
        name_width = std::max(name_width, phase.name.size());
    }
    const std::int64_t total = std::max<std::int64_t>(last - first, 1);
    std::size_t width = columns > name_width + 32 ? columns - name_width - 24 : 24;
    width = std::min<std::size_t>(width, 60);
    std::string out;
    for (const Phase& phase : phases) {
        char numbers[64];
        std::snprintf(numbers, sizeof numbers, " %8.2f ms %8.2f  ",
                      static_cast<double>(phase.end_ns - phase.start_ns) / 1e6,
                      static_cast<double>(phase.start_ns - first) / 1e6);
        std::string name = phase.name;
        name.append(name_width - name.size(), ' ');
        auto at = static_cast<std::size_t>((phase.start_ns - first) * static_cast<std::int64_t>(width) / total);
        auto until = static_cast<std::size_t>((phase.end_ns - first) * static_cast<std::int64_t>(width) / total);
        at = std::min(at, width - 1);
        std::string bar(at, ' ');
        for (std::size_t i = at; i < std::max(until, at + 1); ++i) bar += "\xe2\x96\x88";
        out += name + numbers + bar + "\n";
    }
    return out;
}

Timings::Timings(bool wanted) : wanted_(wanted) {
    begin("prepare");
}

void Timings::begin(std::string_view name) {
    if (!wanted_) return;
    end();
    std::int64_t now = monotonic_ns();
    own_.push_back({std::string(name), now, now});
    open_ = true;
}

void Timings::end() {
    if (open_) own_.back().end_ns = monotonic_ns();
    open_ = false;
}

void Timings::fetch(Session& session, const std::string& id) {
    if (!wanted_) return;
    auto answer = session.get("/wherry/containers/" + id + "/timings");
    if (!answer) return;  // gone already, or a daemon that measures nothing: our own phases remain
    // Nanoseconds since the start request arrived, which is when our phase "start" began (a socket's delay later).
    std::int64_t origin = 0;
    for (const Phase& phase : own_)
        if (phase.name == "start") origin = phase.start_ns;
    const json::value* phases = value_at(*answer, "Timings");
    if (phases == nullptr || !phases->is_array()) return;
    for (const json::value& phase : phases->get_array()) {
        std::int64_t start = origin + integer_at(phase, "StartNs");
        daemons_.push_back({"  daemon: " + text_at(phase, "Phase"), start, start + integer_at(phase, "DurationNs")});
    }
}

void Timings::print(Session& session) {
    if (!wanted_) return;
    std::string text = "phase, duration, since the command began:\n";
    std::vector<Phase> all = own_;
    all.insert(all.end(), daemons_.begin(), daemons_.end());
    std::ranges::sort(all, [](const Phase& a, const Phase& b) {
        return std::pair(a.start_ns, -a.end_ns) < std::pair(b.start_ns, -b.end_ns);
    });
    text += draw_waterfall(all, terminal_columns());
    text.pop_back();
    session.error(text);
}

}  // namespace wherry::cli
