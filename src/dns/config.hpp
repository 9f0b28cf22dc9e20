// What a configuration file of wherry-dns says. docs/dns.md describes the statements.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.hpp"
#include "base/result.hpp"
#include "dns/access.hpp"
#include "dns/config_tree.hpp"
#include "dns/responder.hpp"
#include "dns/server.hpp"
#include "dns/tsig.hpp"

namespace wherry::dns {

// Another server, and the key that messages to it are signed with.
struct Remote {
    SocketAddress address;
    std::optional<Name> key;
};

struct SigningConfig {
    std::string algorithm = "ecdsap256sha256";  // or ed25519
    std::string keys;                           // directory
    bool nsec3 = false;                         // zero iterations, no salt; else compact denial (RFC 9824)
    std::uint32_t signature_seconds = 14 * 86400;
    std::uint32_t zone_key_seconds = 0;  // the zone signing key is replaced that often; 0: never
    bool operator==(const SigningConfig&) const = default;
};

enum class CatalogRole : unsigned char { none, consumer, producer };

struct ZoneConfig {
    Name origin;
    std::string file;               // primary
    std::vector<Remote> primaries;  // secondary
    std::vector<Remote> notify;
    ZoneAccess access;
    std::optional<SigningConfig> signing;
    CatalogRole catalog = CatalogRole::none;
    std::shared_ptr<const ZoneConfig> members;  // consumer: what each member is like, but for its name
    std::optional<Name> member_of;              // the producer it is listed in

    bool is_secondary() const { return !primaries.empty(); }
    bool is_dynamic() const { return !access.update.rules.empty(); }
};

struct Config {
    ServerOptions server;
    ResponderOptions responder;
    bool cookie_secret_given = false;
    std::string user;
    std::string signer_user;  // of the process with the keys; empty: it keeps its user
    std::string chroot;
    std::string state;  // directory of journals and of what secondaries got
    std::string tls_certificate;
    std::string tls_key;
    std::vector<SocketAddress> metrics;
    std::optional<LogLevel> log_level;
    std::shared_ptr<KeyRing> keys = std::make_shared<KeyRing>();
    std::vector<ZoneConfig> zones;
    std::vector<ConfigStatement>
        steering;        // the statements of the steering block, as they stand (dns/steering reads them)
    std::string file;    // this configuration's, for messages about them
    std::string folder;  // that file names in it are relative to
};

// File names in it are relative to `folder`. Nothing is opened.
Result<Config> parse_config(std::string_view text, std::string_view name, const std::string& folder);
Result<Config> load_config(const std::string& path);

}  // namespace wherry::dns
