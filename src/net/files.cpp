#include "net/files.hpp"

#include <algorithm>

#include "base/fd.hpp"

namespace wherry::net {

namespace {

std::vector<std::string> words(std::string_view line) {
    std::vector<std::string> result;
    constexpr std::string_view blank = " \t\r\f\v";
    while (true) {
        auto start = line.find_first_not_of(blank);
        if (start == std::string_view::npos) return result;
        line = line.substr(start);
        auto end = line.find_first_of(blank);
        result.emplace_back(line.substr(0, end));
        if (end == std::string_view::npos) return result;
        line = line.substr(end);
    }
}

// A resolver's address may carry a zone: fe80::1%eth0.
std::string_view without_zone(std::string_view address) {
    return address.substr(0, address.find('%'));
}

bool has_control_or_blank(std::string_view text) {
    return std::ranges::any_of(text, [](char c) { return static_cast<unsigned char>(c) <= ' ' || c == 0x7f; });
}

bool good_label(std::string_view label) {
    if (label.empty() || label.size() > 63 || label.front() == '-' || label.back() == '-') return false;
    return std::ranges::all_of(label, [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
    });
}

bool good_name(std::string_view name) {
    if (name.empty() || name.size() > 253) return false;
    while (true) {
        auto dot = name.find('.');
        if (!good_label(name.substr(0, dot))) return false;
        if (dot == std::string_view::npos) return true;
        name = name.substr(dot + 1);
    }
}

std::string joined(const std::vector<std::string>& parts) {
    std::string line;
    for (const std::string& part : parts) {
        if (!line.empty()) line += ' ';
        line += part;
    }
    return line;
}

}  // namespace

Result<HostEntry> parse_extra_host(std::string_view text, const IpAddress& host_gateway) {
    // A name has neither ':' nor '=', so the first of them ends it; what follows may be an IPv6 address.
    auto separator = text.find_first_of(":=");
    if (separator == std::string_view::npos || separator == 0 || separator + 1 == text.size())
        return fail(Code::invalid_argument, "invalid add-host: \"" + std::string(text) + "\"");
    HostEntry entry;
    entry.name = text.substr(0, separator);
    std::string_view address = text.substr(separator + 1);
    if (has_control_or_blank(entry.name) || entry.name.find('#') != std::string::npos)
        return fail(Code::invalid_argument, "invalid add-host: \"" + std::string(text) + "\"");
    if (address == "host-gateway") {
        if (!host_gateway.is_set())
            return fail(Code::invalid_argument,
                        "unable to derive the IP value for host-gateway: the network has no gateway");
        entry.address = host_gateway.to_string();
        return entry;
    }
    if (address.size() > 2 && address.front() == '[' && address.back() == ']')
        address = address.substr(1, address.size() - 2);
    if (!IpAddress::parse(address))
        return fail(Code::invalid_argument, "invalid IP address in add-host: \"" + std::string(address) + "\"");
    entry.address = address;
    return entry;
}

std::string make_hosts_file(const HostsFile& hosts) {
    std::string text =
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::\tip6-localnet\n"
        "ff00::\tip6-mcastprefix\n"
        "ff02::1\tip6-allnodes\n"
        "ff02::2\tip6-allrouters\n";
    for (const HostEntry& entry : hosts.extra) text += entry.address + "\t" + entry.name + "\n";
    std::string names = hosts.hostname;
    if (!hosts.domainname.empty()) names = hosts.hostname + "." + hosts.domainname + " " + hosts.hostname;
    // A dotted host name is also known by its first label.
    else if (auto dot = hosts.hostname.find('.'); dot != std::string::npos)
        names += " " + hosts.hostname.substr(0, dot);
    for (const IpAddress& address : hosts.addresses) text += address.to_string() + "\t" + names + "\n";
    return text;
}

std::string make_hostname_file(std::string_view hostname) {
    return std::string(hostname) + "\n";
}

ResolverConfig parse_resolver_config(std::string_view text) {
    ResolverConfig config;
    while (!text.empty()) {
        auto end = text.find('\n');
        std::string_view line = text.substr(0, end);
        text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
        // resolv.conf(5): comments start with ; or #; glibc takes them at the line's start only, others anywhere.
        line = line.substr(0, line.find_first_of("#;"));
        if (line.find('\0') != std::string_view::npos) continue;
        std::vector<std::string> parts = words(line);
        if (parts.size() < 2) continue;
        std::string keyword = parts.front();
        parts.erase(parts.begin());
        if (keyword == "nameserver") {
            if (IpAddress::parse(without_zone(parts.front()))) config.servers.push_back(parts.front());
        } else if (keyword == "search" || keyword == "domain") {
            if (keyword == "domain") parts.resize(1);
            config.search = std::move(parts);
        } else if (keyword == "options") {
            config.options.insert(config.options.end(), parts.begin(), parts.end());
        }
    }
    return config;
}

Result<ResolverConfig> read_host_resolver(const std::string& path, const std::string& resolved_path) {
    constexpr std::size_t limit = 64U << 10U;
    auto read = [](const std::string& file) -> Result<ResolverConfig> {
        auto text = read_file(file, limit);
        if (!text) {
            if (text.error().code() == Code::not_found) return ResolverConfig{};
            return std::unexpected(std::move(text).error());
        }
        return parse_resolver_config(*text);
    };
    ResolverConfig config = TRY(read(path), "the host's resolvers");
    if (config.servers.size() == 1 && config.servers.front() == "127.0.0.53") {
        // systemd-resolved's stub: its upstream servers are in a file of its own.
        ResolverConfig upstream = TRY(read(resolved_path), "systemd-resolved's resolvers");
        if (!upstream.servers.empty()) return upstream;
    }
    return config;
}

Result<> validate(const ResolverOverrides& overrides) {
    for (const std::string& server : overrides.servers) {
        if (!IpAddress::parse(without_zone(server)) || has_control_or_blank(server))
            return fail(Code::invalid_argument, "bad nameserver address: " + server + " is not an ip address");
    }
    for (const std::string& domain : overrides.search) {
        std::string_view name = domain;
        if (name == ".") continue;
        if (name.ends_with('.')) name.remove_suffix(1);
        if (!good_name(name)) return fail(Code::invalid_argument, domain + " is not a valid domain");
    }
    for (const std::string& option : overrides.options) {
        if (option.empty() || has_control_or_blank(option))
            return fail(Code::invalid_argument, "invalid DNS option: \"" + option + "\"");
    }
    return {};
}

ResolverConfig container_resolver(const ResolverConfig& host, const ResolverOverrides& overrides,
                                  ResolverNetwork network) {
    ResolverConfig config;
    if (!overrides.servers.empty()) {
        config.servers = overrides.servers;
    } else {
        for (const std::string& server : host.servers) {
            auto address = IpAddress::parse(without_zone(server));
            if (network == ResolverNetwork::own) {
                // Neither the host's loopback nor its links' zones mean anything in there.
                if (!address || address->is_loopback() || server.find('%') != std::string::npos) continue;
            }
            config.servers.push_back(server);
        }
        if (config.servers.empty() && network == ResolverNetwork::own) config.servers = {"8.8.8.8", "8.8.4.4"};
    }
    config.search = overrides.search.empty() ? host.search : overrides.search;
    if (config.search == std::vector<std::string>{"."}) config.search.clear();
    config.options = overrides.options.empty() ? host.options : overrides.options;
    return config;
}

std::string make_resolver_file(const ResolverConfig& config) {
    std::string text;
    for (const std::string& server : config.servers) text += "nameserver " + server + "\n";
    if (!config.search.empty()) text += "search " + joined(config.search) + "\n";
    if (!config.options.empty()) text += "options " + joined(config.options) + "\n";
    return text;
}

Result<> validate_hostname(std::string_view name) {
    // The kernel keeps 64 bytes.
    if (name.size() > 63 && name.find('.') == std::string_view::npos)
        return fail(Code::invalid_argument,
                    "invalid hostname \"" + std::string(name) + "\": longer than 63 characters");
    if (!good_name(name) || name.size() > 64)
        return fail(Code::invalid_argument, "invalid hostname \"" + std::string(name) + "\"");
    return {};
}

}  // namespace wherry::net
