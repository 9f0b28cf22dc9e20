// wherry-dns: an authoritative name server.
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
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
#include "dns/server.hpp"

namespace {

using namespace wherry;
using namespace wherry::dns;

constexpr const char* usage =
    R"(Usage: wherry-dns --zone NAME=FILE [--zone NAME=FILE ...] [OPTIONS]

An authoritative DNS server for the zones given.

Options:
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

SIGHUP reads the zone files again: a zone that does not parse keeps its old content.
Example: wherry-dns --zone example.org=example.org.zone --listen 127.0.0.1:5353
)";

struct ZoneFile {
    Name origin;
    std::string path;
};

struct Options {
    std::vector<ZoneFile> zones;
    ServerOptions server;
    ResponderOptions responder;
    std::string user;
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
    for (int i = 1; i < argc; ++i) {
        std::string_view flag = argv[i];
        std::string_view value;
        if (auto equals = flag.find('='); flag.starts_with("--") && equals != std::string_view::npos) {
            value = flag.substr(equals + 1);
            flag = flag.substr(0, equals);
        } else if (i + 1 < argc) {
            value = argv[++i];
        } else {
            return fail(Code::invalid_argument, std::string(flag) + " needs a value, or is not known: see --help");
        }
        if (flag == "--zone") {
            auto equals = value.find('=');
            if (equals == std::string_view::npos) return fail(Code::invalid_argument, "--zone takes NAME=FILE");
            options.zones.push_back({TRY(Name::parse(value.substr(0, equals))), std::string(value.substr(equals + 1))});
        } else if (flag == "--listen") {
            options.server.listen.push_back(TRY(SocketAddress::parse(value)));
        } else if (flag == "--threads") {
            options.server.threads = TRY(parse_number<unsigned>(value, flag, 1, 256));
        } else if (flag == "--udp-size") {
            options.responder.udp_payload_bytes = TRY(parse_number<std::uint16_t>(value, flag, 512, 4096));
        } else if (flag == "--nsid") {
            options.responder.nsid = value.substr(0, 255);
        } else if (flag == "--server-version") {
            options.responder.version = value.substr(0, 255);
        } else if (flag == "--user") {
            options.user = value;
        } else if (flag == "--log-level") {
            set_log_level(TRY(parse_log_level(value)));
        } else {
            return fail(Code::invalid_argument, "unknown option " + std::string(flag) + ": see --help");
        }
    }
    if (options.zones.empty()) return fail(Code::invalid_argument, "no --zone: nothing to serve; see --help");
    if (options.server.listen.empty())
        for (const char* address : {"127.0.0.1", "[::1]"})
            options.server.listen.push_back(TRY(SocketAddress::parse(address)));
    return options;
}

Result<> drop_privileges(const std::string& user) {
    const passwd* entry = ::getpwnam(user.c_str());
    if (entry == nullptr) return fail(Code::not_found, "no user " + user);
    if (::setgroups(0, nullptr) < 0 || ::setgid(entry->pw_gid) < 0 || ::setuid(entry->pw_uid) < 0)
        return fail_errno("change to user " + user);
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return fail_errno("no_new_privs");
    return {};
}

// The zones of the files; one that cannot be read keeps what `old` has of it, where there is something.
Result<std::shared_ptr<const ZoneSet>> load_zones(const Options& options, const ZoneSet* old) {
    std::vector<std::shared_ptr<const Zone>> zones;
    for (const ZoneFile& file : options.zones) {
        auto zone = load_zone(file.origin, file.path);
        if (zone) {
            log_info(
                "zone.load",
                {{"zone", file.origin.to_text()}, {"serial", (*zone)->serial()}, {"records", (*zone)->record_count()}});
            zones.push_back(std::move(*zone));
            continue;
        }
        if (old == nullptr) return std::unexpected(std::move(zone).error().context("zone " + file.origin.to_text()));
        log_error("zone.load_failed", {{"zone", file.origin.to_text()}, {"error", zone.error()}});
        for (const auto& kept : old->zones())
            if (kept->origin() == file.origin) zones.push_back(kept);
    }
    return ZoneSet::create(std::move(zones));
}

Result<> run(Options options) {
    // Signals are read from a descriptor; blocked before any thread starts.
    sigset_t signals;
    ::sigemptyset(&signals);
    for (int signal : {SIGHUP, SIGTERM, SIGINT}) ::sigaddset(&signals, signal);
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    Fd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC));
    if (!signal_fd) return fail_errno("signalfd");
    // SAFETY: random bytes into a byte array.
    fill_random(std::as_writable_bytes(std::span(options.responder.cookie_secret)));
    auto zones = TRY(load_zones(options, nullptr));
    auto server = TRY(Server::create(options.server, Responder(options.responder), zones));
    if (!options.user.empty()) TRY(drop_privileges(options.user));
    server->start();
    for (const SocketAddress& address : server->addresses())
        log_info("server.listen", {{"address", address.to_text()}});
    while (true) {
        signalfd_siginfo info{};
        if (::read(signal_fd.get(), &info, sizeof info) != sizeof info) return fail_errno("signals");
        if (info.ssi_signo != SIGHUP) break;
        auto reloaded = load_zones(options, zones.get());
        if (!reloaded) {
            log_error("server.reload_failed", {{"error", reloaded.error()}});
            continue;
        }
        zones = *reloaded;
        server->set_zones(zones);
        log_info("server.reloaded", {{"zones", zones->zones().size()}});
    }
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
    if (auto result = run(std::move(*options)); !result) {
        std::fprintf(stderr, "wherry-dns: %s\n", result.error().describe().c_str());
        return 1;
    }
    return 0;
}
