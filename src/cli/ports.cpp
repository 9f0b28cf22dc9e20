#include "cli/ports.hpp"

#include <arpa/inet.h>

#include <charconv>
#include <map>

namespace wherry::cli {

namespace {

struct Range {
    unsigned first = 0;
    unsigned last = 0;
};

Result<unsigned> parse_port(std::string_view text) {
    unsigned value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size() || value > 65535)
        return invalid("invalid port");
    return value;
}

Result<Range> parse_range(std::string_view text) {
    auto dash = text.find('-');
    Range range;
    range.first = TRY(parse_port(text.substr(0, dash)));
    range.last = dash == std::string_view::npos ? range.first : TRY(parse_port(text.substr(dash + 1)));
    if (range.last < range.first) return invalid("invalid range");
    return range;
}

bool is_address(const std::string& text) {
    in6_addr address{};
    return ::inet_pton(AF_INET, text.c_str(), &address) == 1 || ::inet_pton(AF_INET6, text.c_str(), &address) == 1;
}

bool known_protocol(std::string_view protocol) {
    return protocol == "tcp" || protocol == "udp" || protocol == "sctp";
}

std::string lower(std::string_view text) {
    std::string out(text);
    for (char& c : out)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return out;
}

Result<std::vector<PortBinding>> parse_long_form(std::string_view text) {
    std::map<std::string, std::string, std::less<>> fields;
    for (std::string_view rest = text; !rest.empty();) {
        auto comma = rest.find(',');
        std::string_view field = rest.substr(0, comma);
        rest.remove_prefix(comma == std::string_view::npos ? rest.size() : comma + 1);
        auto equals = field.find('=');
        if (equals == std::string_view::npos) return invalid("invalid field: " + std::string(field));
        std::string key = lower(field.substr(0, equals));
        if (key != "target" && key != "published" && key != "protocol" && key != "mode")
            return invalid("invalid field key: " + key);
        fields[key] = std::string(field.substr(equals + 1));
    }
    std::string protocol = fields.contains("protocol") ? lower(fields["protocol"]) : "tcp";
    if (!known_protocol(protocol)) return invalid("invalid protocol value '" + protocol + "'");
    auto target = parse_port(fields["target"]);
    if (!target) return invalid("invalid target port (" + fields["target"] + "): value must be an integer");
    if (!fields["published"].empty() && !parse_port(fields["published"]))
        return invalid("invalid published port (" + fields["published"] + "): value must be an integer");
    return std::vector<PortBinding>{{std::to_string(*target) + "/" + protocol, "", fields["published"]}};
}

}  // namespace

Result<std::vector<PortBinding>> parse_publish(std::string_view text) {
    if (text.find('=') != std::string_view::npos) return parse_long_form(text);
    std::string protocol = "tcp";
    std::string_view rest = text;
    if (auto slash = rest.rfind('/'); slash != std::string_view::npos) {
        protocol = lower(rest.substr(slash + 1));
        rest = rest.substr(0, slash);
        if (!known_protocol(protocol)) return invalid("invalid proto: " + protocol);
    }
    std::string host_ip;
    std::string_view host_port;
    std::string_view container_port = rest;
    if (auto last = rest.rfind(':'); last != std::string_view::npos) {
        container_port = rest.substr(last + 1);
        std::string_view host = rest.substr(0, last);
        auto before = host.rfind(':');
        if (host.ends_with(']')) before = std::string_view::npos;
        if (before != std::string_view::npos) {
            host_port = host.substr(before + 1);
            host = host.substr(0, before);
            if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
            host_ip = std::string(host);
            if (!host_ip.empty() && !is_address(host_ip)) return invalid("invalid IP address: " + host_ip);
        } else {
            host_port = host;
        }
    }
    if (container_port.empty()) return invalid("no port specified: " + std::string(text) + "<empty>");
    auto range = parse_range(container_port);
    if (!range) return invalid("invalid containerPort: " + std::string(container_port));
    Range published;
    if (!host_port.empty()) {
        auto parsed = parse_range(host_port);
        if (!parsed) return invalid("invalid hostPort: " + std::string(host_port));
        published = *parsed;
    }
    unsigned count = range->last - range->first;
    bool one_of_many = count == 0 && published.last != published.first;
    if (!host_port.empty() && !one_of_many && published.last - published.first != count)
        return invalid("invalid ranges specified for container and host Ports: " + std::string(container_port) +
                       " and " + std::string(host_port));
    std::vector<PortBinding> bindings;
    for (unsigned i = 0; i <= count; ++i) {
        PortBinding binding{std::to_string(range->first + i) + "/" + protocol, host_ip, ""};
        if (one_of_many)
            binding.host_port = std::string(host_port);
        else if (!host_port.empty())
            binding.host_port = std::to_string(published.first + i);
        bindings.push_back(std::move(binding));
    }
    return bindings;
}

Result<std::vector<std::string>> parse_expose(std::string_view text) {
    if (text.find(':') != std::string_view::npos)
        return invalid("invalid port format for --expose: " + std::string(text));
    std::string protocol = "tcp";
    std::string_view ports = text;
    if (auto slash = text.rfind('/'); slash != std::string_view::npos) {
        protocol = lower(text.substr(slash + 1));
        ports = text.substr(0, slash);
    }
    if (!known_protocol(protocol)) return invalid("invalid proto: " + protocol);
    auto range = parse_range(ports);
    if (!range)
        return invalid("invalid range format for --expose: " + std::string(text) +
                       ", error: " + range.error().describe());
    std::vector<std::string> all;
    for (unsigned port = range->first; port <= range->last; ++port)
        all.push_back(std::to_string(port) + "/" + protocol);
    return all;
}

}  // namespace wherry::cli
