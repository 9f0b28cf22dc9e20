#include "net/ports.hpp"

#include <netinet/in.h>

#include <charconv>

namespace wherry::net {

namespace {

std::string lower(std::string_view text) {
    std::string copy(text);
    for (char& c : copy) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    return copy;
}

// "80", all digits, at most 65535.
bool parse_port(std::string_view text, std::uint16_t& port) {
    if (text.empty() || text.size() > 5) return false;
    auto result = std::from_chars(text.data(), text.data() + text.size(), port);
    return result.ec == std::errc{} && result.ptr == text.data() + text.size();
}

std::string quoted(std::string_view text) {
    return "\"" + std::string(text) + "\"";
}

// Cuts "/udp" off.
Result<Protocol> split_protocol(std::string_view& text) {
    auto slash = text.find('/');
    if (slash == std::string_view::npos) return Protocol::tcp;
    std::string_view name = text.substr(slash + 1);
    text = text.substr(0, slash);
    if (name.empty()) return Protocol::tcp;
    return parse_protocol(name);
}

Result<std::vector<ContainerPort>> parse_container_ports(std::string_view text, std::string_view whole) {
    std::string_view numbers = text;
    Protocol protocol = TRY(split_protocol(numbers));
    auto range = parse_port_range(numbers, ZeroPort::refused);
    if (!range)
        return fail(Code::invalid_argument, "invalid containerPort: " + std::string(numbers.empty() ? whole : numbers));
    std::vector<ContainerPort> ports;
    for (std::uint32_t port = range->first; port <= range->last; ++port)
        ports.push_back({static_cast<std::uint16_t>(port), protocol});
    return ports;
}

}  // namespace

std::string_view to_string(Protocol protocol) {
    switch (protocol) {
        case Protocol::tcp:
            return "tcp";
        case Protocol::udp:
            return "udp";
        case Protocol::sctp:
            return "sctp";
    }
    return "tcp";
}

Result<Protocol> parse_protocol(std::string_view text) {
    std::string name = lower(text);
    if (name.empty() || name == "tcp") return Protocol::tcp;
    if (name == "udp") return Protocol::udp;
    if (name == "sctp") return Protocol::sctp;
    return fail(Code::invalid_argument, "invalid proto: " + std::string(text));
}

std::uint8_t ip_protocol_number(Protocol protocol) {
    switch (protocol) {
        case Protocol::tcp:
            return IPPROTO_TCP;
        case Protocol::udp:
            return IPPROTO_UDP;
        case Protocol::sctp:
            return IPPROTO_SCTP;
    }
    return IPPROTO_TCP;
}

Result<PortRange> parse_port_range(std::string_view text, ZeroPort zero) {
    PortRange range;
    if (text.empty() && zero == ZeroPort::allowed) return range;
    auto dash = text.find('-');
    bool good = parse_port(text.substr(0, dash), range.first);
    range.last = range.first;
    if (dash != std::string_view::npos) good = good && parse_port(text.substr(dash + 1), range.last);
    if (!good) return fail(Code::invalid_argument, "invalid port range " + quoted(text));
    if (range.last < range.first)
        return fail(Code::invalid_argument, "invalid port range " + quoted(text) + ": it ends before it starts");
    if (range.first == 0 && (zero == ZeroPort::refused || range.last != 0))
        return fail(Code::invalid_argument, "invalid port range " + quoted(text) + ": port 0");
    return range;
}

Result<ContainerPort> ContainerPort::parse(std::string_view text) {
    std::string_view number = text;
    auto protocol = split_protocol(number);
    ContainerPort result;
    if (!protocol || !parse_port(number, result.port) || result.port == 0)
        return fail(Code::invalid_argument, "invalid port specification: " + quoted(text));
    result.protocol = *protocol;
    return result;
}

std::string ContainerPort::to_string() const {
    return std::to_string(port) + "/" + std::string(net::to_string(protocol));
}

Result<std::vector<PortRequest>> parse_publish(std::string_view spec) {
    // From the right: the container's ports, the host's, and what is left is an address, which may hold colons.
    std::string_view rest = spec;
    auto cut = [&rest]() -> std::string_view {
        auto colon = rest.rfind(':');
        std::string_view part = colon == std::string_view::npos ? rest : rest.substr(colon + 1);
        rest = colon == std::string_view::npos ? std::string_view{} : rest.substr(0, colon);
        return part;
    };
    const bool has_host = rest.find(':') != std::string_view::npos;
    std::string_view container_text = cut();
    const bool has_address = has_host && rest.find(':') != std::string_view::npos;
    std::string_view host_text = has_host ? cut() : std::string_view{};
    std::string_view address_text = has_address ? rest : std::string_view{};

    std::string_view numbers = container_text.substr(0, container_text.find('/'));
    if (numbers.empty()) return fail(Code::invalid_argument, "no port specified: " + std::string(spec) + "<empty>");
    IpAddress address;
    if (!address_text.empty()) {
        if (address_text.front() == '[' && address_text.back() == ']')
            address_text = address_text.substr(1, address_text.size() - 2);
        auto parsed = IpAddress::parse(address_text);
        if (!parsed) return fail(Code::invalid_argument, "invalid IP address: " + std::string(address_text));
        address = *parsed;
    }
    std::vector<ContainerPort> container = TRY(parse_container_ports(container_text, spec));
    auto host = parse_port_range(host_text, ZeroPort::allowed);
    if (!host) return fail(Code::invalid_argument, "invalid hostPort: " + std::string(host_text));
    const bool any = host->first == 0;
    // Docker: one container port may take any of a host range; two ranges have to match one to one.
    if (!any && container.size() != 1 && host->size() != container.size())
        return fail(Code::invalid_argument, "invalid ranges specified for container and host Ports: " +
                                                std::string(numbers) + " and " + std::string(host_text));
    std::vector<PortRequest> requests;
    for (std::size_t i = 0; i < container.size(); ++i) {
        PortRequest request{container[i], address, *host};
        if (!any && container.size() > 1) {
            request.host_ports.first = static_cast<std::uint16_t>(host->first + i);
            request.host_ports.last = request.host_ports.first;
        }
        requests.push_back(request);
    }
    return requests;
}

Result<std::vector<ContainerPort>> parse_expose(std::string_view spec) {
    auto ports = parse_container_ports(spec, spec);
    if (!ports) return fail(Code::invalid_argument, "invalid range format for --expose: " + std::string(spec));
    return std::move(*ports);
}

Result<PortRequest> parse_binding(std::string_view container_port, std::string_view host_ip,
                                  std::string_view host_port) {
    PortRequest request;
    request.container = TRY(ContainerPort::parse(container_port));
    if (!host_ip.empty()) {
        auto address = IpAddress::parse(host_ip);
        if (!address)
            return fail(Code::invalid_argument, "invalid IP address in port mapping: " + std::string(host_ip));
        request.host_address = *address;
    }
    auto range = parse_port_range(host_port, ZeroPort::allowed);
    if (!range) return fail(Code::invalid_argument, "invalid port specification: " + quoted(host_port));
    request.host_ports = *range;
    return request;
}

}  // namespace wherry::net
