#include "dns/steering/config.hpp"

#include <algorithm>
#include <charconv>

#include "base/clock.hpp"
#include "base/encoding.hpp"
#include "http/client.hpp"

namespace wherry::dns::steering {

namespace {

constexpr std::size_t most_sites = 1000;

class Reader {
  public:
    Reader(std::string file, std::string folder) : file_(std::move(file)), folder_(std::move(folder)) {}

    Result<SteeringConfig> read(const std::vector<ConfigStatement>& block) {
        // Sites first: everything else names them.
        for (const ConfigStatement& s : block)
            if (s.words[0] == "site") TRY(site(s), here(s));
        for (const ConfigStatement& s : block) {
            if (s.words[0] == "site") continue;
            if (s.words[0] == "name")
                TRY(name(s), here(s));
            else if (s.words[0] == "sender")
                TRY(sender(s), here(s));
            else
                TRY(setting(s), here(s));
        }
        if (config_.sites.empty()) return fail(Code::invalid_argument, file_ + ": steering has no site");
        if (config_.names.empty()) return fail(Code::invalid_argument, file_ + ": steering has no name");
        return std::move(config_);
    }

  private:
    std::string here(const ConfigStatement& s) const { return file_ + ":" + std::to_string(s.line); }
    static std::unexpected<Error> wrong(const ConfigStatement& s, std::string_view usage) {
        return fail(Code::invalid_argument, "\"" + s.words[0] + "\" takes " + std::string(usage));
    }
    std::unexpected<Error> unknown(const ConfigStatement& s) const {
        return fail(Code::invalid_argument,
                    here(s) + ": \"" + s.words[0].substr(0, 64) + "\" is not a statement known here");
    }

    static Result<double> number_of(const ConfigStatement& s, const std::string& text, double least, double most) {
        double value = 0;
        auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error == std::errc() && stop == text.data() + text.size() && value >= least && value <= most) return value;
        return wrong(s, "numbers from " + std::to_string(static_cast<long>(least)) + " to " +
                            std::to_string(static_cast<long>(most)));
    }
    static Result<double> number(const ConfigStatement& s, double least, double most) {
        if (s.words.size() != 2 || s.has_block) return wrong(s, "a number");
        return number_of(s, s.words[1], least, most);
    }
    static Result<unsigned> whole(const ConfigStatement& s, unsigned least, unsigned most) {
        double value = TRY(number(s, least, most));
        if (value != static_cast<double>(static_cast<unsigned>(value))) return wrong(s, "a whole number");
        return static_cast<unsigned>(value);
    }
    static Result<std::string> text(const ConfigStatement& s) {
        if (s.words.size() != 2 || s.has_block || s.words[1].size() > 4096) return wrong(s, "one word");
        return s.words[1];
    }
    std::string path(const std::string& text) const {
        return text.starts_with('/') || folder_.empty() ? text : folder_ + "/" + text;
    }
    Result<SiteIndex> site_of(const std::string& name) const {
        if (auto index = config_.site(name)) return *index;
        return fail(Code::not_found, "there is no site " + name.substr(0, 64));
    }

    Result<> site(const ConfigStatement& s) {
        if (s.words.size() != 2 || !s.has_block) return wrong(s, "a name and a block");
        if (config_.site(s.words[1])) return fail(Code::already_exists, "site " + s.words[1] + " is there already");
        if (config_.sites.size() >= most_sites) return fail(Code::resource_exhausted, "too many sites");
        SiteConfig site{.name = s.words[1]};
        for (const ConfigStatement& inner : s.block) TRY(site_statement(site, inner), here(inner));
        if (site.addresses.empty()) return fail(Code::invalid_argument, "site " + site.name + " has no address");
        if (site.quorum > site.checks.size())
            return fail(Code::invalid_argument, "site " + site.name + ": quorum is more than its checks");
        config_.sites.push_back(std::move(site));
        return {};
    }

    Result<> site_statement(SiteConfig& site, const ConfigStatement& s) {
        const std::string& word = s.words[0];
        if (word == "address") {
            if (s.words.size() < 2) return wrong(s, "addresses");
            for (std::size_t i = 1; i < s.words.size(); ++i) {
                SocketAddress address = TRY(SocketAddress::parse(s.words[i], 0));
                if (address.port() != 0) return wrong(s, "addresses without a port");
                site.addresses.push_back(address);
            }
        } else if (word == "weight") {
            site.weight = TRY(number(s, 0, 1e6));
        } else if (word == "capacity") {
            // What a site can carry is its share where sites share.
            site.weight = TRY(number(s, 1, 1e9));
        } else if (word == "priority") {
            site.priority = TRY(whole(s, 0, 1000));
        } else if (word == "drain") {
            if (s.words.size() != 1) return wrong(s, "nothing");
            site.drain = true;
        } else if (word == "location") {
            if (s.words.size() != 3) return wrong(s, "degrees north and east");
            site.location = std::pair(TRY(number_of(s, s.words[1], -90, 90)), TRY(number_of(s, s.words[2], -180, 180)));
        } else if (word == "quorum") {
            site.quorum = TRY(whole(s, 1, 100));
        } else if (word == "check") {
            TRY(check(site, s));
        } else {
            return unknown(s);
        }
        return {};
    }

    Result<> check(SiteConfig& site, const ConfigStatement& s) {
        CheckConfig check;
        if (s.words.size() < 3) return wrong(s, "tcp ADDRESS:PORT, http URL or command PROGRAM ARGUMENTS, and a block");
        if (s.words[1] == "tcp" && s.words.size() == 3) {
            check.address = TRY(SocketAddress::parse(s.words[2], 0));
            if (check.address.port() == 0) return wrong(s, "an address with a port");
        } else if (s.words[1] == "http" && s.words.size() == 3) {
            check.kind = CheckConfig::Kind::http;
            check.url = s.words[2];
            if (!check.url.starts_with("http://") && !check.url.starts_with("https://"))
                return wrong(s, "a URL of http or https");
            std::string_view rest = std::string_view(check.url).substr(check.url.find("//") + 2);
            std::string authority =
                check.url.substr(0, check.url.find("//") + 2) + std::string(rest.substr(0, rest.find('/')));
            (void)TRY(http::parse_endpoint(authority));
        } else if (s.words[1] == "command") {
            check.kind = CheckConfig::Kind::command;
            check.command.assign(s.words.begin() + 2, s.words.end());
            if (!check.command[0].starts_with('/')) return wrong(s, "an absolute path of a program");
        } else {
            return wrong(s, "tcp ADDRESS:PORT, http URL or command PROGRAM ARGUMENTS, and a block");
        }
        for (const ConfigStatement& inner : s.block) {
            if (inner.words[0] == "every")
                check.every =
                    std::chrono::milliseconds(static_cast<long>(1000 * TRY(number(inner, 0.05, 3600), here(inner))));
            else if (inner.words[0] == "timeout")
                check.timeout =
                    std::chrono::milliseconds(static_cast<long>(1000 * TRY(number(inner, 0.01, 300), here(inner))));
            else if (inner.words[0] == "rise")
                check.rise = TRY(whole(inner, 1, 100), here(inner));
            else if (inner.words[0] == "fall")
                check.fall = TRY(whole(inner, 1, 100), here(inner));
            else if (inner.words[0] == "expect")
                check.expect = TRY(whole(inner, 100, 599), here(inner));
            else
                return unknown(inner);
        }
        site.checks.push_back(std::move(check));
        return {};
    }

    Result<> sender(const ConfigStatement& s) {
        if (s.words.size() != 2 || !s.has_block) return wrong(s, "a name and a block");
        SenderConfig sender{.name = s.words[1]};
        for (const ConfigStatement& inner : s.block) {
            if (inner.words[0] == "site") {
                sender.site = TRY(text(inner), here(inner));
                (void)TRY(site_of(sender.site), here(inner));
            } else if (inner.words[0] == "secret") {
                sender.secret = TRY(base64_decode(TRY(text(inner), here(inner))), here(inner) + ": secret");
            } else {
                return unknown(inner);
            }
        }
        if (sender.site.empty() || sender.secret.size() < 16)
            return fail(Code::invalid_argument, "a sender has a site and a secret of at least 16 bytes in base64");
        for (const SenderConfig& other : config_.senders)
            if (other.name == sender.name)
                return fail(Code::already_exists, "sender " + sender.name + " is there already");
        config_.senders.push_back(std::move(sender));
        return {};
    }

    Result<> name(const ConfigStatement& s) {
        if (s.words.size() != 2 || !s.has_block) return wrong(s, "a name and a block");
        SteeredName steered{.name = TRY(Name::parse(s.words[1]))};
        for (const ConfigStatement& inner : s.block) TRY(name_statement(steered, inner), here(inner));
        if (steered.sites.empty())
            for (std::size_t i = 0; i < config_.sites.size(); ++i) steered.sites.push_back(static_cast<SiteIndex>(i));
        if (steered.policies.empty()) steered.policies = {Policy::latency, Policy::geo, Policy::failover};
        for (const auto& [prefix, site] : steered.overrides)
            if (std::ranges::find(steered.sites, site) == steered.sites.end())
                return fail(Code::invalid_argument,
                            "override " + prefix.to_text() + ": the name is not at site " + config_.sites[site].name);
        for (const SteeredName& other : config_.names)
            if (other.name == steered.name)
                return fail(Code::already_exists, "name " + s.words[1] + " is there already");
        config_.names.push_back(std::move(steered));
        return {};
    }

    Result<> name_statement(SteeredName& steered, const ConfigStatement& s) {
        const std::string& word = s.words[0];
        if (word == "sites") {
            for (std::size_t i = 1; i < s.words.size(); ++i) {
                SiteIndex site = TRY(site_of(s.words[i]));
                if (std::ranges::find(steered.sites, site) == steered.sites.end()) steered.sites.push_back(site);
            }
            if (steered.sites.empty()) return wrong(s, "names of sites");
        } else if (word == "policy") {
            for (std::size_t i = 1; i < s.words.size(); ++i) {
                if (s.words[i] == "latency")
                    steered.policies.push_back(Policy::latency);
                else if (s.words[i] == "geo")
                    steered.policies.push_back(Policy::geo);
                else if (s.words[i] == "weighted")
                    steered.policies.push_back(Policy::weighted);
                else if (s.words[i] == "failover")
                    steered.policies.push_back(Policy::failover);
                else
                    return wrong(s, "latency, geo, weighted and failover, in the order they are tried");
            }
            if (steered.policies.empty())
                return wrong(s, "latency, geo, weighted and failover, in the order they are tried");
        } else if (word == "ttl") {
            steered.ttl = TRY(whole(s, 0, 86400));
        } else if (word == "answers") {
            steered.answers = TRY(whole(s, 1, 16));
        } else if (word == "tolerance") {
            steered.tolerance = TRY(number(s, 0, 1000));
        } else if (word == "confidence") {
            steered.least_confidence = static_cast<float>(TRY(number(s, 0, 1)));
        } else if (word == "all-down") {
            std::string what = TRY(text(s));
            if (what != "all" && what != "none") return wrong(s, "all or none");
            steered.all_down = what == "all" ? AllDown::all : AllDown::none;
        } else if (word == "override") {
            if (s.words.size() != 3) return wrong(s, "a prefix and a site");
            Prefix prefix = TRY(Prefix::parse(s.words[1]));
            if (prefix.ipv6 && prefix.length > 64) return wrong(s, "IPv6 prefixes of at most 64 bits");
            steered.overrides.emplace_back(prefix, TRY(site_of(s.words[2])));
        } else if (word == "planned-move") {
            if (s.words.size() != 3) return wrong(s, "a time (RFC 3339) and the TTL until then");
            WallTime time = TRY(parse_rfc3339(s.words[1]));
            auto ttl = static_cast<std::uint32_t>(TRY(number_of(s, s.words[2], 0, 86400)));
            steered.planned =
                std::pair(ttl, std::chrono::duration_cast<std::chrono::seconds>(time.time_since_epoch()).count());
        } else {
            return unknown(s);
        }
        return {};
    }

    Result<> setting(const ConfigStatement& s) {
        const std::string& word = s.words[0];
        if (word == "control") {
            if (s.words.size() < 2) return wrong(s, "addresses");
            for (std::size_t i = 1; i < s.words.size(); ++i)
                config_.control.push_back(TRY(SocketAddress::parse(s.words[i], 8053)));
        } else if (word == "state") {
            config_.state = path(TRY(text(s)));
        } else if (word == "query-log") {
            config_.query_log = path(TRY(text(s)));
        } else if (word == "geo") {
            config_.geo = path(TRY(text(s)));
        } else if (word == "quorum") {
            config_.latency.quorum = TRY(whole(s, 1, 64));
        } else if (word == "half-life") {
            config_.latency.half_life = TRY(whole(s, 1, 365 * 86400));
        } else if (word == "lifetime") {
            config_.latency.lifetime = TRY(whole(s, 1, 365 * 86400));
        } else {
            return unknown(s);
        }
        return {};
    }

    std::string file_;
    std::string folder_;
    SteeringConfig config_;
};

}  // namespace

std::vector<std::optional<std::pair<double, double>>> SteeringConfig::locations() const {
    std::vector<std::optional<std::pair<double, double>>> all;
    for (const SiteConfig& one : sites) all.push_back(one.location);
    return all;
}

std::optional<SiteIndex> SteeringConfig::site(std::string_view name) const {
    for (std::size_t i = 0; i < sites.size(); ++i)
        if (sites[i].name == name) return static_cast<SiteIndex>(i);
    return std::nullopt;
}

Result<SteeringConfig> parse_steering(const std::vector<ConfigStatement>& block, const std::string& file,
                                      const std::string& folder) {
    return Reader(file, folder).read(block);
}

}  // namespace wherry::dns::steering
