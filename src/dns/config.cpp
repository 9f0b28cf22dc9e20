#include "dns/config.hpp"

#include <charconv>

#include "base/encoding.hpp"
#include "base/fd.hpp"
#include "base/id.hpp"
#include "base/log.hpp"

namespace wherry::dns {

namespace {

using Words = std::vector<std::string>;

class ConfigReader {
  public:
    ConfigReader(std::string_view name, std::string folder) : name_(name), folder_(std::move(folder)) {}

    Result<Config> read(const std::vector<ConfigStatement>& tree) {
        // Keys first: everything else may name them.
        for (const ConfigStatement& s : tree)
            if (s.words[0] == "key") TRY(key(s), here(s));
        for (const ConfigStatement& s : tree) {
            const std::string& word = s.words[0];
            if (word == "key") continue;
            if (word == "server")
                TRY(server(s), here(s));
            else if (word == "steering")
                config_.steering.insert(config_.steering.end(), s.block.begin(), s.block.end());
            else if (word == "zone" || word == "catalog")
                TRY(top_zone(s), here(s));
            else
                return unknown(s);
        }
        for (const ZoneConfig& zone : config_.zones) {
            const std::string text = "zone " + zone.origin.to_text();
            if (zone.is_dynamic() && config_.state.empty())
                return fail(Code::invalid_argument, text + " allows updates: the server needs a \"state\" directory");
            if (zone.member_of) {
                bool found = false;
                for (const ZoneConfig& other : config_.zones)
                    found = found || (other.origin == *zone.member_of && other.catalog == CatalogRole::producer);
                if (!found)
                    return fail(Code::invalid_argument,
                                text + ": no catalog of its own is " + zone.member_of->to_text());
            }
        }
        config_.file = name_;
        config_.folder = folder_;
        return std::move(config_);
    }

  private:
    std::string here(const ConfigStatement& s) const { return name_ + ":" + std::to_string(s.line); }
    std::unexpected<Error> unknown(const ConfigStatement& s) const {
        return fail(Code::invalid_argument,
                    here(s) + ": \"" + s.words[0].substr(0, 64) + "\" is not a statement known here");
    }
    static std::unexpected<Error> wrong(const ConfigStatement& s, std::string_view usage) {
        return fail(Code::invalid_argument, "\"" + s.words[0] + "\" takes " + std::string(usage));
    }
    std::string path(const std::string& text) const {
        return text.starts_with('/') || folder_.empty() ? text : folder_ + "/" + text;
    }
    template <class Number>
    static Result<Number> number(const ConfigStatement& s, Number least, Number most) {
        Number value{};
        if (s.words.size() == 2) {
            const std::string& text = s.words[1];
            auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
            if (error == std::errc() && stop == text.data() + text.size() && value >= least && value <= most)
                return value;
        }
        return wrong(s, "a number from " + std::to_string(least) + " to " + std::to_string(most));
    }
    static Result<std::string> text(const ConfigStatement& s, std::size_t most = 4096) {
        if (s.words.size() != 2 || s.has_block || s.words[1].size() > most) return wrong(s, "one word");
        return s.words[1];
    }
    static Result<bool> on_off(const ConfigStatement& s) {
        if (s.words.size() == 2 && (s.words[1] == "on" || s.words[1] == "off")) return s.words[1] == "on";
        return wrong(s, "on or off");
    }

    Result<> key(const ConfigStatement& s) {
        if (s.words.size() != 2 || !s.has_block) return wrong(s, "a name and a block");
        TsigKey made{.name = TRY(Name::parse(s.words[1]))};
        for (const ConfigStatement& inner : s.block) {
            if (inner.words[0] == "algorithm") {
                made.algorithm = TRY(parse_tsig_algorithm(TRY(text(inner))), here(inner));
            } else if (inner.words[0] == "secret") {
                std::string bytes = TRY(base64_decode(TRY(text(inner))), here(inner) + ": secret");
                made.secret.assign(bytes.begin(), bytes.end());
            } else {
                return unknown(inner);
            }
        }
        if (made.secret.empty()) return fail(Code::invalid_argument, "key " + s.words[1] + " has no secret");
        return config_.keys->add(std::move(made));
    }

    Result<Name> known_key(const std::string& word) const {
        Name name = TRY(Name::parse(word));
        if (!config_.keys->find(name)) return fail(Code::not_found, "there is no key " + word.substr(0, 300));
        return name;
    }

    Result<> server(const ConfigStatement& s) {
        if (s.words.size() != 1 || !s.has_block) return wrong(s, "a block");
        for (const ConfigStatement& inner : s.block) TRY(server_statement(inner), here(inner));
        return {};
    }

    Result<> server_statement(const ConfigStatement& s) {
        const std::string& word = s.words[0];
        auto addresses = [&](std::vector<SocketAddress>& list, std::uint16_t port) -> Result<> {
            if (s.words.size() < 2) return wrong(s, "addresses");
            for (std::size_t i = 1; i < s.words.size(); ++i)
                list.push_back(TRY(SocketAddress::parse(s.words[i], port)));
            return {};
        };
        ServerOptions& options = config_.server;
        ResponderOptions& responder = config_.responder;
        if (word == "listen") return addresses(options.listen, 53);
        if (word == "listen-tls") return addresses(options.listen_tls, 853);
        if (word == "metrics") return addresses(config_.metrics, 9153);
        if (word == "threads") {
            options.threads = TRY(number<unsigned>(s, 1, 256));
        } else if (word == "tcp-connections") {
            options.tcp_connections = TRY(number<std::size_t>(s, 1, 1'000'000));
        } else if (word == "tcp-idle") {
            options.tcp_idle_ms = 1000 * TRY(number<unsigned>(s, 1, 3600));
            responder.tcp_keepalive_ds = static_cast<std::uint16_t>(options.tcp_idle_ms / 100);
        } else if (word == "rate-limit") {
            options.rate_limit = TRY(number<unsigned>(s, 0, 1'000'000));
        } else if (word == "rate-slip") {
            options.rate_slip = TRY(number<unsigned>(s, 0, 100));
        } else if (word == "udp-size") {
            responder.udp_payload_bytes = TRY(number<std::uint16_t>(s, 512, 4096));
        } else if (word == "nsid") {
            responder.nsid = TRY(text(s, 255));
        } else if (word == "version") {
            responder.version = TRY(text(s, 255));
        } else if (word == "cookies") {
            responder.cookies = TRY(on_off(s));
        } else if (word == "cookie-secret") {
            std::string bytes = TRY(unhex(TRY(text(s))));
            if (bytes.size() != responder.cookie_secret.size()) return wrong(s, "32 hexadecimal digits");
            std::copy(bytes.begin(), bytes.end(), responder.cookie_secret.begin());
            config_.cookie_secret_given = true;
        } else if (word == "user") {
            config_.user = TRY(text(s));
        } else if (word == "signer-user") {
            config_.signer_user = TRY(text(s));
        } else if (word == "chroot") {
            config_.chroot = path(TRY(text(s)));
        } else if (word == "state") {
            config_.state = path(TRY(text(s)));
        } else if (word == "tls-certificate") {
            config_.tls_certificate = path(TRY(text(s)));
        } else if (word == "tls-key") {
            config_.tls_key = path(TRY(text(s)));
        } else if (word == "log-level") {
            config_.log_level = TRY(parse_log_level(TRY(text(s))));
        } else {
            return fail(Code::invalid_argument, "\"" + word.substr(0, 64) + "\" is not a statement of \"server\"");
        }
        return {};
    }

    // ADDRESS [key NAME]
    Result<Remote> remote(const ConfigStatement& s) {
        if (s.words.size() != 2 && !(s.words.size() == 4 && s.words[2] == "key")) return wrong(s, "ADDRESS [key NAME]");
        Remote made{.address = TRY(SocketAddress::parse(s.words[1]))};
        if (s.words.size() == 4) made.key = TRY(known_key(s.words[3]));
        return made;
    }

    // PREFIX | any, key NAME, or both: all must match.
    Result<> rule(const ConfigStatement& s, AccessList& list) {
        AccessRule made;
        bool any = false;
        for (std::size_t i = 1; i < s.words.size(); ++i) {
            if (s.words[i] == "key" && i + 1 < s.words.size() && !made.key)
                made.key = TRY(known_key(s.words[++i]));
            else if (s.words[i] == "any" && !any && !made.prefix)
                any = true;
            else if (!made.prefix && !any)
                made.prefix = TRY(AddressPrefix::parse(s.words[i]));
            else
                return wrong(s, "PREFIX or any, and key NAME");
        }
        if (any && !made.key) {
            list.rules.push_back({.prefix = TRY(AddressPrefix::parse("0.0.0.0/0"))});
            made.prefix = TRY(AddressPrefix::parse("::/0"));
        }
        if (!made.prefix && !made.key) return wrong(s, "PREFIX or any, and key NAME");
        list.rules.push_back(std::move(made));
        return {};
    }

    Result<SigningConfig> signing(const ConfigStatement& s) {
        SigningConfig made;
        if (s.words.size() != 1) return wrong(s, "a block");
        for (const ConfigStatement& inner : s.block) {
            const std::string& word = inner.words[0];
            if (word == "keys") {
                made.keys = path(TRY(text(inner), here(inner)));
            } else if (word == "algorithm") {
                made.algorithm = TRY(text(inner), here(inner));
                if (made.algorithm != "ecdsap256sha256" && made.algorithm != "ed25519")
                    return fail(Code::invalid_argument, here(inner) + ": algorithm is ecdsap256sha256 or ed25519");
            } else if (word == "denial") {
                std::string kind = TRY(text(inner), here(inner));
                if (kind != "compact" && kind != "nsec3")
                    return fail(Code::invalid_argument, here(inner) + ": denial is compact or nsec3");
                made.nsec3 = kind == "nsec3";
            } else if (word == "signature-lifetime") {
                made.signature_seconds = TRY(parse_ttl(TRY(text(inner), here(inner))), here(inner));
                if (made.signature_seconds < 600)
                    return fail(Code::invalid_argument, here(inner) + ": signatures must last ten minutes");
            } else if (word == "zone-key-lifetime") {
                made.zone_key_seconds = TRY(parse_ttl(TRY(text(inner), here(inner))), here(inner));
            } else {
                return unknown(inner);
            }
        }
        if (made.keys.empty()) return fail(Code::invalid_argument, "\"sign\" needs a directory of \"keys\"");
        return made;
    }

    Result<> zone_statement(const ConfigStatement& s, ZoneConfig& zone) {
        const std::string& word = s.words[0];
        if (word == "file") {
            zone.file = path(TRY(text(s)));
        } else if (word == "primary") {
            zone.primaries.push_back(TRY(remote(s)));
        } else if (word == "notify") {
            zone.notify.push_back(TRY(remote(s)));
        } else if (word == "allow-transfer") {
            return rule(s, zone.access.transfer);
        } else if (word == "allow-update") {
            return rule(s, zone.access.update);
        } else if (word == "allow-notify") {
            return rule(s, zone.access.notify);
        } else if (word == "sign") {
            zone.signing = TRY(signing(s));
        } else if (word == "member-of") {
            zone.member_of = TRY(Name::parse(TRY(text(s))));
        } else if (word == "members" && zone.catalog != CatalogRole::none) {
            auto members = std::make_shared<ZoneConfig>();
            for (const ConfigStatement& inner : s.block) TRY(zone_statement(inner, *members), here(inner));
            if (members->primaries.empty() || !members->file.empty())
                return fail(Code::invalid_argument, "the members of a catalog need a primary");
            zone.members = std::move(members);
        } else {
            return fail(Code::invalid_argument, "\"" + word.substr(0, 64) + "\" is not a statement of a zone");
        }
        return {};
    }

    Result<> top_zone(const ConfigStatement& s) {
        if (s.words.size() != 2 || !s.has_block) return wrong(s, "a name and a block");
        ZoneConfig zone{.origin = TRY(Name::parse(s.words[1]))};
        const bool catalog = s.words[0] == "catalog";
        if (catalog) zone.catalog = CatalogRole::producer;
        for (const ConfigStatement& inner : s.block) TRY(zone_statement(inner, zone), here(inner));
        const std::string name = zone.origin.to_text();
        if (catalog) {
            if (zone.members || zone.is_secondary() || !zone.file.empty()) {
                zone.catalog = CatalogRole::consumer;
                if (!zone.members) return fail(Code::invalid_argument, "catalog " + name + " needs \"members\"");
            }
        }
        if (zone.file.empty() && zone.primaries.empty() && zone.catalog != CatalogRole::producer)
            return fail(Code::invalid_argument, "zone " + name + " needs a \"file\" or a \"primary\"");
        if (!zone.file.empty() && !zone.primaries.empty())
            return fail(Code::invalid_argument, "zone " + name + " has a \"file\" and a \"primary\"");
        for (const ZoneConfig& other : config_.zones)
            if (other.origin == zone.origin) return fail(Code::already_exists, "zone " + name + " is given twice");
        config_.zones.push_back(std::move(zone));
        return {};
    }

    std::string name_;
    std::string folder_;
    Config config_;
};

}  // namespace

Result<Config> parse_config(std::string_view text, std::string_view name, const std::string& folder) {
    std::vector<ConfigStatement> tree = TRY(parse_config_tree(text, name));
    return ConfigReader(name, folder).read(tree);
}

Result<Config> load_config(const std::string& path) {
    std::string text = TRY(read_file(path));
    auto slash = path.rfind('/');
    return parse_config(text, path, slash == std::string::npos ? "" : path.substr(0, slash == 0 ? 1 : slash));
}

}  // namespace wherry::dns
