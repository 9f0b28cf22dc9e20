// dns trace and dns ping: the path to a target hop by hop, and round trips to it.
#include <netinet/in.h>
#include <poll.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <cstdio>
#include <map>
#include <thread>

#include "base/clock.hpp"
#include "cli/command.hpp"
#include "cli/dns_words.hpp"
#include "cli/session.hpp"
#include "cli/table.hpp"
#include "dns/tools/path.hpp"
#include "dns/tools/present.hpp"

namespace wherry::cli {

namespace {

namespace json = boost::json;
using dns::SocketAddress;
using namespace dns::tools;

constexpr Option trace_options[] = {
    {"count", 'c', "number", "Rounds (default 3; with --live: until Ctrl-C)"},
    {"first-hop", 'f', "number", "Begin with this hop", nullptr, "1"},
    {"icmp", 'I', {}, "Probe by ICMP echo"},
    {"interval", 'i', "seconds", "With --live: time between rounds", nullptr, "1"},
    {"ipv4", '4', {}, "Use IPv4"},
    {"ipv6", '6', {}, "Use IPv6"},
    {"json", 0, {}, "Print the path as JSON"},
    {"live", 'l', {}, "Show loss and times of every hop, growing, as mtr does"},
    {"max-hops", 'm', "number", "Stop at this hop", nullptr, "30"},
    {"no-names", 'n', {}, "Show addresses only"},
    {"port", 'p', "number", "Port of the UDP (default 33434) or TCP (default 80) probes", check_uint16},
    {"tcp", 'T', {}, "Probe by TCP SYN"},
    {"udp", 'U', {}, "Probe by UDP (the default)"},
    {"wait", 'w', "seconds", "How long to wait for each answer", nullptr, "1"},
};

constexpr Option ping_options[] = {
    {"count", 'c', "number", "Probes to send (default: until Ctrl-C)"},
    {"interval", 'i', "seconds", "Time between probes", nullptr, "1"},
    {"ipv4", '4', {}, "Use IPv4"},
    {"ipv6", '6', {}, "Use IPv6"},
    {"json", 0, {}, "Print the sum as JSON"},
    {"quiet", 'q', {}, "Print the sum only"},
    {"size", 's', "number", "Bytes of data", nullptr, "56"},
    {"tcp", 'T', "port", "Measure connections to this TCP port, where ICMP says nothing", check_uint16},
    {"ttl", 't', "number", "Hops that a probe may go", nullptr, "64"},
    {"wait", 'W', "seconds", "How long to wait for each answer", nullptr, "1"},
};

// Reverse names, asked of the system's resolvers all at once and kept.
class Names {
  public:
    explicit Names(bool wanted) : wanted_(wanted) {
        if (wanted) servers_ = system_resolvers().servers;
    }

    void learn(const std::vector<std::string>& addresses) {
        if (!wanted_) return;
        std::vector<std::string> unknown;
        for (const std::string& address : addresses)
            if (!names_.contains(address) && std::ranges::find(unknown, address) == unknown.end())
                unknown.push_back(address);
        std::vector<std::string> found(unknown.size());
        {
            std::vector<std::jthread> threads;
            for (std::size_t i = 0; i < unknown.size(); ++i)
                threads.emplace_back([&, i] { found[i] = ask_name(unknown[i]); });
        }
        for (std::size_t i = 0; i < unknown.size(); ++i) names_[unknown[i]] = found[i];
    }

    // "name (address)", or the address alone.
    std::string show(const std::string& address) const {
        auto found = names_.find(address);
        return found == names_.end() || found->second.empty() ? address : found->second + " (" + address + ")";
    }
    std::string name(const std::string& address) const {
        auto found = names_.find(address);
        return found == names_.end() ? "" : found->second;
    }

  private:
    std::string ask_name(const std::string& text) const {
        auto address = SocketAddress::parse(text, 0);
        if (!address || servers_.empty()) return "";
        QueryOptions options;
        options.timeout = std::chrono::milliseconds(1000);
        options.tries = 1;
        auto answer = ask(servers_.front(), {.name = reverse_name(*address), .type = dns::Type::PTR}, options);
        if (!answer) return "";
        auto message = Message::parse(answer->packet);
        if (!message) return "";
        for (const Record& record : message->answers)
            if (record.type == dns::Type::PTR) {
                std::string name = record.value();
                if (name.size() > 1 && name.ends_with('.')) name.pop_back();
                return name;
            }
        return "";
    }

    bool wanted_;
    std::vector<SocketAddress> servers_;
    std::map<std::string, std::string> names_;
};

std::string number(double value, int digits) {
    std::array<char, 40> text{};
    (void)std::snprintf(text.data(), text.size(), "%.*f", digits, value);
    return text.data();
}

// traceroute's marks for what a router says instead of "time exceeded".
std::string mark(const HopReply& reply, int family) {
    if (reply.kind != ProbeReply::Kind::unreachable) return "";
    if (family == AF_INET) switch (reply.code) {
            case 0:
                return " !N";
            case 1:
                return " !H";
            case 2:
                return " !P";
            case 9:
            case 10:
            case 13:
                return " !X";
            default:
                return " !" + std::to_string(reply.code);
        }
    switch (reply.code) {
        case 0:
            return " !N";
        case 1:
            return " !X";
        case 3:
            return " !H";
        default:
            return " !" + std::to_string(reply.code);
    }
}

std::vector<std::string> addresses_of(const Path& path) {
    std::vector<std::string> found;
    for (const Hop& hop : path.hops())
        for (const auto& [address, count] : hop.addresses) found.push_back(address);
    return found;
}

std::string hop_line(const Hop& hop, const Names& names, int family) {
    std::string line = (hop.number < 10 ? " " : "") + std::to_string(hop.number) + " ";
    std::string last;
    for (const auto& probe : hop.probes) {
        if (!probe) {
            line += " *";
            continue;
        }
        std::string address = probe->from.host();
        if (address != last) line += " " + names.show(address);
        last = address;
        line += "  " + milliseconds(static_cast<double>(probe->time)) + " ms" + mark(*probe, family);
    }
    return line + "\n";
}

std::string live_table(const Path& path, const Names& names) {
    std::string table = "HOP\tHOST\tLOSS\tSENT\tLAST\tAVG\tBEST\tWORST\tJITTER\n";
    for (const Hop& hop : path.hops()) {
        const RoundTrips& times = hop.times;
        std::string hosts;
        for (const auto& [address, count] : hop.addresses) hosts += (hosts.empty() ? "" : ", ") + names.show(address);
        table += std::to_string(hop.number) + "\t" + (hosts.empty() ? "???" : hosts) + "\t" +
                 number(times.loss() * 100, 1) + "%\t" + std::to_string(times.sent());
        if (times.received() == 0)
            table += "\t-\t-\t-\t-\t-\n";
        else
            for (double value : {static_cast<double>(times.last()), times.average(), static_cast<double>(times.best()),
                                 static_cast<double>(times.worst()), times.jitter()})
                table += "\t" + milliseconds(value, 2);
        if (times.received() != 0) table += "\n";
    }
    return align(table, {.minimum_width = 0, .padding = 2});
}

json::object path_json(const Path& path, const Names& names, const std::string& asked, const PathOptions& options) {
    json::array hops;
    for (const Hop& hop : path.hops()) {
        json::array hosts;
        for (const auto& [address, count] : hop.addresses)
            hosts.push_back({{"address", address}, {"name", names.name(address)}, {"answers", count}});
        json::array probes;
        for (const auto& probe : hop.probes)
            if (probe)
                probes.push_back({{"address", probe->from.host()},
                                  {"ms", static_cast<double>(probe->time) / 1e6},
                                  {"mark", mark(*probe, path.target().family())}});
            else
                probes.push_back(nullptr);
        hops.push_back({{"hop", hop.number},
                        {"hosts", std::move(hosts)},
                        {"sent", hop.times.sent()},
                        {"received", hop.times.received()},
                        {"loss", hop.times.loss()},
                        {"last_ms", static_cast<double>(hop.times.last()) / 1e6},
                        {"average_ms", hop.times.average() / 1e6},
                        {"best_ms", static_cast<double>(hop.times.best()) / 1e6},
                        {"worst_ms", static_cast<double>(hop.times.worst()) / 1e6},
                        {"jitter_ms", hop.times.jitter() / 1e6},
                        {"probes", std::move(probes)}});
    }
    return {{"target", asked},
            {"address", path.target().host()},
            {"protocol", to_string(options.protocol)},
            {"reached", path.reached()},
            {"hops", std::move(hops)}};
}

Result<PathOptions> path_options(const ParsedOptions& options) {
    PathOptions path;
    int chosen = static_cast<int>(options.flag("icmp")) + static_cast<int>(options.flag("tcp")) +
                 static_cast<int>(options.flag("udp"));
    if (chosen > 1) return fail(Code::invalid_argument, "--icmp, --tcp and --udp exclude one another");
    if (options.flag("icmp")) path.protocol = ProbeProtocol::icmp;
    if (options.flag("tcp")) path.protocol = ProbeProtocol::tcp;
    path.probe.port = static_cast<std::uint16_t>(TRY(parse_number(options, "port", 0, 1, 65535)));
    path.first_hop = TRY(parse_number(options, "first-hop", 1, 1, 255));
    path.most_hops = TRY(parse_number(options, "max-hops", 30, 1, 255));
    if (path.first_hop > path.most_hops) return fail(Code::invalid_argument, "--first-hop is beyond --max-hops");
    if (options.given("wait")) path.wait = TRY(parse_seconds(options.text("wait"), "wait"));
    return path;
}

// Waits for the next round, ended by a signal.
void pause_until(std::int64_t until) {
    while (!Interruption::happened() && monotonic_ns() < until) {
        auto left = std::min<std::int64_t>(until - monotonic_ns(), 100'000'000);
        (void)::poll(nullptr, 0, static_cast<int>(left / 1'000'000) + 1);
    }
}

Result<int> live_trace(Session& session, Path& path, Names& names, unsigned rounds, std::chrono::milliseconds interval,
                       const std::string& title) {
    bool screen = session.stdout_is_terminal();
    for (unsigned round = 0; (rounds == 0 || round < rounds) && !Interruption::happened(); ++round) {
        std::int64_t began = monotonic_ns();
        TRY(path.round(Interruption::happened));
        names.learn(addresses_of(path));
        if (screen) {
            // Home, the table, and everything below it cleared.
            session.out("\x1b[H\x1b[2J" + title + "\n" + live_table(path, names));
            session.flush();
        }
        if (rounds == 0 || round + 1 < rounds) pause_until(began + std::chrono::nanoseconds(interval).count());
    }
    if (!screen) session.out(title + "\n" + live_table(path, names));
    return path.reached() ? 0 : 1;
}

Result<int> trace(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    PathOptions chosen = TRY(path_options(options));
    bool live = options.flag("live");
    bool as_json = options.flag("json");
    unsigned rounds = TRY(parse_number(options, "count", live ? 0 : 3, 1, 1'000'000));
    auto interval = TRY(parse_seconds(options.text("interval", "1"), "interval"));
    if (!live) chosen.kept_probes = std::min(rounds, 1000U);
    const std::string& asked = invocation.arguments[0];
    SocketAddress target = TRY(system_addresses(asked, chosen_family(options), 0)).front();
    Path path = TRY(Path::open(target, chosen));
    Names names(!options.flag("no-names"));
    Interruption interruption;
    std::string title = asked + " (" + target.host() + ") by " + std::string(to_string(chosen.protocol)) +
                        ", at most " + std::to_string(chosen.most_hops) + " hops";
    if (live && !as_json) return live_trace(session, path, names, rounds, interval, title);
    for (unsigned round = 0; round < std::max(rounds, 1U) && !Interruption::happened(); ++round)
        TRY(path.round(Interruption::happened));
    names.learn(addresses_of(path));
    if (as_json) {
        session.out(json::serialize(path_json(path, names, asked, chosen)) + "\n");
    } else {
        session.out(title + "\n");
        for (const Hop& hop : path.hops()) session.out(hop_line(hop, names, target.family()));
    }
    return path.reached() ? 0 : 1;
}

std::string describe(const PingReply& reply, std::size_t bytes, bool tcp, std::uint16_t port) {
    std::string from = reply.reply.from.host();
    std::string sequence = "seq=" + std::to_string(reply.sequence);
    if (reply.reply.kind == ProbeReply::Kind::time_exceeded)
        return "from " + from + ": " + sequence + " time to live exceeded\n";
    if (reply.reply.kind == ProbeReply::Kind::unreachable)
        return "from " + from + ": " + sequence + " unreachable (code " + std::to_string(reply.reply.code) + ")\n";
    std::string ttl = reply.reply.hops_left >= 0 ? " ttl=" + std::to_string(reply.reply.hops_left) : "";
    std::string what = tcp ? "port " + std::to_string(port) + " of " : std::to_string(bytes + 8) + " bytes from ";
    return what + from + ": " + sequence + ttl + " time=" + milliseconds(static_cast<double>(reply.time)) + " ms\n";
}

Result<int> ping_target(Session& session, const Invocation& invocation) {
    const ParsedOptions& options = invocation.options;
    PingOptions chosen;
    chosen.count = TRY(parse_number(options, "count", 0, 1, 1'000'000));
    chosen.interval = TRY(parse_seconds(options.text("interval", "1"), "interval"));
    chosen.wait = TRY(parse_seconds(options.text("wait", "1"), "wait"));
    chosen.hops = TRY(parse_number(options, "ttl", 64, 1, 255));
    chosen.probe.data_bytes = TRY(parse_number(options, "size", 56, 4, 1400));
    bool tcp = options.given("tcp");
    if (tcp) {
        chosen.protocol = ProbeProtocol::tcp;
        chosen.probe.port = static_cast<std::uint16_t>(TRY(parse_number(options, "tcp", 0, 1, 65535)));
        chosen.probe.allow_raw = false;
    }
    const std::string& asked = invocation.arguments[0];
    SocketAddress target = TRY(system_addresses(asked, chosen_family(options), 0)).front();
    bool as_json = options.flag("json");
    bool quiet = options.flag("quiet") || as_json;
    Interruption interruption;
    if (!quiet) session.out("PING " + asked + " (" + target.host() + ")\n");
    session.flush();
    RoundTrips times = TRY(ping(
        target, chosen,
        [&](const PingReply& reply) {
            if (quiet) return;
            session.out(describe(reply, chosen.probe.data_bytes, tcp, chosen.probe.port));
            session.flush();
        },
        Interruption::happened));
    if (as_json) {
        session.out(json::serialize(json::object{{"target", asked},
                                                 {"address", target.host()},
                                                 {"protocol", to_string(chosen.protocol)},
                                                 {"sent", times.sent()},
                                                 {"received", times.received()},
                                                 {"loss", times.loss()},
                                                 {"best_ms", static_cast<double>(times.best()) / 1e6},
                                                 {"average_ms", times.average() / 1e6},
                                                 {"worst_ms", static_cast<double>(times.worst()) / 1e6},
                                                 {"deviation_ms", times.deviation() / 1e6},
                                                 {"jitter_ms", times.jitter() / 1e6}}) +
                    "\n");
    } else {
        session.out("\n" + std::to_string(times.sent()) + " sent, " + std::to_string(times.received()) + " received, " +
                    number(times.loss() * 100, times.loss() > 0 && times.loss() < 1 ? 1 : 0) + "% loss\n");
        if (times.received() > 0)
            session.out("round trip min/avg/max/dev/jitter = " + milliseconds(static_cast<double>(times.best())) + "/" +
                        milliseconds(times.average()) + "/" + milliseconds(static_cast<double>(times.worst())) + "/" +
                        milliseconds(times.deviation()) + "/" + milliseconds(times.jitter()) + " ms\n");
    }
    return times.received() > 0 ? 0 : 1;
}

}  // namespace

void add_dns_path_verbs(std::vector<const Command*>& all) {
    static const Command table[] = {
        {.names = {"dns trace"},
         .usage = "[OPTIONS] HOST",
         .summary = "Show the path to a host, hop by hop, with loss and times",
         .example = "wherry dns trace example.org\nwherry dns trace --live --icmp example.org",
         .options = trace_options,
         .minimum = 1,
         .maximum = 1,
         .run = trace,
         .details = "All probes are one flow to routers that balance by flow, so that the hops shown are one path. UDP "
                    "needs no privilege; ICMP "
                    "and TCP use raw sockets where allowed,\nelse ping sockets and connections. Exit code: 0 when the "
                    "host was reached, 1 when not."},
        {.names = {"dns ping"},
         .usage = "[OPTIONS] HOST",
         .summary = "Measure round trips to a host",
         .example = "wherry dns ping -c 5 example.org\nwherry dns ping --tcp 443 example.org",
         .options = ping_options,
         .minimum = 1,
         .maximum = 1,
         .run = ping_target},
    };
    for (const Command& command : table) all.push_back(&command);
}

}  // namespace wherry::cli
