// dns explain, replay, map and agent: why a client is answered as it is, what a changed configuration would move, a
// picture, and the measuring at sites.
#include <poll.h>

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <cstdio>
#include <map>

#include "base/clock.hpp"
#include "base/encoding.hpp"
#include "base/fd.hpp"
#include "base/json.hpp"
#include "cli/command.hpp"
#include "cli/dns_words.hpp"
#include "cli/session.hpp"
#include "cli/table.hpp"
#include "dns/config.hpp"
#include "dns/steering/replay.hpp"
#include "dns/tools/agent.hpp"
#include "http/client.hpp"

namespace wherry::cli {

namespace {

namespace json = boost::json;
using namespace dns::steering;

constexpr std::string_view default_control = "http://127.0.0.1:8053";

constexpr Option explain_options[] = {
    {"control", 0, "string", "The dispatcher's control address", nullptr, "http://127.0.0.1:8053"},
    {"json", 0, {}, "Print as JSON"},
};
constexpr Option replay_options[] = {
    {"after", 0, "string", "The changed configuration (default: the same, with --down)"},
    {"config", 0, "string", "The configuration that answered"},
    {"down", 0, "list", "Sites taken to be down in the changed configuration"},
    {"json", 0, {}, "Print as JSON"},
};
constexpr Option map_options[] = {
    {"control", 0, "string", "The dispatcher's control address", nullptr, "http://127.0.0.1:8053"},
    {"output", 'o', "string", "Write an SVG here, instead of drawing in the terminal"},
};
constexpr Option agent_options[] = {
    {"control", 0, "string", "The dispatcher's control address", nullptr, "http://127.0.0.1:8053"},
    {"interval", 'i', "seconds", "Time between rounds", nullptr, "60"},
    {"no-probe", 0, {}, "Send what is observed only; probe nobody"},
    {"once", 0, {}, "One round, then end"},
    {"peer", 0, "list", "Another site to measure: NAME=ADDRESS"},
    {"secret-file", 0, "string", "File with the sender's secret in base64"},
    {"sender", 0, "string", "Who we are in the dispatcher's configuration"},
    {"watch-port", 0, "list", "Local TCP ports whose clients' round trips are read from the kernel", check_uint16},
};

Result<std::string> fetch(const std::string& control, const std::string& target) {
    http::Client client(TRY(http::parse_endpoint(control)));
    auto response = TRY(client.send({.method = "GET", .target = target}), control);
    std::string body = TRY(response.read_all(), control);
    if (response.ok()) return body;
    std::string message = body;
    if (auto object = parse_json_object(body))
        if (const json::value* text = object->if_contains("message"); text != nullptr && text->is_string())
            message = std::string(text->get_string());
    return fail(response.status() == 404 ? Code::not_found : Code::invalid_argument, message);
}

std::string number(double value, const char* format = "%.1f") {
    std::array<char, 40> text{};
    (void)std::snprintf(text.data(), text.size(), format, value);
    return text.data();
}

double number_at(const json::value& value, std::string_view path, double fallback) {
    const json::value* found = value_at(value, path);
    if (found == nullptr || !found->is_number()) return fallback;
    return found->to_number<double>();
}

Result<int> explain(Session& session, const Invocation& invocation) {
    std::string control = invocation.options.text("control", default_control);
    QueryText query;
    query.add("name", invocation.arguments[0]).add("client", invocation.arguments[1]);
    std::string body = TRY(fetch(control, "/v1/explain" + query.text()));
    if (invocation.options.flag("json")) {
        session.out(body);
        return 0;
    }
    json::value decision = TRY(parse_json(body));
    std::string table = "\tSITE\tSTATE\tRTT\tBY\tCONFIDENCE\tAGE\tWEIGHT\tPRIORITY\tDISTANCE\n";
    if (const json::value* candidates = value_at(decision, "candidates");
        candidates != nullptr && candidates->is_array())
        for (const json::value& one : candidates->get_array()) {
            double rtt = number_at(one, "rtt_ms", -1);
            double age = number_at(one, "age_s", -1);
            double distance = number_at(one, "distance_km", -1);
            table += std::string(flag_at(one, "chosen") ? "*" : "") + "\t" + text_at(one, "site") + "\t" +
                     (flag_at(one, "up") ? flag_at(one, "drained") ? "drained" : "up" : "down") + "\t" +
                     (rtt < 0 ? "-" : number(rtt) + " ms") + "\t" + text_at(one, "source") + "\t" +
                     number(number_at(one, "confidence", 0), "%.2f") + "\t" +
                     (age < 0 ? "-" : number(age, "%.0f") + " s") + "\t" + number(number_at(one, "weight", 0), "%g") +
                     "\t" + number(number_at(one, "priority", 0), "%.0f") + "\t" +
                     (distance < 0 ? "-" : number(distance, "%.0f") + " km") + "\n";
        }
    session.out(text_at(decision, "name") + " for " + text_at(decision, "client") + ": " + text_at(decision, "why") +
                "\n");
    session.out(align(table, {.minimum_width = 0, .padding = 2}));
    return 0;
}

struct Loaded {
    SteeringConfig steering;
    std::unique_ptr<Geography> geography;  // null: the configuration names no database
    std::unique_ptr<LatencyMap> latency;

    ReplaySide side() const { return {.steering = steering, .latency = *latency, .geography = geography.get()}; }
};

Result<Loaded> load_side(const std::string& path, std::int64_t now) {
    dns::Config config = TRY(dns::load_config(path));
    if (config.steering.empty()) return fail(Code::invalid_argument, path + " has no steering block");
    Loaded loaded{.steering = TRY(parse_steering(config.steering, config.file, config.folder)),
                  .geography = nullptr,
                  .latency = nullptr};
    loaded.latency = std::make_unique<LatencyMap>(loaded.steering.sites.size(), loaded.steering.latency);
    if (!loaded.steering.geo.empty()) {
        loaded.geography = TRY(Geography::open(loaded.steering.geo));
        loaded.latency->geography = geographic_prior(*loaded.geography, loaded.steering.locations());
    }
    if (!loaded.steering.state.empty() && path_exists(loaded.steering.state)) {
        std::string text = TRY(read_file(loaded.steering.state, 1U << 30U));
        if (!loaded.latency->load(text, now))
            return fail(Code::data_loss, loaded.steering.state + " is no file of samples of these sites");
    }
    loaded.latency->summarize(now);
    return loaded;
}

Result<int> replay_log(Session& session, const Invocation& invocation) {
    std::string config = invocation.options.text("config");
    if (config.empty()) return fail(Code::invalid_argument, "--config is wanted");
    std::int64_t now = std::chrono::duration_cast<std::chrono::seconds>(wall_now().time_since_epoch()).count();
    Loaded before = TRY(load_side(config, now));
    Loaded after = TRY(load_side(invocation.options.text("after", config), now));
    std::string log = TRY(read_file(invocation.arguments[0], 1U << 30U));
    Replay result = TRY(replay(log, before.side(), after.side(), invocation.options.split_list("down"), now));
    if (invocation.options.flag("json")) {
        json::array moves;
        for (const Move& move : result.moves)
            moves.push_back({{"name", move.name},
                             {"from", move.from},
                             {"to", move.to},
                             {"queries", move.queries},
                             {"clients", move.clients.size()},
                             {"rtt_change_ms", move.known == 0 ? json::value(nullptr)
                                                               : json::value((move.rtt_after - move.rtt_before) /
                                                                             static_cast<double>(move.known))}});
        session.out(json::serialize(json::object{{"queries", result.queries},
                                                 {"unchanged", result.unchanged},
                                                 {"skipped", result.skipped},
                                                 {"moves", std::move(moves)}}) +
                    "\n");
        return 0;
    }
    std::uint64_t moved = result.queries - result.unchanged;
    session.out(
        std::to_string(result.queries) + " queries, " + std::to_string(moved) + " would be answered otherwise (" +
        number(result.queries == 0 ? 0 : 100.0 * static_cast<double>(moved) / static_cast<double>(result.queries)) +
        "%)" + (result.skipped > 0 ? ", " + std::to_string(result.skipped) + " lines skipped" : "") + "\n");
    if (result.moves.empty()) return 0;
    std::string table = "NAME\tFROM\tTO\tQUERIES\tCLIENTS\tROUND TRIP\tMOST\n";
    for (const Move& move : result.moves) {
        auto most = std::ranges::max_element(move.clients, {}, [](const auto& entry) { return entry.second; });
        double change = move.known == 0 ? 0 : (move.rtt_after - move.rtt_before) / static_cast<double>(move.known);
        table += move.name + "\t" + move.from + "\t" + move.to + "\t" + std::to_string(move.queries) + "\t" +
                 std::to_string(move.clients.size()) + "\t" +
                 (move.known == 0 ? "unknown" : number(change, "%+.1f") + " ms") + "\t" + most->first.to_text() + "\n";
    }
    session.out(align(table, {.minimum_width = 0, .padding = 2}));
    return 0;
}

// Sites and prefixes on a plane: degrees where places are known, else network coordinates.
struct Point {
    double x = 0;
    double y = 0;
    std::string label;
    std::size_t site = 0;  // nearest, for prefixes
    double rtt = -1;
};
struct Picture {
    std::vector<Point> sites;
    std::vector<Point> prefixes;
    std::vector<std::vector<double>> rtt;  // by site: of the prefixes that are nearest to it
};

Result<Picture> picture_of(const json::value& map) {
    Picture picture;
    const json::value* sites = value_at(map, "sites");
    const json::value* cells = value_at(map, "cells");
    if (sites == nullptr || !sites->is_array() || cells == nullptr || !cells->is_array())
        return fail(Code::data_loss, "the dispatcher's answer is no map");
    auto pair_at = [](const json::value& value, std::string_view name, double& first, double& second) {
        const json::value* list = value_at(value, name);
        if (list == nullptr || !list->is_array() || list->get_array().size() < 2 || !list->get_array()[0].is_number() ||
            !list->get_array()[1].is_number())
            return false;
        first = list->get_array()[0].to_number<double>();
        second = list->get_array()[1].to_number<double>();
        return true;
    };
    bool places = !sites->get_array().empty() && std::ranges::all_of(sites->get_array(), [&](const json::value& site) {
        double north = 0;
        double east = 0;
        return pair_at(site, "location", north, east);
    });
    for (const json::value& site : sites->get_array()) {
        Point point{.label = text_at(site, "site")};
        double first = 0;
        double second = 0;
        if (pair_at(site, places ? "location" : "coordinate", first, second)) {
            point.x = places ? second : first;
            point.y = places ? -first : second;
        }
        picture.sites.push_back(std::move(point));
    }
    picture.rtt.resize(picture.sites.size());
    for (const json::value& cell : cells->get_array()) {
        const json::value* list = value_at(cell, "rtt_ms");
        if (list == nullptr || !list->is_array()) continue;
        Point point{.label = text_at(cell, "prefix")};
        for (std::size_t i = 0; i < list->get_array().size() && i < picture.sites.size(); ++i) {
            const json::value& value = list->get_array()[i];
            if (!value.is_number()) continue;
            double rtt = value.to_number<double>();
            if (point.rtt < 0 || rtt < point.rtt) point.rtt = rtt, point.site = i;
        }
        if (point.rtt < 0) continue;
        double north = 0;
        double east = 0;
        if (places && pair_at(cell, "location", north, east)) {
            point.x = east;
            point.y = -north;
        } else {
            // Around its site, as far as its round trip; the angle is the prefix's own.
            double angle = static_cast<double>(std::hash<std::string>()(point.label) % 6283) / 1000;
            double scale = places ? 0.15 : 0.5;
            point.x = picture.sites[point.site].x + std::cos(angle) * point.rtt * scale;
            point.y = picture.sites[point.site].y + std::sin(angle) * point.rtt * scale;
        }
        picture.rtt[point.site].push_back(point.rtt);
        picture.prefixes.push_back(std::move(point));
    }
    return picture;
}

struct Frame {
    double left = 0, right = 1, top = 0, bottom = 1;
    explicit Frame(const Picture& picture) {
        bool first = true;
        for (const auto* list : {&picture.sites, &picture.prefixes})
            for (const Point& point : *list) {
                left = first ? point.x : std::min(left, point.x);
                right = first ? point.x : std::max(right, point.x);
                top = first ? point.y : std::min(top, point.y);
                bottom = first ? point.y : std::max(bottom, point.y);
                first = false;
            }
        if (right - left < 1) right = left + 1;
        if (bottom - top < 1) bottom = top + 1;
    }
    double x(const Point& point) const { return (point.x - left) / (right - left); }
    double y(const Point& point) const { return (point.y - top) / (bottom - top); }
};

std::string escape(std::string_view text) {
    std::string result;
    for (char c : text) {
        if (c == '<')
            result += "&lt;";
        else if (c == '>')
            result += "&gt;";
        else if (c == '&')
            result += "&amp;";
        else
            result += c;
    }
    return result;
}

double median(std::vector<double> values) {
    if (values.empty()) return -1;
    std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
    return values[values.size() / 2];
}

std::string svg_of(const Picture& picture) {
    Frame frame(picture);
    constexpr std::array<const char*, 8> colours = {"#1b6", "#36c", "#c63", "#939", "#088", "#b80", "#c33", "#666"};
    auto x = [&](const Point& point) { return number(40 + 880 * frame.x(point)); };
    auto y = [&](const Point& point) { return number(40 + 480 * frame.y(point)); };
    std::string svg =
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"960\" height=\"600\" font-family=\"sans-serif\" "
        "font-size=\"12\">\n"
        "<rect width=\"960\" height=\"600\" fill=\"#fafafa\"/>\n";
    for (const Point& point : picture.prefixes) {
        const char* colour = colours[point.site % colours.size()];
        const Point& site = picture.sites[point.site];
        svg += "<line x1=\"" + x(point) + "\" y1=\"" + y(point) + "\" x2=\"" + x(site) + "\" y2=\"" + y(site) +
               "\" stroke=\"" + colour + "\" stroke-opacity=\"0.15\"/>\n";
        svg += "<circle cx=\"" + x(point) + "\" cy=\"" + y(point) + "\" r=\"3\" fill=\"" + colour + "\"><title>" +
               escape(point.label) + " " + number(point.rtt) + " ms to " + escape(site.label) + "</title></circle>\n";
    }
    for (std::size_t i = 0; i < picture.sites.size(); ++i) {
        const Point& site = picture.sites[i];
        svg += "<circle cx=\"" + x(site) + "\" cy=\"" + y(site) + "\" r=\"8\" fill=\"" +
               std::string(colours[i % colours.size()]) + "\" stroke=\"#000\"/>\n";
        double middle = median(picture.rtt[i]);
        svg += "<text x=\"" + number(52 + 880 * frame.x(site)) + "\" y=\"" + number(44 + 480 * frame.y(site)) + "\">" +
               escape(site.label) + ": " + std::to_string(picture.rtt[i].size()) + " prefixes" +
               (middle < 0 ? "" : ", " + number(middle) + " ms") + "</text>\n";
    }
    return svg + "</svg>\n";
}

std::string drawing_of(const Picture& picture) {
    constexpr std::size_t width = 78;
    constexpr std::size_t height = 20;
    Frame frame(picture);
    std::vector<std::string> lines(height, std::string(width, ' '));
    auto put = [&](const Point& point, char c) {
        auto column = static_cast<std::size_t>(frame.x(point) * (width - 1));
        auto row = static_cast<std::size_t>(frame.y(point) * (height - 1));
        lines[std::min(row, height - 1)][std::min(column, width - 1)] = c;
    };
    // Prefixes in small letters, their site in capitals.
    for (const Point& point : picture.prefixes) put(point, static_cast<char>('a' + point.site % 26));
    for (std::size_t i = 0; i < picture.sites.size(); ++i) put(picture.sites[i], static_cast<char>('A' + i % 26));
    std::string text;
    for (const std::string& line : lines) text += line + "\n";
    std::string table = "\tSITE\tPREFIXES\tMEDIAN\tWORST\n";
    for (std::size_t i = 0; i < picture.sites.size(); ++i) {
        const auto& values = picture.rtt[i];
        table +=
            std::string(1, static_cast<char>('A' + i % 26)) + "\t" + picture.sites[i].label + "\t" +
            std::to_string(values.size()) + "\t" +
            (values.empty() ? "-\t-\n"
                            : number(median(values)) + " ms\t" + number(*std::ranges::max_element(values)) + " ms\n");
    }
    return text + align(table, {.minimum_width = 0, .padding = 2});
}

Result<int> draw_map(Session& session, const Invocation& invocation) {
    json::value map = TRY(parse_json(TRY(fetch(invocation.options.text("control", default_control), "/v1/map"))));
    Picture picture = TRY(picture_of(map));
    std::string output = invocation.options.text("output");
    if (output.empty()) {
        session.out(drawing_of(picture));
        return 0;
    }
    TRY(write_file_atomic(output, svg_of(picture), 0644, Durability::none));
    return 0;
}

Result<int> run_agent(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    dns::tools::AgentOptions agent;
    agent.server = options.text("control", default_control);
    agent.sender = options.text("sender");
    if (agent.sender.empty() || !options.given("secret-file"))
        return fail(Code::invalid_argument, "--sender and --secret-file are wanted");
    std::string secret = TRY(read_file(options.text("secret-file"), 4096));
    while (!secret.empty() && (secret.back() == '\n' || secret.back() == '\r' || secret.back() == ' '))
        secret.pop_back();
    agent.secret = TRY(base64_decode(secret), options.text("secret-file"));
    agent.probe = !options.flag("no-probe");
    agent.interval = TRY(parse_seconds(options.text("interval", "60"), "interval"));
    for (const std::string& peer : options.split_list("peer")) {
        auto equals = peer.find('=');
        if (equals == std::string::npos) return fail(Code::invalid_argument, "--peer takes NAME=ADDRESS");
        agent.peers.emplace_back(peer.substr(0, equals),
                                 TRY(dns::SocketAddress::parse(peer.substr(equals + 1), 0), "--peer"));
    }
    for (const std::string& port : options.split_list("watch-port"))
        agent.watched_ports.push_back(static_cast<std::uint16_t>(std::stoul(port)));
    Interruption interruption;
    while (!Interruption::happened()) {
        std::int64_t began = monotonic_ns();
        auto outcome = dns::tools::agent_round(agent, Interruption::happened);
        if (outcome)
            session.out(std::to_string(outcome->observed) + " observed, " + std::to_string(outcome->probed) +
                        " probed, " + std::to_string(outcome->taken) + " taken\n");
        else if (options.flag("once"))
            return std::unexpected<Error>(std::move(outcome).error());
        else
            session.report(outcome.error());
        session.flush();
        if (options.flag("once")) break;
        std::int64_t until = began + std::chrono::nanoseconds(agent.interval).count();
        while (!Interruption::happened() && monotonic_ns() < until) (void)::poll(nullptr, 0, 100);
    }
    return 0;
}

}  // namespace

void add_dns_dispatch_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"dns explain"},
         .usage = "[OPTIONS] NAME CLIENT",
         .summary = "Say which site answers a client and why",
         .example = "wherry dns explain www.example.org 198.51.100.0/24",
         .options = explain_options,
         .minimum = 2,
         .maximum = 2,
         .run = explain},
        {.names = {"dns replay"},
         .usage = "[OPTIONS] LOG",
         .summary = "Run a recorded query log against a changed configuration and show what would move",
         .example = "wherry dns replay --config dns.conf --after new.conf queries.log\nwherry dns replay --config "
                    "dns.conf --down oregon queries.log",
         .options = replay_options,
         .minimum = 1,
         .maximum = 1,
         .run = replay_log},
        {.names = {"dns map"},
         .usage = "[OPTIONS]",
         .summary = "Draw sites, client prefixes and round trips",
         .example = "wherry dns map\nwherry dns map -o map.svg",
         .options = map_options,
         .maximum = 0,
         .run = draw_map},
        {.names = {"dns agent"},
         .usage = "[OPTIONS]",
         .summary = "Measure round trips at a site and tell the dispatcher",
         .example = "wherry dns agent --sender probe1 --secret-file secret --watch-port 443 --peer oregon=192.0.2.2",
         .options = agent_options,
         .maximum = 0,
         .run = run_agent},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
