// What /etc/hosts, /etc/hostname and /etc/resolv.conf of a container hold. Pure functions of their inputs, apart
// from read_host_resolver(). Writing the files is the caller's business.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "net/address.hpp"

namespace wherry::net {

// One line more in /etc/hosts.
struct HostEntry {
    std::string name;
    std::string address;  // as given; validated by parse_extra_host
};

// --add-host's "name:ip" or "name=ip" (ip may be in brackets, or the word host-gateway, which becomes
// `host_gateway`). Docker's words on errors: invalid add-host: "x". invalid_argument also when host-gateway is asked
// for and `host_gateway` is not set (a network without a bridge).
Result<HostEntry> parse_extra_host(std::string_view text, const IpAddress& host_gateway);

struct HostsFile {
    std::string hostname;
    std::string domainname;            // may be empty
    std::vector<IpAddress> addresses;  // the container's own; one line each with its names
    std::vector<HostEntry> extra;      // in order
};
std::string make_hosts_file(const HostsFile& hosts);
std::string make_hostname_file(std::string_view hostname);  // with its newline

struct ResolverConfig {
    std::vector<std::string> servers;  // addresses
    std::vector<std::string> search;   // domains
    std::vector<std::string> options;  // "ndots:2"
};

// Parses resolv.conf(5); unknown lines and malformed server addresses are skipped. The last search or domain line wins.
ResolverConfig parse_resolver_config(std::string_view text);

// The host's resolvers: `path`, or systemd-resolved's upstream list when `path` only names its stub 127.0.0.53.
// A missing file is an empty configuration.
Result<ResolverConfig> read_host_resolver(const std::string& path = "/etc/resolv.conf",
                                          const std::string& resolved_path = "/run/systemd/resolve/resolv.conf");

struct ResolverOverrides {
    std::vector<std::string> servers;  // --dns
    std::vector<std::string> search;   // --dns-search; a single "." means none at all
    std::vector<std::string> options;  // --dns-option
};
Result<> validate(const ResolverOverrides& overrides);  // addresses and domains; Docker's words

enum class ResolverNetwork : unsigned char {
    own,   // a namespace of its own: the host's loopback resolvers can't be reached and are left out
    host,  // --network host: everything stays
};
// What is given overrides the host's, category by category. With a namespace of its own and no server left,
// 8.8.8.8 and 8.8.4.4, as Docker does.
ResolverConfig container_resolver(const ResolverConfig& host, const ResolverOverrides& overrides,
                                  ResolverNetwork network);
std::string make_resolver_file(const ResolverConfig& config);

// RFC 1123 host name for --hostname, at most 63 bytes... longer dotted names are allowed up to 253 as Docker does.
Result<> validate_hostname(std::string_view name);

}  // namespace wherry::net
