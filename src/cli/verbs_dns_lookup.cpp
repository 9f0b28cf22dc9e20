// dns lookup: names to addresses and back, by any server, from the root, or ranked by distance.
#include <netinet/in.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <map>

#include "cli/command.hpp"
#include "cli/dns_words.hpp"
#include "cli/session.hpp"
#include "cli/table.hpp"
#include "dns/tools/iterate.hpp"
#include "dns/tools/present.hpp"
#include "dns/tools/rank.hpp"

namespace wherry::cli {

namespace {

namespace json = boost::json;
using namespace dns;
using namespace dns::tools;

constexpr int exit_no_answer = 9;  // dig's code for no reply from any server

constexpr Option lookup_options[] = {
    {"cd", 0, {}, "Ask a validating server not to check signatures (CD)"},
    {"dnssec", 0, {}, "Ask for signatures too (EDNS DO)"},
    {"ipv4", '4', {}, "Use servers' IPv4 addresses only"},
    {"ipv6", '6', {}, "Use servers' IPv6 addresses only"},
    {"json", 0, {}, "Print answers as JSON"},
    {"no-edns", 0, {}, "Send a query without EDNS"},
    {"no-recurse", 0, {}, "Ask for what the server itself knows (without RD)"},
    {"nsid", 0, {}, "Ask for the server's identifier"},
    {"port", 'p', "number", "The server's port (default 53, with --tls 853)", check_uint16},
    {"rank", 0, {}, "Measure the round trip to every address of the name, and name the best"},
    {"rank-port", 0, "number", "TCP port that --rank measures", check_uint16, "443"},
    {"root", 0, "list", "With --trace: servers of the root zone, instead of the thirteen well-known ones"},
    {"server", 's', "string", "The server to ask, by address or name; the same as @SERVER (default: /etc/resolv.conf)"},
    {"short", 0, {}, "Print the answers' values only"},
    {"subnet", 0, "string", "Ask on behalf of a client in this prefix (RFC 7871): ADDRESS/PREFIX"},
    {"tcp", 0, {}, "Ask by TCP"},
    {"timeout", 0, "seconds", "How long to wait for an answer to each try", nullptr, "3"},
    {"tls", 0, {}, "Ask by TLS (RFC 7858)"},
    {"tls-ca", 0, "string", "Trust the certificates of this PEM file only"},
    {"tls-name", 0, "string", "With --tls: the name that the server's certificate must have"},
    {"trace", 0, {}, "Go down from the root, showing every step"},
    {"tries", 0, "number", "Queries sent by UDP before giving up", nullptr, "3"},
    {"type", 't', "string", "Type of the records wanted: A, AAAA, MX, TXT, TYPE65, AXFR ... (default A and AAAA)"},
};

// dig's words for what our options say.
struct Word {
    std::string_view word;
    std::string_view option;
    bool with_value = false;
};
constexpr Word words[] = {{"tcp", "tcp"},
                          {"vc", "tcp"},
                          {"tls", "tls"},
                          {"dnssec", "dnssec"},
                          {"do", "dnssec"},
                          {"nsid", "nsid"},
                          {"short", "short"},
                          {"trace", "trace"},
                          {"norecurse", "no-recurse"},
                          {"norec", "no-recurse"},
                          {"cd", "cd"},
                          {"cdflag", "cd"},
                          {"noedns", "no-edns"},
                          {"json", "json"},
                          {"rank", "rank"},
                          {"subnet", "subnet", true},
                          {"time", "timeout", true},
                          {"timeout", "timeout", true},
                          {"tries", "tries", true},
                          {"tls-host", "tls-name", true},
                          {"tls-hostname", "tls-name", true},
                          {"tls-ca", "tls-ca", true}};

Result<> add_word(ParsedOptions& options, std::string_view text) {
    std::string_view name = text.substr(0, text.find('='));
    for (const Word& word : words) {
        if (word.word != name) continue;
        bool has_value = name.size() < text.size();
        if (word.with_value != has_value)
            return fail(Code::invalid_argument,
                        "+" + std::string(name) +
                            (word.with_value ? " needs a value: +" + std::string(name) + "=…" : " takes no value"));
        options.add(word.option, has_value ? std::string(text.substr(name.size() + 1)) : "true");
        return {};
    }
    return fail(Code::invalid_argument, "unknown option +" + std::string(text) + "; see wherry dns lookup --help");
}

struct Request {
    ParsedOptions options;
    QueryOptions query;
    std::vector<SocketAddress> servers;
    std::vector<Name> names;  // in the order they are tried
    std::vector<Type> types;
    bool type_given = false;
};

Result<QueryOptions> query_options(const ParsedOptions& options) {
    QueryOptions query;
    query.dnssec_ok = options.flag("dnssec");
    query.checking_disabled = options.flag("cd");
    query.recursion_desired = !options.flag("no-recurse");
    query.authentic_data = query.recursion_desired;
    query.edns = !options.flag("no-edns");
    query.ask_nsid = options.flag("nsid");
    if (options.flag("tcp")) query.transport = dns::tools::Transport::tcp;
    if (options.flag("tls")) query.transport = dns::tools::Transport::tls;
    query.tls_name = options.text("tls-name");
    query.tls_authorities = options.text("tls-ca");
    if (options.given("subnet")) query.subnet = TRY(ClientSubnet::parse(options.text("subnet")), "--subnet");
    if (options.given("timeout")) query.timeout = TRY(parse_seconds(options.text("timeout"), "timeout"));
    query.tries = TRY(parse_number(options, "tries", 3, 1, 20));
    return query;
}

Result<std::vector<SocketAddress>> servers_of(const ParsedOptions& options, const std::string& named,
                                              const ResolverConfiguration& system) {
    bool tls = options.flag("tls");
    auto standard = static_cast<std::uint16_t>(tls ? 853 : 53);
    std::uint16_t port =
        options.given("port") ? static_cast<std::uint16_t>(TRY(parse_number(options, "port", 53, 1, 65535))) : standard;
    std::vector<SocketAddress> servers;
    if (named.empty()) {
        for (SocketAddress server : system.servers) {
            if (int family = chosen_family(options); family != AF_UNSPEC && server.family() != family) continue;
            server.set_port(port);
            servers.push_back(server);
        }
        if (servers.empty()) return fail(Code::not_found, "/etc/resolv.conf names no server of this family");
        return servers;
    }
    if (auto address = SocketAddress::parse(named, port)) return std::vector{*address};
    return system_addresses(named, chosen_family(options), port);
}

Result<Request> read_request(const Invocation& invocation) {
    Request request;
    request.options = invocation.options;
    std::string server = invocation.options.text("server");
    std::vector<std::string> plain;
    for (const std::string& argument : invocation.arguments) {
        if (argument.starts_with('@'))
            server = argument.substr(1);
        else if (argument.starts_with('+'))
            TRY(add_word(request.options, std::string_view(argument).substr(1)));
        else
            plain.push_back(argument);
    }
    if (plain.empty()) return fail(Code::invalid_argument, "a name or an address is wanted");
    std::string type_text = request.options.text("type");
    for (std::size_t i = 1; i < plain.size(); ++i) {
        if (!type_text.empty() || !parse_type(plain[i]))
            return fail(Code::invalid_argument, "unexpected argument \"" + plain[i] + "\"");
        type_text = plain[i];
    }
    if (!type_text.empty()) {
        auto type = parse_type(type_text);
        if (!type) return fail(Code::invalid_argument, "unknown record type \"" + type_text + "\"");
        request.types.push_back(*type);
        request.type_given = true;
    }
    request.query = TRY(query_options(request.options));
    ResolverConfiguration system = system_resolvers();
    request.servers = TRY(servers_of(request.options, server, system), server.empty() ? "server" : "server " + server);
    if (auto address = SocketAddress::parse(plain[0], 0); address && address->port() == 0) {
        request.names.push_back(reverse_name(*address));
        if (request.types.empty()) request.types.push_back(Type::PTR);
        request.type_given = true;
        return request;
    }
    Name name = TRY(Name::parse(plain[0]), "\"" + plain[0] + "\"");
    bool relative = !plain[0].ends_with('.') && !request.options.flag("trace");
    bool few_dots = name.label_count() <= system.ndots;
    std::vector<Name> completed;
    if (relative)
        for (const Name& domain : system.search)
            if (auto whole = Name::parse(plain[0], &domain)) completed.push_back(*whole);
    if (!few_dots) request.names.push_back(name);
    if (few_dots) request.names.insert(request.names.end(), completed.begin(), completed.end());
    if (few_dots) request.names.push_back(name);
    if (request.types.empty()) request.types = {Type::A, Type::AAAA};
    return request;
}

struct Found {
    Answer answer;
    Message message;
};

// The first server that answers with something to go by; SERVFAIL and REFUSED send us to the next.
Result<Found> ask_servers(const Request& request, const Question& question) {
    std::optional<Found> last;
    std::string problems;
    for (const SocketAddress& server : request.servers) {
        auto answer = ask(server, question, request.query);
        if (!answer) {
            problems += (problems.empty() ? "" : "; ") + answer.error().describe();
            continue;
        }
        auto message = Message::parse(answer->packet);
        if (!message) {
            problems += (problems.empty() ? "" : "; ") + server.to_text() + ": " + message.error().describe();
            continue;
        }
        bool usable = message->code() == Rcode::NOERROR || message->code() == Rcode::NXDOMAIN;
        last = Found{.answer = std::move(*answer), .message = std::move(*message)};
        if (usable) break;
    }
    if (last) return std::move(*last);
    return fail(Code::unavailable, problems);
}

bool has_answer(const Found& found) {
    return found.message.code() == Rcode::NOERROR && !found.message.answers.empty();
}

// All questions about the first name that exists.
Result<std::vector<Found>> ask_all(const Request& request) {
    std::vector<Found> last;
    for (const Name& name : request.names) {
        std::vector<Found> found;
        for (Type type : request.types) found.push_back(TRY(ask_servers(request, {.name = name, .type = type})));
        bool answered = std::ranges::any_of(found, has_answer);
        last = std::move(found);
        if (answered) break;
    }
    return last;
}

std::string record_text(const Record& record) {
    return record.name.to_text() + "\t" + std::to_string(record.ttl) + "\t" + to_string(record.type) + "\t" +
           record.value() + "\n";
}

// A name without a type: its addresses and the aliases on the way, in few lines.
void print_plain(Session& session, const std::vector<Found>& found) {
    std::string table;
    for (const Found& one : found)
        for (const Record& record : one.message.answers) {
            std::string line = record_text(record);
            if (table.find(line) == std::string::npos) table += line;
        }
    session.out(align(table, {.minimum_width = 0, .padding = 2}));
    const Answer& answer = found.front().answer;
    session.out(";; from " + answer.server.to_text() + " by " + std::string(to_string(answer.transport)) + " in " +
                milliseconds(static_cast<double>(answer.time.count()), 1) + " ms\n");
}

std::string denial(const Message& message, const Name& name) {
    if (message.code() == Rcode::NXDOMAIN) return name.to_text() + ": there is no such name (NXDOMAIN)";
    if (message.code() != Rcode::NOERROR) return name.to_text() + ": the server answered " + to_string(message.code());
    return name.to_text() + ": no such records";
}

Result<int> trace_down(Session& session, const Request& request) {
    IterateOptions options;
    options.query = request.query;
    options.ipv6 = chosen_family(request.options) != AF_INET;
    options.port = request.options.given("port")
                       ? static_cast<std::uint16_t>(TRY(parse_number(request.options, "port", 53, 1, 65535)))
                       : std::uint16_t{53};
    for (const std::string& root : request.options.split_list("root"))
        options.roots.push_back(TRY(SocketAddress::parse(root, options.port), "--root"));
    bool as_json = request.options.flag("json");
    json::array steps;
    options.on_step = [&](const Step& step) {
        if (as_json) {
            json::object object = to_json(step.answer, step.message);
            object["zone"] = step.zone.to_text();
            object["name_server"] = step.server;
            object["depth"] = step.depth;
            steps.push_back(std::move(object));
            return;
        }
        std::string indent(static_cast<std::size_t>(step.depth) * 2, ' ');
        session.out(indent + step.zone.to_text() + " asked at " + step.server + " (" + step.answer.server.to_text() +
                    ") in " + milliseconds(static_cast<double>(step.answer.time.count()), 1) + " ms: ");
        if (!step.message.answers.empty()) {
            session.out("answer\n");
            for (const Record& record : step.message.answers) session.out(indent + "    " + record_text(record));
        } else if (step.message.code() == Rcode::NXDOMAIN || step.message.header.authoritative) {
            session.out(
                denial(step.message, step.message.questions.empty() ? step.zone : step.message.questions[0].name) +
                "\n");
        } else {
            std::string lower;
            std::string names;
            for (const Record& record : step.message.authorities)
                if (record.type == Type::NS) {
                    lower = record.name.to_text();
                    names += (names.empty() ? "" : ", ") + record.value();
                }
            session.out("see " + lower + " at " + names + "\n");
        }
        session.flush();
    };
    options.on_failure = [&](const std::string& server, const Error& error) {
        if (!as_json) session.out("    " + server + ": " + error.describe() + "\n");
    };
    int code = 0;
    for (Type type : request.types) {
        auto last = iterate({.name = request.names.back(), .type = type}, options);
        if (!last) {
            if (as_json) session.out(json::serialize(steps) + "\n");
            return std::unexpected<Error>(std::move(last).error());
        }
        if (last->message.answers.empty() && request.types.size() == 1) code = 1;
    }
    if (as_json) session.out(json::serialize(steps) + "\n");
    return code;
}

json::object times_json(const RoundTrips& times) {
    return {{"sent", times.sent()},
            {"received", times.received()},
            {"best_ms", static_cast<double>(times.best()) / 1e6},
            {"average_ms", times.average() / 1e6},
            {"worst_ms", static_cast<double>(times.worst()) / 1e6},
            {"jitter_ms", times.jitter() / 1e6}};
}

Result<int> rank_addresses(Session& session, const Request& request, const std::vector<Found>& found) {
    std::vector<SocketAddress> addresses;
    for (const Found& one : found)
        for (const Record& record : one.message.answers)
            if (record.type == Type::A || record.type == Type::AAAA)
                if (auto address = SocketAddress::parse(record.value(), 0))
                    if (std::ranges::none_of(
                            addresses, [&](const SocketAddress& known) { return known.host() == address->host(); }))
                        addresses.push_back(*address);
    if (addresses.empty()) return fail(Code::not_found, denial(found.front().message, request.names.back()));
    RankOptions options;
    options.port = static_cast<std::uint16_t>(TRY(parse_number(request.options, "rank-port", 443, 1, 65535)));
    auto ranked = rank(addresses, options);
    bool any = ranked.front().decisive().received() > 0;
    if (request.options.flag("json")) {
        json::array list;
        for (const RankedAddress& one : ranked) {
            json::object object = {
                {"address", one.address.host()}, {"tcp", times_json(one.tcp)}, {"icmp", times_json(one.icmp)}};
            if (!one.problem.empty()) object["problem"] = one.problem;
            list.push_back(std::move(object));
        }
        session.out(json::serialize(
                        json::object{{"best", any ? json::value(ranked.front().address.host()) : json::value(nullptr)},
                                     {"addresses", list}}) +
                    "\n");
        return any ? 0 : 1;
    }
    std::string table = "\tADDRESS\tBEST\tAVERAGE\tJITTER\tLOSS\tBY\n";
    for (std::size_t i = 0; i < ranked.size(); ++i) {
        const RankedAddress& one = ranked[i];
        const RoundTrips& times = one.decisive();
        table += i == 0 && any ? "*\t" : "\t";
        table += one.address.host() + "\t";
        if (times.received() == 0)
            table += "-\t-\t-\t100%\t" + (one.problem.empty() ? std::string("no answer") : one.problem) + "\n";
        else
            table += milliseconds(static_cast<double>(times.best())) + "\t" + milliseconds(times.average()) + "\t" +
                     milliseconds(times.jitter()) + "\t" + std::to_string(std::lround(times.loss() * 100)) + "%\t" +
                     (one.tcp.received() > 0 ? "TCP " + std::to_string(options.port) : "ICMP") + "\n";
    }
    session.out(align(table, {.minimum_width = 0, .padding = 2}));
    session.out(any ? "best: " + ranked.front().address.host() + "\n" : "none of them answers\n");
    return any ? 0 : 1;
}

Result<int> print_transfer(Session& session, const Request& request) {
    std::string problems;
    for (const SocketAddress& server : request.servers) {
        auto messages = transfer(server, request.names.back(), request.query);
        if (!messages) {
            problems += (problems.empty() ? "" : "; ") + messages.error().describe();
            continue;
        }
        json::array list;
        std::size_t count = 0;
        for (const Answer& answer : *messages) {
            Message message = TRY(Message::parse(answer.packet));
            if (message.rcode != 0)
                return fail(Code::permission_denied, "the server answered " + to_string(message.code()));
            if (request.options.flag("json"))
                list.push_back(to_json(answer, message));
            else
                for (const Record& record : message.answers) session.out(record_text(record));
            count += message.answers.size();
            session.flush();
        }
        if (request.options.flag("json"))
            session.out(json::serialize(list) + "\n");
        else
            session.out(";; " + std::to_string(count) + " records in " + std::to_string(messages->size()) +
                        " messages from " + server.to_text() + "\n");
        return 0;
    }
    session.error(problems);
    return exit_no_answer;
}

Result<int> lookup(Session& session, const Invocation& invocation) {
    Request request = TRY(read_request(invocation));
    if (request.types.front() == Type::AXFR) return print_transfer(session, request);
    if (request.options.flag("trace")) return trace_down(session, request);
    auto found = ask_all(request);
    if (!found) {
        session.error(found.error().describe());
        return exit_no_answer;
    }
    if (request.options.flag("rank")) return rank_addresses(session, request, *found);
    bool answered = std::ranges::any_of(*found, has_answer);
    if (request.options.flag("json")) {
        json::array list;
        for (const Found& one : *found) list.push_back(to_json(one.answer, one.message));
        session.out(json::serialize(list) + "\n");
    } else if (request.options.flag("short")) {
        for (const Found& one : *found) session.out(to_short_text(one.message));
    } else if (request.type_given) {
        for (const Found& one : *found) session.out(to_text(one.answer, one.message));
    } else if (answered) {
        print_plain(session, *found);
    } else {
        session.error(denial(found->front().message, request.names.back()));
    }
    return answered ? 0 : 1;
}

}  // namespace

void add_dns_lookup_verbs(std::vector<const Command*>& all) {
    static const Command command{
        .names = {"dns lookup"},
        .usage = "[OPTIONS] NAME|ADDRESS [TYPE] [@SERVER] [+OPTION...]",
        .summary = "Ask name servers: addresses of a name, names of an address, any record",
        .example =
            "wherry dns lookup example.org MX @9.9.9.9\nwherry dns lookup example.org --trace\nwherry dns lookup "
            "example.org --rank",
        .options = lookup_options,
        .minimum = 1,
        .run = lookup,
        .details =
            "An address gives the reverse lookup. dig's +tcp +tls +dnssec +subnet=... +short +trace +norecurse +nsid "
            "+time=... +tries=... are "
            "understood.\nExit code: 0 with an answer, 1 when there is none, 9 when no server answers.",
    };
    all.push_back(&command);
}

}  // namespace wherry::cli
