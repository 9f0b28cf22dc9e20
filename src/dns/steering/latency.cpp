#include "dns/steering/latency.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <utility>

namespace wherry::dns::steering {

namespace {

constexpr double longest_rtt = 10'000;     // ms; a satellite link with full queues stays below
constexpr std::int64_t clock_slack = 300;  // s between a sender's clock and ours
constexpr std::size_t most_senders = 64;   // of one cell and site

// Covering prefixes from wide to narrow. The first is everything of the family.
constexpr unsigned levels_ipv4[] = {0, 8, 10, 12, 14, 16, 18, 20, 22};
constexpr unsigned levels_ipv6[] = {0, 16, 20, 24, 28, 32, 36, 40, 44};
constexpr std::size_t level_count = std::size(levels_ipv4);
static_assert(std::size(levels_ipv6) == level_count);

unsigned level_bits(bool ipv6, std::size_t level) {
    return ipv6 ? levels_ipv6[level] : levels_ipv4[level];
}

// How far the mean of a group of cells is drawn to the next wider group's, learned from the groups of one width: the
// ratio of the variance of cells within a group to that of groups around the wider one (a normal model of two levels,
// empirical Bayes).
class Spread {
  public:
    void add_group(const std::vector<double>& values, double mean) {
        if (values.size() < 2) return;
        for (double value : values) within_ += (value - mean) * (value - mean);
        within_count_ += static_cast<double>(values.size() - 1);
    }
    void add_step(double from_wider, std::size_t cells) {
        steps_ += from_wider * from_wider;
        inverse_sizes_ += 1.0 / static_cast<double>(cells);
        ++step_count_;
    }
    // In cells: this many of the wider group's kind are mixed in.
    double drawn() const {
        if (within_count_ < 4 || step_count_ < 4) return 1;
        double within = within_ / within_count_;
        // The mean of few cells scatters by itself.
        double between = steps_ / step_count_ - within * inverse_sizes_ / step_count_;
        return between <= 0 ? most : std::clamp(within / between, 0.01, most);
    }

  private:
    static constexpr double most = 100;
    double within_ = 0;
    double within_count_ = 0;
    double steps_ = 0;
    double inverse_sizes_ = 0;
    double step_count_ = 0;
};

// False: nothing stands there.
Result<bool> parse_sample_line(std::string_view line, Prefix& prefix, std::array<std::int64_t, 3>& numbers,
                               std::vector<double>& values) {
    std::size_t at = 0;
    std::size_t field = 0;
    while ((at = line.find_first_not_of(' ', at)) != std::string_view::npos) {
        std::size_t end = std::min(line.find(' ', at), line.size());
        std::string_view word = line.substr(at, end - at);
        at = end;
        if (field == 0) {
            if (word.starts_with('#')) return false;
            prefix = TRY(Prefix::parse(word));
        } else if (field <= 3) {
            auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), numbers[field - 1]);
            if (error != std::errc() || stop != word.data() + word.size())
                return fail(Code::data_loss, "a number is wrong");
        } else {
            double value = 0;
            auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), value);
            if (error != std::errc() || stop != word.data() + word.size())
                return fail(Code::data_loss, "a round trip is wrong");
            values.push_back(value);
        }
        ++field;
    }
    if (field == 0) return false;
    if (field < 5) return fail(Code::data_loss, "the line is cut");
    return true;
}

}  // namespace

std::string_view to_string(Source source) {
    switch (source) {
        case Source::none:
            return "none";
        case Source::geography:
            return "geography";
        case Source::average:
            return "average";
        case Source::neighbours:
            return "neighbours";
        case Source::coordinates:
            return "coordinates";
        case Source::measured:
            return "measured";
    }
    return "none";
}

LatencyMap::LatencyMap(std::size_t sites, LatencyOptions options)
    : sites_(sites), options_(options), site_rtt_(sites, std::vector<float>(sites, 0)), coordinates_(sites) {}

// The second lowest of a full set, the lowest of few: queueing only adds, and one value may be a slip of a clock.
float LatencyMap::Samples::low_quantile() const {
    std::array<float, kept> sorted = values;
    std::sort(sorted.begin(), sorted.begin() + count);
    return sorted[count >= 4 ? 1 : 0];
}

bool LatencyMap::add(const Prefix& client, SiteIndex site, SenderIndex sender, double rtt, std::int64_t time) {
    // Not the negation: not-a-number fails every comparison.
    bool believable = rtt > 0 && rtt <= longest_rtt;
    if (site >= sites_ || !believable) return false;
    Cell& cell = cells_[cell_of(client)];
    auto found = std::ranges::find_if(cell.samples,
                                      [&](const Samples& one) { return one.site == site && one.sender == sender; });
    if (found == cell.samples.end()) {
        auto senders = std::ranges::count_if(cell.samples, [&](const Samples& one) { return one.site == site; });
        if (static_cast<std::size_t>(senders) >= most_senders) return false;
        found = cell.samples.insert(cell.samples.end(), Samples{.site = site, .sender = sender});
    }
    found->values[found->next] = static_cast<float>(rtt);
    found->next = static_cast<std::uint8_t>((found->next + 1) % kept);
    found->count = static_cast<std::uint8_t>(std::min<std::size_t>(found->count + 1U, kept));
    found->newest = std::max(found->newest, time);
    return true;
}

void LatencyMap::set_site_rtt(SiteIndex one, SiteIndex other, double rtt) {
    if (one >= sites_ || other >= sites_ || one == other || !(rtt > 0 && rtt <= longest_rtt)) return;
    site_rtt_[one][other] = site_rtt_[other][one] = static_cast<float>(rtt);
    sites_moved_ = true;
}

void LatencyMap::forget(SenderIndex sender) {
    for (auto cell = cells_.begin(); cell != cells_.end();) {
        std::erase_if(cell->second.samples, [&](const Samples& one) { return one.sender == sender; });
        cell = cell->second.samples.empty() ? cells_.erase(cell) : std::next(cell);
    }
}

void LatencyMap::adopt(const LatencyMap& other, const std::vector<std::optional<SiteIndex>>& sites,
                       const std::vector<std::optional<SenderIndex>>& senders) {
    for (const auto& [prefix, cell] : other.cells_)
        for (Samples one : cell.samples) {
            if (!sites[one.site] || !senders[one.sender]) continue;
            one.site = *sites[one.site];
            one.sender = *senders[one.sender];
            cells_[prefix].samples.push_back(one);
        }
    for (std::size_t i = 0; i < other.sites_; ++i)
        for (std::size_t j = 0; j < other.sites_; ++j)
            if (sites[i] && sites[j]) site_rtt_[*sites[i]][*sites[j]] = other.site_rtt_[i][j];
    sites_moved_ = true;
}

double LatencyMap::freshness(std::int64_t newest, std::int64_t now) const {
    auto age = static_cast<double>(std::max<std::int64_t>(0, now - newest));
    return std::exp2(-age / static_cast<double>(options_.half_life));
}

LatencyMap::Measured LatencyMap::combine(const Cell& cell, SiteIndex site, std::int64_t now) const {
    std::vector<float> told;
    Measured result;
    for (const Samples& one : cell.samples) {
        if (one.site != site || now - one.newest > options_.lifetime) continue;
        told.push_back(one.low_quantile());
        result.newest = std::max(result.newest, one.newest);
    }
    if (told.empty()) return result;
    std::ranges::sort(told);
    // Of two in the middle the longer: a sender that lies to attract clients has to lie for two.
    result.rtt = told[told.size() / 2];
    double quorum = told.size() >= options_.quorum ? 1.0 : 0.1 * static_cast<double>(told.size()) / options_.quorum;
    result.confidence = static_cast<float>(quorum * freshness(result.newest, now));
    return result;
}

// What takes part in estimates, by site; 0: unknown, or told by too few senders.
std::vector<float> LatencyMap::known_of(const Cell& cell) const {
    std::vector<float> known(sites_, 0);
    for (std::size_t site = 0; site < cell.measured.size(); ++site)
        if (cell.measured[site].confidence > 0.1F) known[site] = cell.measured[site].rtt;
    return known;
}

void LatencyMap::summarize(std::int64_t now) {
    const bool sites_moved = std::exchange(sites_moved_, false);
    if (sites_moved) coordinates_ = place(sites_, site_rtt_);
    std::vector<float> known_before;
    for (auto entry = cells_.begin(); entry != cells_.end();) {
        Cell& cell = entry->second;
        std::erase_if(cell.samples, [&](const Samples& one) { return now - one.newest > options_.lifetime; });
        if (cell.samples.empty()) {
            entry = cells_.erase(entry);
            continue;
        }
        known_before = known_of(cell);
        cell.measured.assign(sites_, {});
        for (std::size_t site = 0; site < sites_; ++site)
            cell.measured[site] = combine(cell, static_cast<SiteIndex>(site), now);
        // Fitting is the dear part: only where it would come out otherwise than last time.
        if (const std::vector<float> known = known_of(cell); sites_moved || known != known_before)
            cell.coordinate = locate(coordinates_, known);
        ++entry;
    }

    groups_.clear();
    for (std::size_t level = 0; level < level_count; ++level) {
        std::unordered_map<Prefix, std::vector<const Cell*>, PrefixHash> members;
        for (const auto& [prefix, cell] : cells_)
            members[prefix.shortened(level_bits(prefix.ipv6, level))].push_back(&cell);
        struct Raw {
            const Prefix* prefix;
            std::vector<float> mean;
            std::vector<float> count;
            std::int64_t newest = 0;
        };
        std::vector<Raw> raws;
        Spread spread;
        for (const auto& [prefix, cells] : members) {
            Raw raw{.prefix = &prefix, .mean = std::vector<float>(sites_, 0), .count = std::vector<float>(sites_, 0)};
            const Group* wider = nullptr;
            if (level > 0) wider = &groups_.at(prefix.shortened(level_bits(prefix.ipv6, level - 1)));
            std::vector<double> values;
            for (std::size_t site = 0; site < sites_; ++site) {
                values.clear();
                for (const Cell* cell : cells) {
                    const Measured& measured = cell->measured[site];
                    raw.newest = std::max(raw.newest, measured.newest);
                    if (measured.confidence > 0.1F) values.push_back(static_cast<double>(measured.rtt));
                }
                if (values.empty()) continue;
                double mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
                raw.count[site] = static_cast<float>(values.size());
                raw.mean[site] = static_cast<float>(mean);
                spread.add_group(values, mean);
                if (wider != nullptr && wider->weight[site] > raw.count[site])
                    spread.add_step(mean - static_cast<double>(wider->rtt[site]), values.size());
            }
            raws.push_back(std::move(raw));
        }
        double drawn = spread.drawn();
        for (Raw& raw : raws) {
            Group group{.rtt = raw.mean, .weight = raw.count, .newest = raw.newest};
            if (level > 0) {
                const Group& wider = groups_.at(raw.prefix->shortened(level_bits(raw.prefix->ipv6, level - 1)));
                for (std::size_t site = 0; site < sites_; ++site) {
                    if (wider.weight[site] <= 0) continue;
                    auto count = static_cast<double>(raw.count[site]);
                    group.rtt[site] = static_cast<float>(
                        (count * static_cast<double>(raw.mean[site]) + drawn * static_cast<double>(wider.rtt[site])) /
                        (count + drawn));
                }
            }
            groups_[*raw.prefix] = std::move(group);
        }
    }
}

std::vector<Estimate> LatencyMap::estimate(const Prefix& client, std::int64_t now) const {
    std::vector<Estimate> estimates(sites_);
    Prefix cell_prefix = cell_of(client);
    const Group* group = nullptr;
    std::size_t group_level = 0;
    for (std::size_t level = 0; level < level_count; ++level) {
        unsigned bits = level_bits(cell_prefix.ipv6, level);
        if (bits > cell_prefix.length) break;  // wider than a cell: what is below it decides
        auto found = groups_.find(cell_prefix.shortened(bits));
        if (found == groups_.end()) break;
        group = &found->second;
        group_level = level;
    }
    auto found = cells_.find(cell_prefix);
    const Cell* cell = found == cells_.end() || found->second.measured.empty() ? nullptr : &found->second;

    // How much further or nearer this cell is than its neighbours, at the sites where it was measured.
    double offset = 0;
    std::size_t offsets = 0;
    if (cell != nullptr && group != nullptr)
        for (std::size_t site = 0; site < sites_; ++site)
            if (cell->measured[site].confidence > 0.1F && group->weight[site] > 1) {
                offset += static_cast<double>(cell->measured[site].rtt - group->rtt[site]);
                ++offsets;
            }
    if (offsets > 0) offset /= static_cast<double>(offsets);

    for (std::size_t site = 0; site < sites_; ++site) {
        Estimate& estimate = estimates[site];
        bool near = group != nullptr && group_level > 0 && group->weight[site] > 0;
        // What is said without a measurement of this cell to this site.
        if (near) {
            double spread = group->weight[site] / (group->weight[site] + 1);
            estimate = {.rtt = std::max(0.1F, group->rtt[site] + static_cast<float>(offset)),
                        .confidence = static_cast<float>(0.6 * spread * static_cast<double>(group_level) / level_count),
                        .age = now - group->newest,
                        .source = Source::neighbours};
        }
        if (cell != nullptr && cell->coordinate.error < 0.6 && (!near || offsets == 0)) {
            auto trust = static_cast<float>(0.5 * (1 - cell->coordinate.error));
            if (trust > estimate.confidence)
                estimate = {.rtt = static_cast<float>(predicted(cell->coordinate, coordinates_[site])),
                            .confidence = trust,
                            .age = estimate.age,
                            .source = Source::coordinates};
        }
        if (estimate.source == Source::none && geography)
            if (auto guess = geography(cell_prefix, static_cast<SiteIndex>(site)))
                estimate = {.rtt = *guess, .confidence = 0.2F, .source = Source::geography};
        if (estimate.source == Source::none && group != nullptr && group->weight[site] > 0)
            estimate = {
                .rtt = group->rtt[site], .confidence = 0.1F, .age = now - group->newest, .source = Source::average};
        if (cell == nullptr) continue;
        const Measured& measured = cell->measured[site];
        if (measured.confidence <= 0) continue;
        if (estimate.source == Source::none || measured.confidence > 0.1F) {
            // An old measurement fades into what is said without it.
            auto old = static_cast<float>(1 - freshness(measured.newest, now));
            float blend = estimate.source == Source::none ? 0 : std::min(old, estimate.confidence);
            estimate = {.rtt = measured.rtt * (1 - blend) + estimate.rtt * blend,
                        .confidence = std::max(measured.confidence, estimate.confidence),
                        .age = now - measured.newest,
                        .source = Source::measured};
        }
    }
    return estimates;
}

std::vector<Prefix> LatencyMap::cells() const {
    std::vector<Prefix> all;
    all.reserve(cells_.size());
    for (const auto& [prefix, cell] : cells_) all.push_back(prefix);
    std::ranges::sort(all);
    return all;
}

std::vector<Prefix> LatencyMap::covering() const {
    std::vector<Prefix> all;
    all.reserve(groups_.size());
    for (const auto& [prefix, group] : groups_) all.push_back(prefix);
    return all;
}

std::string LatencyMap::save() const {
    std::string text = "# cell site sender newest rtt...\n";
    for (const Prefix& prefix : cells()) {
        for (const Samples& one : cells_.at(prefix).samples) {
            text += prefix.to_text() + " " + std::to_string(one.site) + " " + std::to_string(one.sender) + " " +
                    std::to_string(one.newest);
            for (std::size_t i = 0; i < one.count; ++i) {
                std::array<char, 32> digits{};
                auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), one.values[i],
                                                  std::chars_format::fixed, 3);
                text += ' ';
                if (error == std::errc()) text.append(digits.data(), end);
            }
            text += '\n';
        }
    }
    return text;
}

bool LatencyMap::load(std::string_view text, std::int64_t now) {
    LatencyMap read(sites_, options_);
    while (!text.empty()) {
        std::size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        Prefix prefix;
        std::array<std::int64_t, 3> numbers{};
        std::vector<double> values;
        auto whole = parse_sample_line(line, prefix, numbers, values);
        if (!whole) return false;
        if (!*whole) continue;
        bool fits = numbers[0] >= 0 && static_cast<std::size_t>(numbers[0]) < sites_ && numbers[1] >= 0 &&
                    numbers[1] <= UINT16_MAX && values.size() <= kept && numbers[2] <= now + clock_slack;
        if (!fits) return false;
        for (double value : values)
            if (!read.add(prefix, static_cast<SiteIndex>(numbers[0]), static_cast<SenderIndex>(numbers[1]), value,
                          numbers[2]))
                return false;
    }
    cells_ = std::move(read.cells_);
    return true;
}

}  // namespace wherry::dns::steering
