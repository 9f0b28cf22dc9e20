// How well clients are sent to their nearest site, from how little measurement: a simulation on measured round trips.
//
//     dispatch bench/data/rtt/PlanetLabData_1 [--plot FILE.svg]
//
// The matrix has the round trips between 490 hosts (bench/data/rtt, MIT licence). Twelve of them are sites (greedy
// k-median), the others are where clients are; nothing of a client's row is known but what samples tell. Every client
// host has a block of addresses of sixteen /24s, in random order in the address space; one /24 of twelve is somewhere
// else than its block (as announced blocks are in reality). Prefixes are asked from with Zipf's popularity; the first x
// % of distinct prefixes that the traffic brings are measured: six samples from each of three senders at every site,
// each sample the true round trip plus exponential queueing (mean 1 ms + 8 % of it) and now and then (3 %) a spike up
// to 200 ms. Excess: round trip to the chosen site minus that to the best. It is counted over traffic and over
// prefixes; methods that know nothing of a prefix use the site that is best on average over what they have measured.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "dns/steering/latency.hpp"

namespace {

using namespace wherry::dns::steering;

constexpr std::size_t site_count = 12;
constexpr std::size_t prefixes_of_a_host = 16;
constexpr std::size_t senders = 3;
constexpr std::size_t samples_of_a_sender = 6;
constexpr int rounds = 5;

using Matrix = std::vector<std::vector<double>>;

Matrix read_matrix(const char* path) {
    Matrix matrix;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::vector<double> row;
        for (double value = 0; words >> value;) row.push_back(value);
        if (!row.empty()) matrix.push_back(std::move(row));
    }
    return matrix;
}

std::vector<std::size_t> choose_sites(const Matrix& rtt) {
    std::vector<std::size_t> sites;
    std::vector<double> nearest(rtt.size(), 1e9);
    while (sites.size() < site_count) {
        std::size_t best = 0;
        double least = 1e18;
        for (std::size_t candidate = 0; candidate < rtt.size(); ++candidate) {
            double sum = 0;
            for (std::size_t host = 0; host < rtt.size(); ++host) sum += std::min(nearest[host], rtt[candidate][host]);
            if (sum < least) least = sum, best = candidate;
        }
        sites.push_back(best);
        for (std::size_t host = 0; host < rtt.size(); ++host) nearest[host] = std::min(nearest[host], rtt[best][host]);
    }
    return sites;
}

struct Client {
    Prefix prefix;
    std::size_t host;
    double traffic;
};

struct World {
    const Matrix& rtt;
    std::vector<std::size_t> sites;
    std::vector<Client> clients;
    std::vector<std::size_t> arrival;  // the order in which traffic first brings each prefix
};

World make_world(const Matrix& rtt, const std::vector<std::size_t>& sites, double elsewhere, std::mt19937_64& random) {
    World world{.rtt = rtt, .sites = sites, .clients = {}, .arrival = {}};
    std::vector<std::size_t> hosts;
    for (std::size_t host = 0; host < rtt.size(); ++host)
        if (std::ranges::find(sites, host) == sites.end()) hosts.push_back(host);
    std::ranges::shuffle(hosts, random);
    std::uniform_int_distribution<std::size_t> any(0, hosts.size() - 1);
    std::uniform_real_distribution<double> chance(0, 1);
    for (std::size_t block = 0; block < hosts.size(); ++block)
        for (std::size_t i = 0; i < prefixes_of_a_host; ++i) {
            std::size_t number =
                (static_cast<std::size_t>(20) << 16U) + block * prefixes_of_a_host + i;  // 20.0.0.0/8 upwards
            const std::uint8_t bytes[4] = {static_cast<std::uint8_t>(number >> 16U),
                                           static_cast<std::uint8_t>(number >> 8U), static_cast<std::uint8_t>(number),
                                           0};
            world.clients.push_back({Prefix::from_bytes(false, bytes, 24),
                                     chance(random) < elsewhere ? hosts[any(random)] : hosts[block], 0});
        }
    std::vector<std::size_t> rank(world.clients.size());
    for (std::size_t i = 0; i < rank.size(); ++i) rank[i] = i;
    std::ranges::shuffle(rank, random);
    double total = 0;
    for (std::size_t i = 0; i < rank.size(); ++i)
        total += world.clients[rank[i]].traffic = 1.0 / static_cast<double>(i + 1);
    // The order of first arrival under Poisson traffic: exponential times by rate.
    std::exponential_distribution<double> unit(1);
    std::vector<std::pair<double, std::size_t>> first;
    for (std::size_t i = 0; i < world.clients.size(); ++i) {
        world.clients[i].traffic /= total;
        first.emplace_back(unit(random) / world.clients[i].traffic, i);
    }
    std::ranges::sort(first);
    for (const auto& [time, client] : first) world.arrival.push_back(client);
    return world;
}

double noisy(double rtt, std::mt19937_64& random) {
    std::exponential_distribution<double> queue(1 / (1 + 0.08 * rtt));
    std::uniform_real_distribution<double> chance(0, 1);
    double sample = rtt + queue(random);
    if (chance(random) < 0.03) sample += 200 * chance(random);
    return std::max(0.05, sample);
}

enum Method { ours, vivaldi, average_site, random_site, method_count };
constexpr const char* method_names[] = {"wherry", "Vivaldi alone", "best on average", "random"};

struct Excess {
    double traffic = 0;
    double prefixes = 0;
};

// Excess of each method with the first `measured` prefixes measured.
std::vector<Excess> run(const World& world, std::size_t measured, std::size_t sites_seen, std::mt19937_64& random) {
    LatencyMap map(site_count, {});
    for (SiteIndex i = 0; i < site_count; ++i)
        for (SiteIndex j = 0; j < i; ++j)
            map.set_site_rtt(i, j, noisy(world.rtt[world.sites[i]][world.sites[j]], random));
    std::vector<std::vector<float>> seen(world.clients.size());
    std::vector<double> sums(site_count, 0);
    for (std::size_t k = 0; k < measured; ++k) {
        const Client& client = world.clients[world.arrival[k]];
        std::vector<SiteIndex> asked(site_count);
        for (SiteIndex site = 0; site < site_count; ++site) asked[site] = site;
        std::ranges::shuffle(asked, random);
        asked.resize(sites_seen);
        auto& row = seen[world.arrival[k]];
        row.assign(site_count, 0);
        for (SiteIndex site : asked) {
            float least = 1e9F;
            for (SenderIndex sender = 0; sender < senders; ++sender)
                for (std::size_t i = 0; i < samples_of_a_sender; ++i) {
                    double sample = noisy(world.rtt[world.sites[site]][client.host], random);
                    least = std::min(least, static_cast<float>(sample));
                    map.add(client.prefix, site, sender, sample, 0);
                }
            row[site] = least;
            sums[site] += static_cast<double>(least);
        }
    }
    map.summarize(0);
    std::size_t on_average = static_cast<std::size_t>(std::ranges::min_element(sums) - sums.begin());
    std::vector<Excess> total(method_count);
    for (std::size_t index = 0; index < world.clients.size(); ++index) {
        const Client& client = world.clients[index];
        std::vector<double> truth(site_count);
        for (std::size_t site = 0; site < site_count; ++site) truth[site] = world.rtt[world.sites[site]][client.host];
        double best = *std::ranges::min_element(truth);
        std::vector<double> excess(method_count);
        auto estimates = map.estimate(client.prefix, 0);
        std::size_t chosen = on_average;
        float least = 1e9F;
        for (std::size_t site = 0; site < site_count; ++site)
            if (estimates[site].source != Source::none && estimates[site].rtt < least)
                least = estimates[site].rtt, chosen = site;
        excess[ours] = truth[chosen] - best;
        std::size_t by_coordinates = on_average;
        if (!seen[index].empty()) {
            Coordinate coordinate = locate(map.site_coordinates(), seen[index]);
            double nearest = 1e9;
            for (std::size_t site = 0; site < site_count; ++site)
                if (double distance = predicted(coordinate, map.site_coordinates()[site]); distance < nearest)
                    nearest = distance, by_coordinates = site;
        }
        excess[vivaldi] = truth[by_coordinates] - best;
        excess[average_site] = truth[on_average] - best;
        for (double value : truth) excess[random_site] += (value - best) / site_count;
        for (int method = 0; method < method_count; ++method) {
            total[static_cast<std::size_t>(method)].traffic +=
                excess[static_cast<std::size_t>(method)] * client.traffic;
            total[static_cast<std::size_t>(method)].prefixes +=
                excess[static_cast<std::size_t>(method)] / static_cast<double>(world.clients.size());
        }
    }
    return total;
}

void plot(const std::string& path, const std::vector<double>& shares, const std::vector<std::vector<Excess>>& table) {
    std::ofstream file(path);
    auto x = [&](std::size_t i) { return 70.0 + 130.0 * static_cast<double>(i); };
    auto y = [](double excess) { return 330.0 - 70.0 * (std::log10(std::max(excess, 0.05)) - std::log10(0.05)); };
    constexpr const char* colours[] = {"#0a6", "#36c", "#c80", "#999"};
    file
        << "<svg xmlns='http://www.w3.org/2000/svg' width='640' height='380' font-family='sans-serif' font-size='12'>\n"
        << "<text x='70' y='20'>Mean excess over the best site (ms, traffic-weighted) by share of prefixes "
           "measured</text>\n";
    for (double tick : {0.1, 1.0, 10.0, 100.0})
        file << "<line x1='60' x2='480' y1='" << y(tick) << "' y2='" << y(tick) << "' stroke='#ddd'/><text x='20' y='"
             << y(tick) + 4 << "'>" << tick << "</text>\n";
    for (std::size_t i = 0; i < shares.size(); ++i)
        file << "<text x='" << x(i) - 12 << "' y='355'>" << shares[i] * 100 << " %</text>\n";
    for (std::size_t method = 0; method < method_count; ++method) {
        file << "<polyline fill='none' stroke-width='2' stroke='" << colours[method] << "' points='";
        for (std::size_t i = 0; i < shares.size(); ++i) file << x(i) << "," << y(table[i][method].traffic) << " ";
        file << "'/><text x='490' y='" << y(table.back()[method].traffic) + 4 << "' fill='" << colours[method] << "'>"
             << method_names[method] << "</text>\n";
    }
    file << "</svg>\n";
}

std::vector<std::vector<Excess>> table_of(const Matrix& rtt, const std::vector<std::size_t>& sites,
                                          const std::vector<double>& shares, std::size_t sites_seen, double elsewhere) {
    std::vector<std::vector<Excess>> table(shares.size(), std::vector<Excess>(method_count));
    for (int round = 0; round < rounds; ++round) {
        std::mt19937_64 random(static_cast<std::uint64_t>(round) + 1);
        World world = make_world(rtt, sites, elsewhere, random);
        for (std::size_t i = 0; i < shares.size(); ++i) {
            auto measured = static_cast<std::size_t>(shares[i] * static_cast<double>(world.clients.size()));
            auto result = run(world, measured, sites_seen, random);
            for (std::size_t method = 0; method < method_count; ++method) {
                table[i][method].traffic += result[method].traffic / rounds;
                table[i][method].prefixes += result[method].prefixes / rounds;
            }
        }
    }
    return table;
}

void print(const char* title, const std::vector<double>& shares, const std::vector<std::vector<Excess>>& table) {
    std::printf("\n%s\nmean excess, ms: by traffic (by prefixes)\n%-10s", title, "measured");
    for (const char* name : method_names) std::printf("%24s", name);
    std::printf("\n");
    for (std::size_t i = 0; i < shares.size(); ++i) {
        std::printf("%6.0f %%  ", shares[i] * 100);
        for (const Excess& excess : table[i]) std::printf("%14.3f (%7.3f)", excess.traffic, excess.prefixes);
        std::printf("\n");
    }
}

// The same as bars on a logarithmic scale: ten characters for each power of ten above 0.001 ms.
void draw(const std::vector<double>& shares, const std::vector<std::vector<Excess>>& table) {
    std::printf("\nmean excess by traffic (ms, logarithmic)\n");
    for (std::size_t i = 0; i < shares.size(); ++i)
        for (std::size_t method = 0; method < method_count; ++method) {
            const double excess = table[i][method].traffic;
            const auto length = static_cast<std::size_t>(10 * std::max(0.0, std::log10(std::max(excess, 0.001)) + 3));
            if (method == 0)
                std::printf("%6.0f %%  ", shares[i] * 100);
            else
                std::printf("%10s", "");
            std::printf("%-16s %s %.3f\n", method_names[method], std::string(length, '#').c_str(), excess);
        }
}

}  // namespace

int main(int count, char** words) {
    if (count < 2) {
        std::fprintf(stderr, "usage: dispatch MATRIX [--plot FILE.svg]\n");
        return 2;
    }
    Matrix rtt = read_matrix(words[1]);
    if (rtt.size() < 100 || std::ranges::any_of(rtt, [&](const auto& row) { return row.size() != rtt.size(); })) {
        std::fprintf(stderr, "%s: no square matrix of round trips\n", words[1]);
        return 1;
    }
    auto sites = choose_sites(rtt);
    std::vector<double> shares = {0.01, 0.05, 0.2, 1.0};
    auto full = table_of(rtt, sites, shares, site_count, 1.0 / 50);
    print("every measured prefix was measured by all twelve sites", shares, full);
    print("the same, with one /24 of twelve somewhere else than its block", shares,
          table_of(rtt, sites, shares, site_count, 1.0 / 12));
    print("every measured prefix was measured by four of the twelve sites", shares,
          table_of(rtt, sites, shares, 4, 1.0 / 50));
    if (count >= 4 && std::string(words[2]) == "--plot") plot(words[3], shares, full);
    draw(shares, full);
    bool good = full[2][ours].traffic <= 2 && full[3][ours].traffic <= 0.4;
    for (const auto& row : full)
        for (std::size_t method = 1; method < method_count; ++method)
            good = good && row[ours].traffic < row[method].traffic;
    std::printf("\nat most 2 ms at 20 %%, at most 0.4 ms at 100 %%, better than the others throughout: %s\n",
                good ? "yes" : "no");
    return good ? 0 : 1;
}
