// wherry-dns: an authoritative name server.
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/id.hpp"
#include "base/log.hpp"
#include "confinement.hpp"
#include "dns/config.hpp"
#include "dns/dnssec.hpp"
#include "dns/keeper.hpp"
#include "dns/metrics.hpp"
#include "dns/server.hpp"
#include "dns/signer_process.hpp"
#include "dns/steering/service.hpp"
#include "dns/tls.hpp"
#include "processes.hpp"

namespace {

using namespace wherry;
using namespace wherry::dns;

constexpr const char* usage =
    R"(Usage: wherry-dns --config FILE [--check]
       wherry-dns --zone NAME=FILE [--zone NAME=FILE ...] [OPTIONS]

An authoritative DNS server.

Options:
  --config FILE         what to serve and how (docs/dns.md); takes the place of the options below
  --list-ds ZONE        print the DS records that ZONE's parent is to have
  --roll-key ZONE       make a new key for ZONE, published beside the old one at the next reload; prints its DS record
  --retire-keys ZONE    the parent has the DS of the newest key: the older ones go
  --check               read the configuration and the zones' files, say what is wrong with them, and end
  --zone NAME=FILE      serve the zone NAME from the master file FILE (several)
  --listen ADDR[:PORT]  address to serve on, UDP and TCP (several; default 127.0.0.1:53 and [::1]:53)
  --threads N           threads, each with sockets of its own (default 1)
  --nsid TEXT           answer NSID requests and id.server with TEXT
  --server-version TEXT answer version.bind with TEXT (default: refused)
  --udp-size BYTES      largest UDP answer, 512-4096 (default 1232)
  --user NAME           change to this user once the sockets are bound
  --log-level LEVEL     debug, info, warn or error (default info)
  --version             print the version
  -h, --help            print this

SIGHUP reads the configuration and the zone files again: a zone that does not parse keeps its old content.
Example: wherry-dns --zone example.org=example.org.zone --listen 127.0.0.1:5353
)";

struct Options {
    Config config;
    std::string config_path;
    bool check = false;
    std::string key_command;
    Name key_zone;
};

template <class Number>
Result<Number> parse_number(std::string_view text, std::string_view flag, Number least, Number most) {
    Number value{};
    auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || stop != text.data() + text.size() || value < least || value > most)
        return fail(Code::invalid_argument, std::string(flag) + " takes a number from " + std::to_string(least) +
                                                " to " + std::to_string(most));
    return value;
}

Result<Options> parse_options(int argc, char** argv) {
    Options options;
    Config& config = options.config;
    bool others = false;
    for (int i = 1; i < argc; ++i) {
        std::string_view flag = argv[i];
        std::string_view value;
        if (flag == "--check") {
            options.check = true;
            continue;
        }
        if (auto equals = flag.find('='); flag.starts_with("--") && equals != std::string_view::npos) {
            value = flag.substr(equals + 1);
            flag = flag.substr(0, equals);
        } else if (i + 1 < argc) {
            value = argv[++i];
        } else {
            return fail(Code::invalid_argument, std::string(flag) + " needs a value, or is not known: see --help");
        }
        if (flag == "--config") {
            options.config_path = value;
            continue;
        }
        if (flag == "--list-ds" || flag == "--roll-key" || flag == "--retire-keys") {
            options.key_command = flag;
            options.key_zone = TRY(Name::parse(value));
            continue;
        }
        others = true;
        if (flag == "--zone") {
            auto equals = value.find('=');
            if (equals == std::string_view::npos) return fail(Code::invalid_argument, "--zone takes NAME=FILE");
            ZoneConfig zone{.origin = TRY(Name::parse(value.substr(0, equals)))};
            zone.file = value.substr(equals + 1);
            config.zones.push_back(std::move(zone));
        } else if (flag == "--listen") {
            config.server.listen.push_back(TRY(SocketAddress::parse(value)));
        } else if (flag == "--threads") {
            config.server.threads = TRY(parse_number<unsigned>(value, flag, 1, 256));
        } else if (flag == "--udp-size") {
            config.responder.udp_payload_bytes = TRY(parse_number<std::uint16_t>(value, flag, 512, 4096));
        } else if (flag == "--nsid") {
            config.responder.nsid = value.substr(0, 255);
        } else if (flag == "--server-version") {
            config.responder.version = value.substr(0, 255);
        } else if (flag == "--user") {
            config.user = value;
        } else if (flag == "--log-level") {
            set_log_level(TRY(parse_log_level(value)));
        } else {
            return fail(Code::invalid_argument, "unknown option " + std::string(flag) + ": see --help");
        }
    }
    if (!options.config_path.empty()) {
        if (others) return fail(Code::invalid_argument, "--config takes the place of the other options");
        options.config = TRY(load_config(options.config_path));
        if (options.config.log_level) set_log_level(*options.config.log_level);
    } else if (config.zones.empty()) {
        return fail(Code::invalid_argument, "no --config and no --zone: nothing to serve; see --help");
    }
    return options;
}

// What is done to a zone's keys from outside of the server.
Result<> work_on_keys(const Options& options) {
    for (const ZoneConfig& zone : options.config.zones) {
        if (!(zone.origin == options.key_zone) || !zone.signing) continue;
        const std::uint8_t algorithm = zone.signing->algorithm == "ed25519" ? algorithm_ed25519 : algorithm_ecdsa_p256;
        std::string text;
        if (options.key_command == "--retire-keys")
            TRY(retire_old_keys(zone.origin, zone.signing->keys, algorithm));
        else if (options.key_command == "--roll-key")
            text = TRY(roll_key(zone.origin, zone.signing->keys, algorithm)) + "\n";
        else
            text = TRY(list_ds(zone.origin, zone.signing->keys, algorithm));
        std::fputs(text.c_str(), stdout);
        return {};
    }
    return fail(Code::not_found, "no zone " + options.key_zone.to_text() + " with \"sign\" in the configuration");
}

int check(const Options& options) {
    int wrong = 0;
    if (!options.config.steering.empty()) {
        auto steered = steering::parse_steering(options.config.steering, options.config.file, options.config.folder);
        if (!steered) {
            std::fprintf(stderr, "wherry-dns: %s\n", steered.error().describe().c_str());
            wrong = 1;
        }
    }
    for (const ZoneConfig& zone : options.config.zones) {
        if (zone.file.empty()) continue;
        auto loaded = load_zone(zone.origin, zone.file);
        if (loaded) {
            std::printf("zone %s: serial %u, %zu records\n", zone.origin.to_text().c_str(), (*loaded)->serial(),
                        (*loaded)->record_count());
        } else {
            std::fprintf(stderr, "wherry-dns: zone %s: %s\n", zone.origin.to_text().c_str(),
                         loaded.error().describe().c_str());
            wrong = 1;
        }
    }
    return wrong;
}

Result<> run(Options options) {
    // Signals are read from a descriptor; blocked before any thread starts.
    sigset_t signals;
    ::sigemptyset(&signals);
    for (int signal : {SIGHUP, SIGTERM, SIGINT}) ::sigaddset(&signals, signal);
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    Fd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC));
    if (!signal_fd) return fail_errno("signalfd");
    Config config = std::move(options.config);
    if (!config.cookie_secret_given) {
        // SAFETY: random bytes into a byte array.
        fill_random(std::as_writable_bytes(std::span(config.responder.cookie_secret)));
    }
    if (config.server.listen.empty() && config.server.listen_tls.empty())
        for (const char* address : {"127.0.0.1", "[::1]"})
            config.server.listen.push_back(TRY(SocketAddress::parse(address)));
    if (!config.tls_certificate.empty())
        config.server.tls = TRY(TlsContext::create(config.tls_certificate, config.tls_key));
    // One thread so far: these fork.
    auto checks = TRY(start_checks(config, options.config_path));
    std::shared_ptr<SignerClient> signer = TRY(start_signing(config, checks.get()));
    auto keeper = TRY(Keeper::create(config, options.config_path));
    if (signer) keeper->set_signer(signer);
    config.server.control = keeper.get();
    auto server = TRY(Server::create(config.server, Responder(config.responder), std::make_shared<const ZoneSet>()));
    keeper->attach(*server);
    std::unique_ptr<steering::SteeringService> dispatch;
    if (!config.steering.empty()) dispatch = TRY(steering::SteeringService::create(config, *keeper, checks));
    std::unique_ptr<MetricsServer> metrics;
    if (!config.metrics.empty()) metrics = TRY(MetricsServer::create(config.metrics));
    TRY(confine_server(config, *keeper));
    TRY(keeper->load());
    TRY(confine_system_calls(ConfinedProcess::server));
    server->start();
    if (dispatch) dispatch->start();
    if (metrics) metrics->start([&] { return render_metrics(*server, *keeper); });
    for (const SocketAddress& address : server->addresses())
        log_info("server.listen", {{"address", address.to_text()}});
    for (const SocketAddress& address : server->tls_addresses())
        log_info("server.listen_tls", {{"address", address.to_text()}});
    keeper->run(signal_fd.get());
    dispatch.reset();
    metrics.reset();
    server->stop();
    return {};
}

}  // namespace

int main(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
        std::string_view argument = argv[i];
        if (argument == "-h" || argument == "--help") return std::fputs(usage, stdout), 0;
        if (argument == "--version") return std::printf("wherry-dns %s\n", WHERRY_VERSION), 0;
    }
    auto options = parse_options(argc, argv);
    if (!options) {
        std::fprintf(stderr, "wherry-dns: %s\n", options.error().describe().c_str());
        return 2;
    }
    if (options->check) return check(*options);
    if (auto result = !options->key_command.empty() ? work_on_keys(*options) : run(std::move(*options)); !result) {
        std::fprintf(stderr, "wherry-dns: %s\n", result.error().describe().c_str());
        return 1;
    }
    return 0;
}
