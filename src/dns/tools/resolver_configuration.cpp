// resolv.conf(5) as far as a client needs it.
#include <algorithm>
#include <charconv>

#include "base/fd.hpp"
#include "dns/tools/client.hpp"
#include "dns/words.hpp"

namespace wherry::dns::tools {

namespace {

constexpr std::size_t most_servers = 3;  // glibc's MAXNS
constexpr std::size_t most_domains = 32;

}  // namespace

ResolverConfiguration parse_resolver_configuration(std::string_view text) {
    ResolverConfiguration found;
    while (!text.empty()) {
        std::size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        auto words = words_of(line.substr(0, line.find_first_of("#;")));
        if (words.size() < 2) continue;
        if (words[0] == "nameserver" && found.servers.size() < most_servers) {
            // A zone ("fe80::1%eth0") is not what inet_pton takes; such servers are passed over.
            if (auto address = SocketAddress::parse(words[1]); address && address->port() == 53)
                found.servers.push_back(*address);
        } else if (words[0] == "search" || words[0] == "domain") {
            found.search.clear();
            for (std::size_t i = 1; i < words.size() && found.search.size() < most_domains; ++i)
                if (auto name = Name::parse(words[i])) found.search.push_back(*name);
        } else if (words[0] == "options") {
            for (std::size_t i = 1; i < words.size(); ++i) {
                if (!words[i].starts_with("ndots:")) continue;
                unsigned value = 0;
                std::string_view digits = words[i].substr(6);
                auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
                if (error == std::errc() && stop == digits.data() + digits.size()) found.ndots = std::min(value, 15U);
            }
        }
    }
    return found;
}

ResolverConfiguration system_resolvers() {
    ResolverConfiguration found;
    if (auto text = read_file("/etc/resolv.conf", 1U << 20U)) found = parse_resolver_configuration(*text);
    if (found.servers.empty())
        if (auto local = SocketAddress::parse("127.0.0.1")) found.servers.push_back(*local);
    return found;
}

}  // namespace wherry::dns::tools
